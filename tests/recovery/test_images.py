from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lastwrite.errors import IntegrityError
from recovery import qcow2
from recovery.errors import ImageExists, ImageNotWritten, UnknownImageFormat
from recovery.images import write_image, write_qcow2, write_raw
from tests.recovery.disks import BLOCK, MIB, MemoryDisk, dense, scattered, tool

SHAPES = {
    "empty": MemoryDisk(64 * MIB),
    "scattered": scattered(512 * MIB, 700),
    "dense": dense(48 * MIB),
    "odd size": dense(5 * MIB + 3 * 512),
    "one sector": MemoryDisk(512, {0: b"x" * 512 + bytes(BLOCK - 512)}),
    "scattered, odd size": scattered(300 * MIB + 8192, 300, seed=3),
    "last block of a big disk": MemoryDisk(
        600 << 30, {(600 << 30) // BLOCK - 1: b"z" * BLOCK, 0: b"a" * BLOCK}
    ),
}


def check(*arguments: object) -> str:
    done = subprocess.run(
        [tool("qemu-img"), *map(str, arguments)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def independent(disk: MemoryDisk, path: Path) -> Path:
    with open(path, "wb") as file:
        file.truncate(disk.disk_bytes)
        for number, data in disk.blocks.items():
            file.seek(number * BLOCK)
            file.write(data[: disk.disk_bytes - number * BLOCK])
    return path


@pytest.mark.parametrize("shape", SHAPES)
def test_qemu_img_finds_both_formats_whole_and_equal_to_an_independent_image(
    shape: str, tmp_path: Path
) -> None:
    disk = SHAPES[shape]
    expected = independent(disk, tmp_path / "expected.bin")
    write_image(disk, tmp_path / "disk.raw")
    write_image(disk, tmp_path / "disk.qcow2")
    check("check", "-f", "qcow2", tmp_path / "disk.qcow2")
    for kind in ("raw", "qcow2"):
        check("compare", "-f", "raw", "-F", kind, expected, tmp_path / f"disk.{kind}")
        facts = check("info", "--output=json", "-f", kind, tmp_path / f"disk.{kind}")
        assert json.loads(facts)["virtual-size"] == disk.disk_bytes


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 3000), st.sets(st.integers(0, 374), max_size=60))
def test_any_set_of_blocks_is_read_back_by_qemu(
    tmp_path_factory: pytest.TempPathFactory, sectors: int, numbers: set[int]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    blocks = {n: bytes([n % 255 + 1]) * BLOCK for n in numbers if n * BLOCK < sectors * 512}
    disk = MemoryDisk(sectors * 512, blocks)
    write_qcow2(disk, folder / "a.qcow2")
    check("check", folder / "a.qcow2")
    check("convert", "-f", "qcow2", "-O", "raw", folder / "a.qcow2", folder / "a.raw")
    assert (folder / "a.raw").read_bytes() == disk.content()


def test_scattered_blocks_get_small_clusters_and_dense_ones_large() -> None:
    for disk, expected in ((scattered(512 * MIB, 700), 4096), (dense(48 * MIB), 65536)):
        assert qcow2.plan(disk.disk_bytes, disk.extents(0, disk.disk_bytes)).cluster_bytes == expected
    assert qcow2.choose_cluster_bytes(9 << 40, np.array([True])) == 65536


def test_a_scattered_image_takes_little_more_than_its_data(tmp_path: Path) -> None:
    write_qcow2(SHAPES["scattered"], tmp_path / "a.qcow2")
    assert (tmp_path / "a.qcow2").stat().st_size < 3 * 700 * BLOCK
    write_raw(SHAPES["scattered"], tmp_path / "a.raw")
    assert (tmp_path / "a.raw").stat().st_blocks * 512 < 4 * 700 * BLOCK


@pytest.mark.parametrize("name", ["a.raw", "a.qcow2"])
def test_progress_rises_to_the_whole(name: str, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    write_image(dense(48 * MIB), tmp_path / name, lambda done, total: seen.append((done, total)))
    assert len(seen) > 3
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == seen[-1][1] > 0


@pytest.mark.parametrize("name", ["a.raw", "a.qcow2"])
def test_an_existing_file_is_refused_and_kept(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(ImageExists):
        write_image(dense(MIB), tmp_path / name)
    assert (tmp_path / name).read_text() == "mine"
    assert names_in(tmp_path) == [name]


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "a.raw"

    def somebody_else(_done: int, _total: int) -> None:
        target.write_text("mine")

    with pytest.raises(ImageExists):
        write_raw(dense(MIB), target, somebody_else)
    assert target.read_text() == "mine"
    assert names_in(tmp_path) == ["a.raw"]


def test_a_dangling_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "a.raw").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ImageExists):
        write_raw(dense(MIB), tmp_path / "a.raw")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("name", ["a.raw", "a.qcow2"])
def test_damaged_data_gives_an_error_and_no_file(name: str, tmp_path: Path) -> None:
    disk = dense(16 * MIB)
    disk.bad = {1000}
    with pytest.raises(IntegrityError, match="LSN 1000"):
        write_image(disk, tmp_path / name)
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("name", ["a.raw", "a.qcow2"])
def test_an_interrupt_leaves_no_file(name: str, tmp_path: Path) -> None:
    def interrupt(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_image(dense(16 * MIB), tmp_path / name, interrupt)
    assert names_in(tmp_path) == []


@pytest.mark.kernel
@pytest.mark.parametrize("name", ["a.raw", "a.qcow2"])
def test_a_full_file_system_gives_an_error_and_no_file(name: str, tmp_path: Path) -> None:
    program = f"""
import os, sys
from pathlib import Path
from recovery.errors import ImageNotWritten
from recovery.images import write_image
from tests.recovery.disks import dense
folder = Path({str(tmp_path)!r})
try:
    write_image(dense(16 << 20), folder / {name!r})
except ImageNotWritten as error:
    assert os.listdir(folder) == [], os.listdir(folder)
    print(error.message)
"""
    script = f'mount -t tmpfs -o size=1m none {tmp_path} && exec "$0" -c "$1"'
    root = Path(__file__).parents[2]
    command = [tool("unshare"), "--mount", "sh", "-c", script, sys.executable, program]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=60)
    assert "No space left on device" in done.stdout, done.stdout + done.stderr


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageNotWritten, match="nowhere"):
        write_raw(dense(MIB), tmp_path / "nowhere" / "a.raw")


def test_an_unknown_suffix_is_refused(tmp_path: Path) -> None:
    for name in ("disk.vmdk", "disk"):
        with pytest.raises(UnknownImageFormat):
            write_image(dense(MIB), tmp_path / name)
    assert names_in(tmp_path) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from recovery.images import write_image
from tests.recovery.disks import MIB, dense
def stop(done, total):
    os.kill(os.getpid(), signal.SIGKILL)
write_image(dense(16 * MIB), Path(sys.argv[1]), stop)
"""


@pytest.mark.parametrize("name", ["x.raw", "x.qcow2"])
def test_a_process_that_is_killed_leaves_nothing_behind(name: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / name)], timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("links", [True, False])
def test_a_file_system_that_offers_less_gets_its_image_too(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole_open = os.open

    def no_tmpfile(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "not offered")
        return whole_open(path, flags, *rest, **named)

    def no_link(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "not offered")

    monkeypatch.setattr("recovery.images.os.open", no_tmpfile)
    if not links:
        monkeypatch.setattr("recovery.images.os.link", no_link)
    disk = dense(2 * MIB)
    write_raw(disk, tmp_path / "x.raw")
    assert (tmp_path / "x.raw").read_bytes() == disk.content()
    assert names_in(tmp_path) == ["x.raw"]

    def taken(_done: int, _total: int) -> None:
        (tmp_path / "y.raw").write_bytes(b"theirs")

    with pytest.raises(ImageExists):
        write_raw(disk, tmp_path / "y.raw", taken)
    assert (tmp_path / "y.raw").read_bytes() == b"theirs"
    assert sorted(names_in(tmp_path)) == ["x.raw", "y.raw"]
