"""Fixtures of the kernel tests: a fast folder, loop disks, a tap; everything is taken away afterwards."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from guesttap.bpf import BpfTap, probe
from guesttap.bpf.pins import Pins
from tests.bpf.kit import LoopDisk, remove_tree
from tests.needs import missing

MakeDisk = Callable[..., LoopDisk]
Attach = Callable[..., BpfTap]
RING_BYTES = 256 << 20  # it holds whatever a test writes, however late its reader is
# A guest under emulation writes less in the same time: see tests/e2e/test_guest_kernel.py.
LEAST_WRITES = int(os.environ.get("LASTWRITE_TEST_LEAST_WRITES", "20000"))


@pytest.fixture
def kernel() -> None:
    """Ends the test where the machine cannot run it."""
    lacks = probe()
    if lacks:
        missing("; ".join(lack.what for lack in lacks))
    for tool in ("losetup", "blkdiscard", "mkfs.ext4", "e2fsck"):
        if shutil.which(tool) is None:
            missing(f"no {tool}")
    if not Path("/dev/loop-control").exists():
        missing("no loop devices")


@pytest.fixture
def fast_folder() -> Iterator[Path]:
    """A folder in memory, so that disks are fast."""
    folder = Path(tempfile.mkdtemp(prefix="lastwrite-test-", dir="/dev/shm"))
    yield folder
    remove_tree(folder)


@pytest.fixture
def make_disk(kernel: None, fast_folder: Path) -> Iterator[MakeDisk]:
    """Makes loop disks: make_disk(size, *losetup options, folder=...)."""
    made: list[LoopDisk] = []

    def make(size: int, *options: str, folder: Path = fast_folder) -> LoopDisk:
        made.append(LoopDisk(folder / f"disk{len(made)}", size, *options))
        return made[-1]

    yield make
    for disk in made:
        disk.close()


@pytest.fixture
def pin_dir(kernel: None) -> Iterator[str]:
    """A place for pins that no other tap uses."""
    directory = f"/sys/fs/bpf/lastwrite-test-{os.getpid()}"
    yield directory
    Pins(directory).remove()


@pytest.fixture
def attach(pin_dir: str) -> Iterator[Attach]:
    """Attaches a tap to loop disks: attach(disk, ..., ring_bytes=...)."""
    taps: list[BpfTap] = []

    def make(*disks: LoopDisk, ring_bytes: int = RING_BYTES) -> BpfTap:
        taps.append(BpfTap.attach([disk.path for disk in disks], ring_bytes, pin_dir))
        return taps[-1]

    yield make
    for tap in taps:
        tap.detach()
