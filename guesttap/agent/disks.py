"""Reading the tapped disks themselves, past the page cache, in pieces."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import TYPE_CHECKING, Iterator, NamedTuple, Sequence

from guesttap.agent.dirty import Extent
from journal.frame import BLOCK

if TYPE_CHECKING:
    from guesttap.bpf.disks import Disk

PIECE_BYTES = 1 << 20
_NOTHING = bytes(PIECE_BYTES)


class Run(NamedTuple):
    """A range of a piece that is all zero, or is not: `offset` and `length` in bytes from the piece's start."""

    zero: bool
    offset: int
    length: int


class Unreadable(Exception):
    """The drive could not read a range."""


class DiskReader:
    """Reads tapped disks with O_DIRECT, so that what comes is what the disk has. `close` it.

    Blocks that the drive cannot read are given as zeros by `read`, and named by `take_unreadable`.
    """

    def __init__(self, disks: Sequence[Disk]) -> None:
        self._paths = {disk.index: disk.path for disk in disks}
        self._sizes = {disk.index: disk.bytes for disk in disks}
        self._descriptors: dict[int, int] = {}
        self._memory = mmap.mmap(-1, PIECE_BYTES)
        self._unreadable: list[Extent] = []

    def read(self, disk: int, offset: int, length: int) -> memoryview:
        """Return up to 1 MiB of a disk (multiples of its sector size); valid until the next call.

        Less comes at the disk's end. Raises OSError when the disk is gone.
        """
        length = max(0, min(length, PIECE_BYTES, self._sizes[disk] - offset))
        view = memoryview(self._memory)[:length]
        try:
            self._read_into(disk, offset, view)
        except OSError:
            for start in range(0, length, BLOCK):
                self._read_block(disk, offset + start, view[start : start + BLOCK])
        return view

    def read_whole(self, disk: int, offset: int, length: int) -> memoryview:
        """The same, but nothing is replaced by zeros: raises Unreadable when the drive cannot read all of it."""
        view = memoryview(self._memory)[: max(0, min(length, PIECE_BYTES, self._sizes[disk] - offset))]
        try:
            self._read_into(disk, offset, view)
        except OSError:
            if not Path(self._paths[disk]).exists():
                raise
            raise Unreadable from None
        return view

    def take_unreadable(self) -> list[Extent]:
        """Return the ranges that were given as zeros since the last call, neighbours joined."""
        taken, self._unreadable = self._unreadable, []
        return taken

    def close(self) -> None:
        """Close the disks."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()

    def _read_into(self, disk: int, offset: int, view: memoryview) -> None:
        descriptor = self._descriptors.get(disk)
        if descriptor is None:
            flags = os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC
            descriptor = self._descriptors[disk] = os.open(self._paths[disk], flags)
        done = 0
        while done < len(view):
            count = os.preadv(descriptor, [view[done:]], offset + done)
            if not count:
                raise OSError(f"{self._paths[disk]} ends at {offset + done}")
            done += count

    def _read_block(self, disk: int, offset: int, view: memoryview) -> None:
        try:
            self._read_into(disk, offset, view)
        except OSError:
            if not Path(self._paths[disk]).exists():
                raise
            view[:] = _NOTHING[: len(view)]
            self._note_unreadable(Extent(disk, offset, len(view)))

    def _note_unreadable(self, extent: Extent) -> None:
        last = self._unreadable[-1] if self._unreadable else None
        if last is not None and (last.disk, last.offset + last.length) == (extent.disk, extent.offset):
            self._unreadable[-1] = last._replace(length=last.length + extent.length)
        else:
            self._unreadable.append(extent)


def runs(piece: memoryview) -> Iterator[Run]:
    """Yield the stretches of a piece that are zero or not, in blocks of 4096 bytes, each as long as it can be."""
    content = bytes(piece)  # bytes are compared by memcmp; memoryviews element by element, many times slower
    if content == _NOTHING[: len(content)]:
        yield Run(True, 0, len(content))
        return
    start, zero = 0, _is_zero(content, 0)
    for offset in range(BLOCK, len(content), BLOCK):
        if _is_zero(content, offset) != zero:
            yield Run(zero, start, offset - start)
            start, zero = offset, not zero
    yield Run(zero, start, len(content) - start)


def _is_zero(content: bytes, offset: int) -> bool:
    if content[offset]:
        return False
    block = content[offset : offset + BLOCK]
    return block == _NOTHING[: len(block)]
