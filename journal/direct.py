"""Writing past the page cache: O_DIRECT where the file system takes it, buffered elsewhere.

O_DIRECT wants memory, lengths and places that are multiples of a block. Frames are whole blocks and lie on block
boundaries; memory that does not (a footer, a test's bytes) is copied into a block-aligned buffer piece by piece.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from journal.frame import BLOCK

_REFUSED = {errno.EINVAL, errno.EOPNOTSUPP}
_BOUNCE_BYTES = 1 << 20
_MOST_BUFFERS = os.sysconf("SC_IOV_MAX")


def is_possible(path: Path) -> bool:
    """Return whether a file can be opened for O_DIRECT; it is not written. Raises OSError for other reasons."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT | os.O_NONBLOCK))
    except OSError as error:
        if error.errno in _REFUSED:
            return False
        raise
    return True


class BlockFile:
    """A file that whole blocks are written to, at places that are multiples of a block. `direct` says how."""

    def __init__(self, path: Path) -> None:
        flags = os.O_RDWR | os.O_CLOEXEC
        self.direct = True
        try:
            self._fd = os.open(path, flags | os.O_DIRECT)
        except OSError as error:
            if error.errno not in _REFUSED:
                raise
            self._fd = os.open(path, flags)
            self.direct = False
        self._bounce: memoryview | None = None

    def write(self, buffers: Iterable[memoryview], place: int) -> tuple[int, OSError | None]:
        """Write all of `buffers` from `place` on, with few calls; return how far it got, and what ended it early.

        The error comes without its traceback, whose frames would keep alive whatever their callers hold.
        """
        try:
            for group in self._groups(buffers):
                while group:
                    written = self._write_some(group, place)
                    place += written
                    group = _rest(group, written)
        except OSError as error:
            return place, error.with_traceback(None)
        return place, None

    def _write_some(self, group: list[memoryview], place: int) -> int:
        try:
            return os.pwritev(self._fd, group, place)
        except OSError as error:
            if not self.direct or error.errno not in _REFUSED:
                raise
        # Opened, but refused: blocks of the device are larger than ours, or a write ended within a block.
        fcntl.fcntl(self._fd, fcntl.F_SETFL, fcntl.fcntl(self._fd, fcntl.F_GETFL) & ~os.O_DIRECT)
        self.direct = False
        return os.pwritev(self._fd, group, place)

    def _groups(self, buffers: Iterable[memoryview]) -> Iterator[list[memoryview]]:
        """Yield what one call writes: many buffers that are fit for it, or a piece of one that had to be copied."""
        group: list[memoryview] = []
        for buffer in buffers:
            if not len(buffer):
                continue
            if self.direct and not _is_aligned(buffer):
                if group:
                    yield group
                    group = []
                yield from self._copied(buffer)
                continue
            group.append(buffer)
            if len(group) == _MOST_BUFFERS:
                yield group
                group = []
        if group:
            yield group

    def _copied(self, buffer: memoryview) -> Iterator[list[memoryview]]:
        if self._bounce is None:
            self._bounce = memoryview(mmap.mmap(-1, _BOUNCE_BYTES))
        for start in range(0, len(buffer), _BOUNCE_BYTES):
            piece = buffer[start : start + _BOUNCE_BYTES]
            self._bounce[: len(piece)] = piece
            yield [self._bounce[: len(piece)]]

    def sync(self) -> None:
        """Make everything durable. Raises OSError."""
        os.fdatasync(self._fd)

    def truncate(self, length: int) -> None:
        """Cut the file off. Raises OSError."""
        os.ftruncate(self._fd, length)

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _is_aligned(buffer: memoryview) -> bool:
    address: int = np.frombuffer(buffer, np.uint8).__array_interface__["data"][0]
    return address % BLOCK == 0 and len(buffer) % BLOCK == 0


def _rest(group: list[memoryview], written: int) -> list[memoryview]:
    """Return what is left of a group of buffers after its first `written` bytes."""
    for index, buffer in enumerate(group):
        if written < len(buffer):
            return [buffer[written:], *group[index + 1 :]]
        written -= len(buffer)
    return []
