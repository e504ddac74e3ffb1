"""`lastwrite journal ...` as a person at a shell uses it: no server, no catalog, a folder."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from journal.scan import SegmentScan
from journal.writer import JournalWriter
from plugins.cli.help import statuses_of
from plugins.cli.main import find, run
from plugins.cli.progress import Pace
from tests.journal.tap import WALL, Tap
from tests.journal.test_damage import DISK, flip

Capture = pytest.CaptureFixture[str]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folder = tmp_path / "web01"
    with JournalWriter.create(folder, "web01", segment_bytes=60_000) as writer:
        tap = Tap(writer, {0: DISK, 1: DISK})
        tap.protect()
        for number in range(12):
            tap.mono += 10**9
            tap.write(0, number % 4 * 8, bytes([number + 65]) * 4096)
        tap.cut("bookmark", "before-upgrade")
        tap.write(1, 0, b"u" * 512)
        writer.fork(9, "drill")
    return folder


def ask(capsys: Capture, *words: object) -> tuple[int, str, str]:
    """Status, stdout and stderr of one command line; the status stands in the command's help."""
    line = [str(word) for word in words]
    capsys.readouterr()
    status = run(line)
    printed = capsys.readouterr()
    assert status in [known for known, _ in statuses_of(find(line))]
    return status, printed.out, printed.err


def answer(capsys: Capture, *words: object) -> Any:
    status, out, _ = ask(capsys, *words, "--json")
    assert status in (0, 5)
    return json.loads(out)


def segments(folder: Path) -> list[Path]:
    return sorted((folder / "timelines/0001").glob("*.seg"))


def frames(path: Path) -> list[tuple[int, int]]:
    """(offset, end) of the frames with data of a segment."""
    scan = SegmentScan(path, int(path.stem))
    scan.extend()
    rows = scan.frames.array()
    return [(int(r["offset"]), int(r["data"] + r["data_bytes"])) for r in rows if r["data_bytes"]]


def hurt_data(path: Path) -> None:
    flip(path, frames(path)[-1][1] - 1)


def test_info_is_worth_reading(journal: Path, capsys: Capture) -> None:
    status, out, _ = ask(capsys, "journal", "info", journal)
    assert status == 0
    lines = out.splitlines()
    assert any(line.split() == ["VM", "web01"] for line in lines)
    history = next(line for line in lines if line.startswith("History "))
    assert "2023-11-14T22:13:20.001Z to 2023-11-14T22:13:32" in history and "(12.0 s)" in history
    assert any(line.startswith("Writing") and ("direct" in line or "buffered" in line) for line in lines)
    damage = next(line for line in lines if line.startswith("Damage"))
    assert "no damage in the metadata and heads; data was not read, `lastwrite journal check` does" in damage
    assert "  └ 2 drill, forked at LSN 9" in out
    assert any(line.split()[:1] == ["exact"] and "14" in line.split() for line in lines)
    assert any(line.split()[:1] == ["before-upgrade"] for line in lines)
    assert any(line.split()[:2] == ["0", "vda"] for line in lines)
    assert "1700000000" not in out  # nobody can read nanoseconds
    told = answer(capsys, "journal", "info", journal)
    assert told["data_read"] is False and told["timelines"][0]["ranges"][1]["kind"] == "exact"


def test_info_tells_what_is_lost(journal: Path, capsys: Capture) -> None:
    (journal / "JOURNAL").unlink()
    segments(journal)[2].unlink()
    status, out, _ = ask(capsys, "journal", "info", journal)
    assert status == 0 and "Lost: the file JOURNAL is missing" in out and "damaged" in out
    assert "timelines/0001/" in out and "is missing or cut short" in out


