"""Points, bookmarks, AppShots and recovery, over the real socket and with real journals; guests are imitated."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from recovery import boot as recovery_boot
from tests.plugins.kit import Site, replay
from tests.receiver.double import DISK_BYTES


def test_a_bookmark_now_is_a_point_that_can_be_recovered_to(protected: Site) -> None:
    made = protected.json("bookmark", "web01", "good")
    assert made["consistency"] == "crash" and made["wall"] > 0 and made["frozen"] is None
    shown = protected.json("points", "web01")
    assert [(point["label"], point["lsn"], point["kind"]) for point in shown["points"]] == [
        ("good", made["lsn"], "bookmark")
    ]
    assert shown["cuts"] > 1 and [r["quality"] for r in shown["ranges"]] == ["exact"]
    assert len(protected.json("points", "web01", "--all")["points"]) > 1
    text = protected.ask("points", "web01").out
    assert "good" in text and "more cuts have no name" in text


def test_every_point_that_is_listed_can_be_recovered_to(protected: Site, tmp_path: Path) -> None:
    protected.json("bookmark", "web01", "now")
    listed = protected.json("points", "web01", "--all")
    assert listed["points"] and listed["cuts"] == len(listed["points"])
    first = min(reach["first_lsn"] for reach in listed["ranges"] if reach["quality"] == "exact")
    assert all(point["lsn"] >= first for point in listed["points"])
    assert listed["latest_wall"] >= max(point["wall"] for point in listed["points"])
    protected.json("recover", f"web01@{listed['latest']}", "--to", str(tmp_path / "latest.raw"))
    assert (tmp_path / "latest.raw").exists()


def test_a_bookmark_of_the_past_names_exactly_that_point(protected: Site) -> None:
    first = protected.json("bookmark", "web01", "one")
    protected.json("bookmark", "web01", "two")
    named = protected.json("bookmark", "web01", "was-good", "--at", f"lsn:{first['lsn']}")
    assert named["lsn"] == first["lsn"]
    assert "was-good" in [point["label"] for point in protected.json("points", "web01")["points"]]
    away = protected.ask("bookmark", "web01", "x", "--at", "-10d", "--json")
    assert (away.status, away.error["code"]) == (3, "point-not-found")


def test_an_appshot_says_its_consistency_and_how_long_it_stood_frozen(protected: Site) -> None:
    made = protected.json("appshot", "web01", "nightly")
    assert (made["name"], made["consistency"], made["frozen"]) == ("nightly", "app", 7_000_000)
    unnamed = protected.json("appshot", "web01")
    assert unnamed["name"].startswith("appshot-2")
    assert "Consistency  app" in protected.ask("appshot", "web01", "another").out


def test_a_name_is_given_to_one_point_only(protected: Site) -> None:
    protected.json("bookmark", "web01", "good")
    for words in (
        ("bookmark", "web01", "good"),
        ("appshot", "web01", "good"),
        ("bookmark", "web01", "good", "--at", "latest"),
    ):
        answer = protected.ask(*words, "--json")
        assert (answer.status, answer.error["code"]) == (6, "name-taken"), words


def test_both_image_formats_hold_what_the_tap_had_sent_up_to_the_point(
    protected: Site, tmp_path: Path
) -> None:
    lsn = protected.json("bookmark", "web01", "good")["lsn"]
    raw = protected.json("recover", "web01@good", "--to", str(tmp_path / "good.raw"))
    assert raw["point"]["lsn"] == lsn and raw["point"]["consistency"] == "crash"
    assert [(file["disk"], file["disk_bytes"]) for file in raw["files"]] == [("vda", DISK_BYTES)]
    assert (tmp_path / "good.raw").read_bytes() == replay(protected.tap("web01"), lsn)
    assert protected.ask("recover", "web01@good", "--to", str(tmp_path / "good.qcow2")).status == 0
    compare = ["qemu-img", "compare", str(tmp_path / "good.raw"), str(tmp_path / "good.qcow2")]
    assert subprocess.run(compare, capture_output=True, timeout=60).returncode == 0


def test_what_cannot_be_written_is_refused_before_anything_is(protected: Site, tmp_path: Path) -> None:
    there = tmp_path / "there.raw"
    there.write_text("mine")
    for name, status, code in (
        ("there.raw", 6, "image-exists"),
        ("x.vmdk", 2, "unknown-image-format"),
        ("x", 2, "unknown-image-format"),
        ("no/such/x.raw", 4, "image-not-written"),
    ):
        answer = protected.ask("recover", "web01@latest", "--to", str(tmp_path / name), "--json")
        assert (answer.status, answer.error["code"], answer.out) == (status, code, ""), name
    assert there.read_text() == "mine" and not (tmp_path / "no").exists()
    assert [file.name for file in tmp_path.glob("*.raw")] == ["there.raw"]


def test_unknown_vms_points_disks_and_hypervisors_offer_the_nearest(protected: Site, tmp_path: Path) -> None:
    protected.json("bookmark", "web01", "quiet")
    to = ("--to", str(tmp_path / "x.raw"))
    for words, status, offered in (
        (("protect", "web03"), 3, "web01 or web02"),
        (("protect", "web01", "--hypervisor", "sorce"), 3, "source"),
        (("vm", "list", "sorce"), 3, "source"),
        (("hypervisor", "check", "sorce"), 3, "source"),
        (("hypervisor", "remove", "sorce"), 3, "source"),
        (("unprotect", "web1"), 3, "web01"),
        (("status", "web1"), 3, "web01"),
        (("points", "web1"), 3, "web01"),
        (("bookmark", "web1", "x"), 3, "web01"),
        (("appshot", "web1"), 3, "web01"),
        (("recover", "web1@latest", *to), 3, "web01"),
        (("recover", "web01@quite", *to), 3, "quiet"),
        (("recover", "web01@cut:99999", *to), 3, "cut:"),
        (("recover", "web01@latest", *to, "--disk", "vdz"), 3, "vda"),
        (("recover", "web01@latest", "--boot", "sorce"), 3, "source"),
        (("recover", "web01", *to), 2, "web01@latest"),
        (("recover", "web01@1999-99-99", *to), 2, "ISO time"),
        (("bookmark", "web01", "bad name"), 2, "letter or a digit"),
        (("hypervisor", "add", "x", "ftp://x"), 2, "memory://"),
        (("hypervisor", "add", "bad name", "memory://x"), 2, "letter or a digit"),
        (("hypervisor", "remove", "source"), 6, "unprotect"),
    ):
        answer = protected.ask(*words, "--json")
        assert answer.status == status, (words, answer)
        assert offered in answer.error["hint"], (words, answer.error)
        plain = protected.ask(*words)
        assert "error: " in plain.err and offered in plain.err.partition("\nhint: ")[2]
    assert not (tmp_path / "x.raw").exists()


def test_a_copy_boots_from_exports_pinned_to_the_point_though_the_source_is_gone(
    protected: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        recovery_boot, "wait_until_answering", lambda *_a, **_k: 0.1
    )  # nothing runs in this adapter
    lsn = protected.json("bookmark", "web01", "good")["lsn"]
    protected.guests.close()
    source = protected.vm_id("web01")
    protected.hypervisor.stop(source)
    protected.hypervisor.delete_vm(source)
    result = protected.json("recover", "web01@good", "--boot", "source", "--name", "copy", "--no-pull")
    assert (result["name"], result["hypervisor"], result["local"]) == ("copy", "source", False)
    assert result["point"]["lsn"] == lsn and result["answering_seconds"] >= result["started_seconds"] >= 0
    copy = protected.hypervisor.find("copy")
    assert copy.spec.memory_bytes == 1 << 30
    export = copy.exports["vda"]
    assert (export.export, f"{export.host}:{export.port}") == (
        f"web01/vda@lsn:{lsn}",
        protected.settings.nbd.advertise,
    )
    pulled = protected.json("recover", "web01@good", "--boot", "source", "--name", "copy2")
    assert pulled["local"] and pulled["local_seconds"] is not None
    taken = protected.ask("recover", "web01@good", "--boot", "source", "--name", "copy", "--json")
    assert (taken.status, taken.error["code"]) == (6, "vm-exists")


def test_options_that_make_no_sense_together_are_named(protected: Site) -> None:
    for words, why in (
        (("recover", "web01@latest"), "either --to FILE or --boot HYPERVISOR"),
        (("recover", "web01@latest", "--to", "x.raw", "--boot", "source"), "either --to FILE or --boot"),
        (("recover", "web01@latest", "--to", "x.raw", "--name", "y"), "--name goes with --boot"),
        (("recover", "web01@latest", "--boot", "source", "--disk", "vda"), "--disk goes with --to"),
        (("protect",), "VM"),
        (("protect", "web01", "--no-such"), "--no-such"),
        (("protect", "web01", "--timeout", "soon"), "--timeout"),
    ):
        answer = protected.ask(*words)
        assert answer.status == 2 and why in answer.err, (words, answer)


def test_lists_show_what_is_there(protected: Site) -> None:
    vms = {vm["name"]: vm for vm in protected.json("vm", "list")["vms"]}
    assert vms["web01"]["protected"] and not vms["web02"]["protected"]
    assert [disk["name"] for disk in vms["web02"]["disks"]] == ["vda", "vdb"]
    assert "web02" in protected.ask("vm", "list", "source").out
    assert [row["name"] for row in protected.json("hypervisor", "list")["hypervisors"]] == ["source"]
    check = protected.json("hypervisor", "check", "source")
    assert check["capabilities"]["nbd_boot"] and check["vms"] == 3
    assert all(finding["ok"] for finding in check["findings"])
    assert "Protected" in protected.ask("status").out and "Ring" in protected.ask("status", "web01").out
