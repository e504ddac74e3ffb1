"""What the kernel tests of the bpf tap share: loop disks, a collector of the stream, an own replayer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from guesttap.bpf import DATA, DISCARD, ZERO, BpfTap, RingRecord

HERE = Path(__file__).parent


def shell(*words: str | int | Path, timeout: float = 60) -> str:
    """Run a command that must succeed; return what it printed."""
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


class LoopDisk:
    """A loop device of our own over a sparse file."""

    def __init__(self, file: Path, size: int, *options: str) -> None:
        self.file = file
        with file.open("wb") as made:
            made.truncate(size)
        self._attach(options)

    @classmethod
    def of(cls, file: Path, *options: str) -> LoopDisk:
        """Return a loop device over a file that exists."""
        disk = cls.__new__(cls)
        disk.file = file
        disk._attach(options)
        return disk

    def _attach(self, options: tuple[str, ...]) -> None:
        for _ in range(20):  # another process may take the free device first
            done = subprocess.run(
                ["losetup", "--find", "--show", *options, str(self.file)], capture_output=True, text=True
            )
            if done.returncode == 0:
                self.path = done.stdout.strip()
                return
            time.sleep(0.1)
        raise AssertionError(f"no loop device: {done.stderr}")

    def content(self) -> bytes:
        """What the disk holds, read past the page cache of the device."""
        shell("sync", self.path)
        shell("blockdev", "--flushbufs", self.path)
        return Path(self.path).read_bytes()

    def close(self) -> None:
        subprocess.run(["losetup", "--detach", self.path], capture_output=True, timeout=30)


class Captured(NamedTuple):
    """A record, copied out of the ring."""

    kind: int
    disk: int
    offset: int
    length: int
    data: bytes
    lost: int
    bio: int
    opf: int
    flags: int
    time: int
    status: int


def copy(record: RingRecord) -> Captured:
    return Captured(
        record.kind, record.disk, record.offset, record.length, bytes(record.data), record.lost, record.bio,
        record.opf, record.flags, record.time, record.status,
    )  # fmt: skip


def drain(tap: BpfTap, until: int | None = None) -> list[Captured]:
    """Take the committed records out of the ring, giving it back piece by piece; none after the position `until`."""
    taken: list[Captured] = []
    while True:
        start = end = tap.consumer_position
        for record in tap.records(start, 1 << 20):
            if until is not None and end >= until:
                break
            taken.append(copy(record))
            end = record.end
        tap.release(end)
        if end == start:
            return taken


class Collector:
    """A thread that empties the ring into a list, until the `with` ends and the ring is empty."""

    def __init__(self, tap: BpfTap) -> None:
        self.records: list[Captured] = []
        self._tap = tap
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), -15)  # the writers would starve it
        while True:
            stopping = self._stop.is_set()
            taken = drain(self._tap)
            self.records += taken
            if stopping and not taken:
                return
            if not taken:
                time.sleep(0.002)

    def __enter__(self) -> Collector:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()


class Replica:
    """An image that records are applied to. It shares no code with the product."""

    def __init__(self, content: bytes) -> None:
        self.image = bytearray(content)

    def apply(self, records: Iterable[Captured], disk: int = 0) -> None:
        for record in records:
            if record.disk == disk:
                self.apply_one(record)

    def apply_one(self, record: Captured) -> None:
        end = record.offset + record.length
        if record.kind == DATA:
            assert len(record.data) == record.length
            self.image[record.offset : end] = record.data
        elif record.kind in (DISCARD, ZERO):
            self.image[record.offset : end] = bytes(record.length)

    def reread(self, path: str, extents: Iterable[tuple[int, int, int]]) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
        with os.fdopen(fd, "rb", buffering=0) as disk:
            for _, offset, length in extents:
                self.image[offset : offset + length] = direct_read(disk.fileno(), offset, length)


def direct_read(fd: int, offset: int, length: int) -> bytes:
    """Read past the page cache; offset and length need not be page-aligned but 512 bytes."""
    import mmap

    buffer = mmap.mmap(-1, length)
    done = os.preadv(fd, [buffer], offset)
    assert done == length, (offset, length, done)
    return buffer[:]


def differing_blocks(one: bytes | bytearray, two: bytes, size: int = 512) -> list[int]:
    """Return the offsets of the blocks in which two images differ."""
    assert len(one) == len(two)
    if one == two:
        return []
    return [at for at in range(0, len(one), size) if one[at : at + size] != two[at : at + size]]


def start_script(name: str, *words: object) -> subprocess.Popen[str]:
    """Start one of the helper programs beside this file."""
    command = [sys.executable, str(HERE / name), *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent.parent)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def finish(process: subprocess.Popen[str], timeout: float = 60) -> str:
    """Wait for a helper program that must succeed; return what it printed."""
    try:
        out, _ = process.communicate(timeout=timeout)
    finally:
        process.kill()
    assert process.returncode == 0, out
    return out


def wait_until(fact: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, "it did not become true in time"
        time.sleep(0.01)


def remove_tree(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
