"""The tools that people use, against exports of real journals: qemu-img, qemu-io, nbdinfo, nbdcopy."""

from __future__ import annotations

import json
import random
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from journal.errors import NotAJournal
from journal.frame import SYNC
from journal.reader import JournalReader
from lastwrite.catalog import Catalog
from lastwrite.config import Settings
from lastwrite.errors import NotFoundError
from recovery.nbd import JournalExports, NbdServer
from recovery.nbd.exports import ViewCache
from recovery.points import find, parse
from recovery.view import View
from tests.recovery.disks import BLOCK, MIB, MemoryExports, tool
from tests.recovery.journals import SECOND, JournalMaker, block
from tests.recovery.nbd_client import Client, assemble
from tests.recovery.test_view import flip

DISK_BYTES = 3 * MIB


class Site:
    """Two VMs, one of them with a journal that has points, and a server of their exports."""

    def __init__(self, folder: Path) -> None:
        self.maker = JournalMaker(folder / "web01", disks=[("vda", DISK_BYTES), ("vdb", MIB + 512)])
        self.maker.synced()
        choice = random.Random(11)
        for number in range(5):
            writes = [
                (0, choice.randrange(DISK_BYTES // 512 - 64), choice.randbytes(512 * choice.randrange(1, 64)))
                for _ in range(6)
            ]
            self.maker.writes([*writes, (1, choice.randrange(2000), choice.randbytes(512))])
            self.maker.clock += SECOND
            self.maker.cut("bookmark", f"step {number}")
        self.lsns = list(self.maker.history)
        empty = JournalMaker(folder / "db01", name="db01")
        empty.begin()
        empty.writes([(0, 0, block(1))], SYNC)
        self.folders = {"web01": self.maker.folder, "db01": empty.folder, "none": folder / "none"}
        self.exports = JournalExports(self.find, lambda: self.folders.items())

    def find(self, name: str) -> Path:
        if name not in self.folders:
            raise NotFoundError(f"no VM is named {name!r}")
        return self.folders[name]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def running(site: Site) -> Iterator[NbdServer]:
    with NbdServer("127.0.0.1:0", site.exports) as server:
        yield server


def uri(server: NbdServer, export: str) -> str:
    host, port = server.address
    return f"nbd://{host}:{port}/{export}"


def run(name: str, *arguments: object, ok: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([tool(name), *map(str, arguments)], capture_output=True, text=True, timeout=60)
    assert (done.returncode == 0) == ok, done.stdout + done.stderr
    return done


def test_qemu_img_finds_every_tried_point_equal_to_an_independent_image(
    site: Site, running: NbdServer, tmp_path: Path
) -> None:
    for lsn in (site.lsns[0], site.lsns[12], site.lsns[-1]):
        for number, disk in enumerate(("vda", "vdb")):
            expected = tmp_path / f"{disk}-{lsn}.raw"
            expected.write_bytes(site.maker.history[lsn][number])
            run(
                "qemu-img",
                "compare",
                "-f",
                "raw",
                "-F",
                "raw",
                expected,
                uri(running, f"web01/{disk}@lsn:{lsn}"),
            )


def test_nbdcopy_over_several_connections_gives_the_same_disk(
    site: Site, running: NbdServer, tmp_path: Path
) -> None:
    lsn = site.lsns[-1]
    source = uri(running, f"web01/vda@lsn:{lsn}")
    facts = json.loads(run("nbdinfo", "--json", source).stdout)["exports"][0]
    assert (facts["can_multi_conn"], facts["is_read_only"], facts["can_df"]) == (True, True, True)
    run("nbdcopy", "--connections=4", source, tmp_path / "copy.raw")
    assert (tmp_path / "copy.raw").read_bytes() == site.maker.history[lsn][0]


def test_nbdinfo_maps_data_and_holes(site: Site, running: NbdServer) -> None:
    lsn = site.lsns[-1]
    found = json.loads(run("nbdinfo", "--json", "--map", uri(running, f"web01/vda@lsn:{lsn}")).stdout)
    content = site.maker.history[lsn][0]
    assert sum(part["length"] for part in found) == DISK_BYTES
    for part in found:
        holds = any(content[part["offset"] : part["offset"] + part["length"]])
        assert holds == (part["type"] == 0), part


def test_nbdinfo_lists_latest_and_every_name_and_all_of_them_open(site: Site, running: NbdServer) -> None:
    site.maker.cut("appshot", "latest", "app")  # a name that looks like a form of its own
    listed = json.loads(run("nbdinfo", "--json", "--list", uri(running, "")).stdout)["exports"]
    names = [entry["export-name"] for entry in listed]
    expected = ["latest", *(f"step {number}" for number in range(5)), "app:latest"]
    assert names == [f"web01/{disk}@{name}" for disk in ("vda", "vdb") for name in expected]
    assert {entry["export-size"] for entry in listed} == {DISK_BYTES, MIB + 512}


def test_qemu_io_reads_any_range_and_cannot_write(site: Site, running: NbdServer) -> None:
    site.maker.writes([(0, 800, b"\x5a" * 4096)])
    target = uri(running, "web01/vda@latest")
    run(
        "qemu-io",
        "-r",
        "-f",
        "raw",
        "-c",
        "read -P 0x5a 409600 4096",
        "-c",
        "read -P 0x5a 409601 100",
        target,
    )
    run("qemu-io", "-f", "raw", "-c", "write 0 512", target, ok=False)


def test_latest_follows_a_journal_that_grows_and_an_open_view_stays(site: Site, running: NbdServer) -> None:
    with Client(running.address) as early:
        early.go("web01/vda@latest")
        before = assemble(early.request(0, 0, 8192), 0, 8192)
        site.maker.writes([(0, 0, block(0xEE)), (0, 8, block(0xEF))])
        with Client(running.address) as late:
            late.go("web01/vda@latest")
            assert assemble(late.request(0, 0, 8192), 0, 8192) == block(0xEE) + block(0xEF)
        assert assemble(early.request(0, 0, 8192), 0, 8192) == before != block(0xEE) + block(0xEF)


def test_a_name_that_leads_nowhere_is_refused_with_the_reason(site: Site, running: NbdServer) -> None:
    for export, reason in (
        ("nobody/vda@latest", "no VM is named 'nobody'"),
        ("web01/vdx@latest", "no disk 'vdx'"),
        ("web01/vda@lsn:99999", "after the newest recovery point"),
        ("web01/vda@step9", "no bookmark or AppShot"),
        ("db01/vda@latest", "no recovery point yet"),
        ("none/vda@latest", "holds no journal"),
        ("web01", "is not an export name"),
    ):
        assert reason in run("qemu-img", "info", uri(running, export), ok=False).stderr


@pytest.mark.parametrize("program", ["qemu-img", "nbdcopy"])
def test_a_flipped_bit_is_an_error_for_the_tools_and_the_log_names_the_frame(
    site: Site, running: NbdServer, tmp_path: Path, program: str, capfd: pytest.CaptureFixture[str]
) -> None:
    frame = site.maker.writes([(0, 5000, block(9))])
    lsn = site.maker.next_lsn - 1
    flip(site.maker.segment, frame + BLOCK + 17)
    source = uri(running, f"web01/vda@lsn:{lsn}")
    if program == "qemu-img":
        done = run("qemu-img", "convert", "-f", "raw", "-O", "raw", source, tmp_path / "a", ok=False)
    else:
        done = run("nbdcopy", source, tmp_path / "a", ok=False)
    assert "Input/output error" in done.stderr
    assert f"LSNs {lsn} to {lsn}" in capfd.readouterr().out
    run("nbdcopy", uri(running, f"web01/vda@lsn:{lsn - 1}"), tmp_path / "before")


def test_connections_to_the_same_point_share_one_view(site: Site) -> None:
    first = site.exports.open(f"web01/vda@lsn:{site.lsns[3]}")
    assert site.exports.open(f"web01/vda@lsn:{site.lsns[3]}").view is first.view
    assert site.exports.open(f"web01/vdb@lsn:{site.lsns[3]}").view is not first.view
    assert site.exports.open(f"web01/vda@lsn:{site.lsns[4]}").view is not first.view


def test_a_new_journal_in_the_same_folder_is_not_mistaken_for_the_old_one(site: Site) -> None:
    name = f"web01/vda@lsn:{site.lsns[0]}"
    old = site.exports.open(name).view.pieces(0, 1)
    shutil.rmtree(site.maker.folder)
    with pytest.raises(NotAJournal):
        site.exports.open(name)
    again = JournalMaker(site.maker.folder, disks=[("vda", DISK_BYTES)])
    again.synced([block(0x77)])
    again.writes([(0, 8 * number, block(0x78)) for number in range(1, 20)])
    assert site.exports.open(name).view.pieces(0, 1) == [b"\x77"] != old


def test_views_that_nobody_uses_are_let_go_when_there_are_many(site: Site) -> None:
    reader = JournalReader(site.maker.folder)
    cache = ViewCache(idle=2)

    def put(lsn: int) -> View:
        view = View(reader, find(reader, parse(f"lsn:{lsn}")), "vda")
        cache.put(("a journal", 1, lsn, "vda"), view)
        return view

    used = put(site.lsns[0])
    for lsn in site.lsns[1:5]:
        put(lsn)
    there = [cache.get(("a journal", 1, lsn, "vda")) is not None for lsn in site.lsns[1:5]]
    assert there == [False, False, True, True]
    assert cache.get(("a journal", 1, site.lsns[0], "vda")) is used


# -- the process ------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@pytest.fixture
def config(site: Site, tmp_path: Path) -> tuple[Path, int]:
    port = free_port()
    path = tmp_path / "lastwrite.toml"
    (tmp_path / "state").mkdir()
    path.write_text(f'[appliance]\nstate_dir = "{tmp_path}/state"\n[nbd]\nlisten = "127.0.0.1:{port}"\n')
    catalog = Catalog(Settings.load(path).catalog_url)
    catalog.add_hypervisor("here", "memory", "memory://")
    catalog.add_vm(name="web01", hypervisor="here", ref="1", journal=str(site.maker.folder))
    catalog.close()
    return path, port


def test_the_process_serves_the_catalogs_vms_and_ends_on_sigterm(
    site: Site, config: tuple[Path, int]
) -> None:
    path, port = config
    command = [sys.executable, "-m", "recovery.nbd", "--config", str(path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            ready = next(line for line in process.stderr if "ready" in line)
            assert json.loads(ready)["listen"] == f"127.0.0.1:{port}"
            target = f"nbd://127.0.0.1:{port}/web01/vda@latest"
            assert run("nbdinfo", "--size", target).stdout.strip() == str(DISK_BYTES)
            with Client(("127.0.0.1", port)) as client:
                client.go("web01/vda@latest")
                process.send_signal(signal.SIGTERM)
                assert process.wait(10) == 0
                assert client.closed()
        finally:
            process.kill()


def test_the_process_names_an_address_that_is_taken(config: tuple[Path, int]) -> None:
    path, port = config
    with socket.create_server(("127.0.0.1", port)):
        command = [sys.executable, "-m", "recovery.nbd", "--config", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 4
    assert f"127.0.0.1:{port}" in done.stderr
    assert "Address already in use" in done.stderr


def test_memory_exports_follow_the_same_rules(exports: MemoryExports, server: NbdServer) -> None:
    listed = json.loads(run("nbdinfo", "--json", "--list", uri(server, "")).stdout)["exports"]
    assert [entry["export-name"] for entry in listed] == list(exports.disks)