def test_check_names_the_damage_and_ends_with_5(journal: Path, capsys: Capture) -> None:
    assert ask(capsys, "journal", "check", journal)[0] == 0
    hurt_data(segments(journal)[1])
    status, out, _ = ask(capsys, "journal", "check", journal)
    assert status == 5 and "the data does not match its checksum" in out and segments(journal)[1].name in out
    told = answer(capsys, "journal", "check", journal)
    assert not told["ok"] and len(told["damaged"]) == 1
    (journal / "JOURNAL").write_text(json.dumps({"format": 99}))
    status, _, err = ask(capsys, "journal", "check", journal)
    assert status == 7 and "99" in err
    assert ask(capsys, "journal", "check", journal.parent)[0] == 3


def test_rescue_refuses_then_does_what_it_can(journal: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "good"
    status, shown, _ = ask(capsys, "journal", "rescue", journal, "before-upgrade", out)
    assert status == 0 and "Every byte is that of the point." in shown
    assert (out / "vda.raw").read_bytes()[:4096] == b"I" * 4096 and (out / "vdb.raw").stat().st_size == DISK
    assert ask(capsys, "journal", "rescue", journal, "latest", out)[0] == 6  # it exists
    hurt = next(path for path in segments(journal) if b"I" * 4096 in path.read_bytes())
    flip(hurt, hurt.read_bytes().index(b"I" * 4096))
    status, _, err = ask(capsys, "journal", "rescue", journal, "latest", tmp_path / "b.raw", "--disk", "vda")
    assert status == 6 and "nearest good points: lsn:" in err and "--best-effort" in err
    assert not (tmp_path / "b.raw").exists()
    words = ("journal", "rescue", journal, "latest", tmp_path / "b.raw", "--disk", "vda", "--best-effort")
    status, shown, _ = ask(capsys, *words)
    assert status == 5 and "b.raw.damage.json list which" in shown
    listed = json.loads((tmp_path / "b.raw.damage.json").read_text())
    assert [(bad["offset"], bad["length"], bad["content"]) for bad in listed["damaged"]] == [
        (0, 4096, "zeros")
    ]
    assert ask(capsys, "journal", "rescue", journal, "nonsense", tmp_path / "c")[0] == 3
    assert ask(capsys, "journal", "rescue", journal, "cut:x", tmp_path / "c")[0] == 2
    assert ask(capsys, "journal", "rescue", journal, "latest", "/nowhere/at/all.raw")[0] == 4


def test_diff_counts_what_differs(journal: Path, capsys: Capture) -> None:
    told = answer(capsys, "journal", "diff", journal, "before-upgrade", "latest")
    assert [(d["name"], d["blocks"], d["bytes"]) for d in told["disks"]] == [("vda", 0, 0), ("vdb", 1, 4096)]
    told = answer(capsys, "journal", "diff", journal, "2/latest", "latest", "--disk", "vda")
    assert [(d["blocks"], len(d["extents"])) for d in told["disks"]] == [(4, 1)]
    status, out, _ = ask(capsys, "journal", "diff", journal, "before-upgrade", "2/9")
    assert status == 0 and "timeline 2, LSN 9" in out and "BLOCKS" in out
    assert ask(capsys, "journal", "diff", journal, "2/", "latest")[0] == 2
    assert ask(capsys, "journal", "diff", journal, "7/latest", "latest")[0] == 3
    assert ask(capsys, "journal", "diff", journal, "999", "latest")[0] == 6
    assert ask(capsys, "journal", "diff", journal, "9", "latest", "--disk", "sda")[0] == 3


def test_reindex_makes_the_caches_anew(journal: Path, capsys: Capture) -> None:
    told = answer(capsys, "journal", "reindex", journal)
    made = sorted((journal / "timelines/0001").glob("*.idx"))
    assert told["indexes"] == len(made) == len(segments(journal)) - 1
    kept = {path: path.read_bytes() for path in made}
    made[0].write_bytes(b"wrong")
    told = answer(capsys, "journal", "reindex", journal)
    assert told["deleted"] == len(made) and {path: path.read_bytes() for path in made} == kept
    hurt = segments(journal)[0]
    flip(hurt, frames(hurt)[0][0] + 20)
    assert answer(capsys, "journal", "reindex", journal)["left"] == [str(hurt)]


def test_a_time_ago_is_a_point_and_no_option(journal: Path, tmp_path: Path, capsys: Capture) -> None:
    now = time.time()
    folder = tmp_path / "now"
    with JournalWriter.create(folder, "web02") as writer:
        tap = Tap(writer, {0: DISK})
        tap.mono = int((now - 7200) * 1e9) - WALL
        tap.protect(b"1")
        tap.mono += 3600 * 10**9
        tap.write(0, 0, b"2" * 512)
        tap.mono += 3600 * 10**9
        tap.cut()
    words = ("--disk", "vda", "--json")
    for point, expected in (("-90m", b"1"), ("-30m", b"2"), ("-3600s", b"2")):
        out = tmp_path / f"{point}.raw"
        status, _, err = ask(capsys, "journal", "rescue", folder, point, out, *words)
        assert status == 0 and out.read_bytes()[:1] == expected, err
    assert answer(capsys, "journal", "diff", folder, "-90m", "1/-30m")["disks"][0]["blocks"] == 1
    status, _, err = ask(capsys, "journal", "rescue", journal, "-1d", tmp_path / "x.raw")
    assert status == 6 and "the state at -1d (20" in err and "nearest before: lsn:15 (2023-" in err
    for wrong in ("-1", "-1w", "-90x"):
        status, _, err = ask(capsys, "journal", "rescue", journal, wrong, tmp_path / "x.raw")
        assert status == 2 and "a time ago is written -90s, -10m, -2h or -1d" in err
    status, _, err = ask(capsys, "journal", "rescue", journal, "latest", tmp_path / "x.raw", "--best-efort")
    assert status == 2 and "--best-efort" in err


def test_a_wrong_point_is_told_every_form_by_example(journal: Path, tmp_path: Path, capsys: Capture) -> None:
    examples = ("latest", "2026-11-22T10:00:05Z", "-10m", "4711", "lsn:4711", "cut:12", "app:before-upgrade")
    for wrong in ("nonsense", "2026-11-22", "cut:x", "cut:99", "9" * 30, "before-upgrad", "-1x"):
        status, _, err = ask(capsys, "journal", "rescue", journal, wrong, tmp_path / "x.raw")
        assert status in (2, 3) and all(example in err for example in examples), err
    page = (ROOT / "docs/rescue.md").read_text()
    assert all(f"`{example}`" in page for example in examples if not example.startswith("app:"))
    for example in ("-10m", "app:before-upgrade"):
        assert example in page


def test_a_refusal_that_names_an_lsn_says_when_that_was(
    journal: Path, tmp_path: Path, capsys: Capture
) -> None:
    status, _, err = ask(capsys, "journal", "rescue", journal, "99", tmp_path / "x.raw", "--json")
    error = json.loads(err)["error"]
    assert status == 6 and "nearest before: lsn:15 (2023-11-14T22:13:3" in error["message"]
    assert "the newest LSN is 15" in error["message"] and error["details"]["before"] == 15
    assert error["details"]["before_time"].startswith("2023-11-14T22:13:3")
    assert (error["details"]["lsn_time"], error["details"]["after_time"]) == (None, None)
    status, _, err = ask(capsys, "journal", "diff", journal, "1", "latest")
    assert status == 6 and "LSN 1 (2023-11-14T22:13:20" in err and "nearest after: lsn:2 (2023" in err


def test_newer_history_that_is_damaged_is_told(journal: Path, tmp_path: Path, capsys: Capture) -> None:
    hurt = segments(journal)[2]
    flip(hurt, frames(hurt)[0][0] + 20)
    status, out, _ = ask(capsys, "journal", "rescue", journal, "latest", tmp_path / "a")
    assert status == 0 and "Every byte is that of the point." in out
    line = next(
        line for line in out.splitlines() if line.startswith("There is newer history, and it is damaged")
    )
    assert " to 15, after 2023-11-14T22:13:21" in line and "up to 2023-11-14T22:13:32" in line
    told = answer(capsys, "journal", "rescue", journal, "latest", tmp_path / "b")["damaged_after"]
    assert told["first_lsn"] == int(line.partition("LSN ")[2].split()[0]) and told["last_lsn"] == 15
    assert told["last_wall"].startswith("2023-11-14T22:13:32") and told["last_wall_ns"] > WALL


def test_an_image_inside_the_journal_is_bad_usage(journal: Path, capsys: Capture) -> None:
    status, _, err = ask(capsys, "journal", "rescue", journal, "latest", journal / "x.raw", "--json")
    error = json.loads(err)["error"]
    assert (status, error["code"]) == (2, "inside-journal") and "outside" in error["hint"]


def test_a_check_says_when_metadata_alone_is_damaged(journal: Path, capsys: Capture) -> None:
    (journal / "JOURNAL").unlink()
    status, out, _ = ask(capsys, "journal", "check", journal)
    assert status == 5 and "1 thing damaged in JOURNAL and meta.log, nothing in the segments" in out
    hurt_data(segments(journal)[1])
    status, out, _ = ask(capsys, "journal", "check", journal)
    assert status == 5 and "2 things damaged, 1 of them in JOURNAL and meta.log alone" in out
    told = answer(capsys, "journal", "check", journal)
    assert (told["damaged_metadata"], len(told["damaged"])) == (1, 2)


def test_the_name_of_a_vm_is_taken_for_a_folder_and_it_says_so(
    journal: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(journal.parent)
    assert ask(capsys, "journal", "info", "web01")[0] == 0
    for words in (("info", "web02"), ("rescue", "web02", "latest", "x.raw"), ("reindex", "web02")):
        status, _, err = ask(capsys, "journal", *words)
        assert status == 3 and "takes a folder, no VM's name" in err and "/journals/web02" in err
    status, _, err = ask(capsys, "journal", "info", journal.parent / "web02")
    assert status == 3 and "VM's name" not in err


def test_python_m_lastwrite_is_the_command_line(journal: Path) -> None:
    line = [sys.executable, "-m", "lastwrite", "journal", "info", str(journal), "--json"]
    done = subprocess.run(line, cwd=journal, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout)["name"] == "web01"
    done = subprocess.run(
        [*line[:3], "journal", "chek"], cwd=journal, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2 and "Did you mean check" in done.stderr


def test_the_pace_counts_from_where_it_was_first_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    pace = Pace()
    assert pace.of("Reading", 500 << 20, 1000 << 20, "bytes") == ""  # read by the check before
    now[0] += 2
    assert pace.of("Reading", 600 << 20, 1000 << 20, "bytes") == ", 50.0 MiB/s, 8.0 s left"
    assert Pace(left=False).of("Reading", 1, 2, "bytes") == "" and pace.of("Steps", 1, 2, "items") == ""


def test_what_the_page_says_to_try_works(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    page = (ROOT / "docs/rescue.md").read_text().partition("## Try it")[2]
    shown = [line.strip() for line in page.splitlines() if line.startswith("    ")]
    assert shown[1] == "python -m tests.journal.rescue_sample /tmp/sample" and len(shown) == 7
    for flags in ([], ["--damaged"]):
        folder = tmp_path / f"sample{len(flags)}"
        line = [sys.executable, "-m", "tests.journal.rescue_sample", str(folder), *flags]
        subprocess.run(line, cwd=ROOT, timeout=60, check=True, capture_output=True)
        monkeypatch.chdir(folder.parent)
        for command in shown[2:]:
            words = command.partition(" && ")[0].replace("/tmp/sample", str(folder)).split()
            status, out, err = ask(capsys, *words[1:])
            assert status == (5 if flags and words[2] == "check" else 0), (command, err)
            assert ("There is newer history, and it is damaged" in out) == bool(
                flags and words[2] == "rescue"
            )
        assert Path("good.raw").read_text()[:8] == "line 39\n"
        assert flags or Path("now.raw").read_text().startswith("everything is gone\n")
        for image in ("good.raw", "now.raw"):
            Path(image).unlink()
