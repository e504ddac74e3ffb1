"""Folders, loop devices and mounts of a torture run: named by its process, taken away also after it was killed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from guesttap.bpf.pins import Pins
from tests.bpf.kit import LoopDisk, shell

PREFIX = "lastwrite-torture-"
PINS = Path("/sys/fs/bpf")
BASES = (Path("/dev/shm"), Path(tempfile.gettempdir()))
_OURS = re.compile(rf"{PREFIX}(\d+)(?:-.*)?")
MKFS = {
    # No lazy work in the background: what is captured is what the journal's use of the file system causes.
    "ext4": ["mkfs.ext4", "-q", "-F", "-m0", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
    # A sector as large as XFS thinks that the disk writes at once: XFS does not recover from torn sectors.
    "xfs": ["mkfs.xfs", "-q", "-f", "-s", "size=4096"],
}
TEAR_BYTES = {"ext4": 512, "xfs": 4096}
# mkfs.xfs makes file systems below 300 MB only for tests, which say so like this.
_TESTING = {"TEST_DIR": "1", "TEST_DEV": "1", "QA_CHECK_FS": "1"}


def file_systems() -> list[str]:
    """Return the file systems that can be made here."""
    return [kind for kind, command in MKFS.items() if shutil.which(command[0])]


def make_file_system(kind: str, path: str | Path) -> None:
    """Make a small file system on a device or in a file."""
    environment = {**os.environ, **_TESTING}
    done = subprocess.run(
        [*MKFS[kind], str(path)], capture_output=True, text=True, timeout=60, env=environment
    )
    assert done.returncode == 0, done.stderr


@contextmanager
def workplace(base: Path | None = None) -> Iterator[Path]:
    """Give a folder of this run's own; in the end everything in it is unmounted, detached and removed."""
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=base))
    try:
        yield folder
    finally:
        clear(folder)


def pin_directory() -> str:
    """Return where this run pins its taps."""
    return str(PINS / f"{PREFIX}{os.getpid()}")


def remove_leftovers() -> list[str]:
    """Take away what runs left that are dead; return the names."""
    removed = []
    for base in (*BASES, PINS):
        for folder in base.glob(f"{PREFIX}*"):
            match = _OURS.fullmatch(folder.name)
            if match and not Path(f"/proc/{match[1]}").exists():
                Pins(str(folder)).remove() if base == PINS else clear(folder)
                removed.append(str(folder))
    return removed


def clear(folder: Path) -> None:
    """Unmount what is mounted in a folder, detach the loop devices over its files, remove it."""
    for place in reversed(_mounts_in(folder)):
        subprocess.run(["umount", "--lazy", place], capture_output=True, timeout=60)
    for device in _loops_in(folder):
        subprocess.run(["losetup", "--detach", device], capture_output=True, timeout=60)
    shutil.rmtree(folder, ignore_errors=True)


def _mounts_in(folder: Path) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    places = [line.split()[4] for line in lines]
    return [place for place in places if place.startswith(f"{folder}/")]


def _loops_in(folder: Path) -> list[str]:
    if not shutil.which("losetup"):
        return []
    listed = shell("losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE")
    pairs = [line.split(maxsplit=1) for line in listed.splitlines()]
    return [pair[0] for pair in pairs if len(pair) == 2 and pair[1].startswith(f"{folder}/")]


@contextmanager
def mounted(device: str | Path, kind: str, place: Path, *options: str) -> Iterator[Path]:
    """Mount a device for the length of a `with` block."""
    place.mkdir(exist_ok=True)
    words = ["-o", ",".join(options)] if options else []
    shell("mount", "-t", kind, *words, device, place)
    try:
        yield place
    finally:
        shell("umount", place)


@contextmanager
def mounted_image(image: Path, kind: str, place: Path) -> Iterator[Path]:
    """Mount a file system in a file, by a loop device of its own, for the length of a `with` block.

    Not with `mount -o loop`: that takes a loop device which has the file already. When a process made itself a mount
    namespace while the last image was mounted, that device is still there, with the last image's content in memory.
    """
    disk = LoopDisk.of(image)
    try:
        options = ("nouuid",) if kind == "xfs" else ()  # such a namespace still has the same UUID mounted
        with mounted(disk.path, kind, place, *options) as folder:
            yield folder
    finally:
        disk.close()


@contextmanager
def small_file_system(folder: Path, kind: str, size: int) -> Iterator[Path]:
    """A mounted file system of so many bytes over a loop device."""
    image = folder / f"{kind}.img"
    disk = LoopDisk(image, size)
    try:
        make_file_system(kind, disk.path)
        with mounted(disk.path, kind, folder / kind) as place:
            yield place
    finally:
        disk.close()
        image.unlink()
