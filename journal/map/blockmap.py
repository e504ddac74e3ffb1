"""A disk at a point, made readable: BlockMap turns offsets into the verified bytes that lie in segments."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from journal.data import SegmentData
from journal.errors import OutsideDisk
from journal.frame import BLOCK, SECTOR
from journal.map.net import PER_BLOCK, WINDOW_BLOCKS, ZERO_PLACE
from journal.map.window import Places, Window

_ROOM = 112 << 20  # bytes of windows that are kept for any disk,
_ROOM_PER_100G = 32 << 20  # and more for each 100 GiB of it,
_MOST_ROOM = 2 << 30  # up to this
_ZEROS = memoryview(bytes(1 << 20))


class Run(NamedTuple):
    """A range of the disk (bytes) that lies in one piece: `place` in sectors of the map's files, 0 for zeros."""

    offset: int
    length: int
    place: int


class Space:
    """The files that a map's places lie in, one after the other: a place is a sector of all of them together."""

    def __init__(self, sources: Sequence[SegmentData], sectors: Sequence[int]) -> None:
        self.sources = sources
        self.bases = np.concatenate([[0], np.cumsum(np.array(sectors, np.int64))])
        self.dtype = np.dtype(np.int32 if int(self.bases[-1]) < 1 << 31 else np.int64)

    def read(self, place: int, inside: int, length: int) -> memoryview:
        """Return bytes from `inside` the sector at `place` on. Raises FrameError, DamagedJournal."""
        number = int(np.searchsorted(self.bases, place, "right")) - 1
        return self.sources[number].read((place - int(self.bases[number])) * SECTOR + inside, length)

    def read_all(self, pieces: Sequence[tuple[int, int, int]]) -> list[memoryview]:
        """Return what `read` returns for each of some pieces (place, inside, length), file by file, in their order."""
        if len(pieces) < 2:
            return [self.read(*piece) for piece in pieces]
        place, inside, length = np.array(pieces, np.int64).T
        number = np.searchsorted(self.bases, place, "right") - 1
        offsets, lengths = ((place - self.bases[number]) * SECTOR + inside).tolist(), length.tolist()
        of_file: dict[int, list[int]] = {}
        for at, file in enumerate(number.tolist()):
            of_file.setdefault(file, []).append(at)
        found = [_ZEROS] * len(pieces)
        for file, mine in of_file.items():
            data = self.sources[file].read_all([offsets[at] for at in mine], [lengths[at] for at in mine])
            for at, piece in zip(mine, data, strict=True):
                found[at] = piece
        return found


class BlockMap:
    """The place of every 4 KiB block of a disk at a point. Immutable; safe for several threads.

    It is made of windows, each when it is first asked for; a bounded number of them is kept. `fill` returns the window
    of so many blocks from a first one on. The files stay open: deleting them does no harm.
    """

    def __init__(self, disk_bytes: int, space: Space, fill: Callable[[int, int], Window]) -> None:
        self.disk_bytes = disk_bytes
        self.space = space
        self._fill = fill
        self._windows: dict[int, Window] = {}
        self._room = min(_ROOM + disk_bytes * _ROOM_PER_100G // (100 << 30), _MOST_ROOM)
        self._lock = threading.Lock()

    @property
    def blocks(self) -> int:
        """Number of blocks of the disk; the last one may be a part."""
        return -(-self.disk_bytes // BLOCK)

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes of the disk, any alignment. Raises OutsideDisk, FrameError."""
        return b"".join(self.pieces(offset, length))

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes at `offset`. Raises OutsideDisk, FrameError."""
        place = 0
        target = memoryview(buffer).cast("B")
        for piece in self.pieces(offset, len(target)):
            target[place : place + len(piece)] = piece
            place += len(piece)

    def pieces(self, offset: int, length: int) -> list[memoryview]:
        """Return the bytes of a range as views of what was read; zeros cost nothing.

        A frame's checksum is compared before its first byte is handed out. Raises OutsideDisk, FrameError.
        """
        found: list[memoryview] = []
        runs = list(self.runs(offset, length))
        data = iter(
            self.space.read_all(
                [(run.place, run.offset % SECTOR, run.length) for run in runs if run.place != ZERO_PLACE]
            )
        )
        for run in runs:
            if run.place == ZERO_PLACE:
                whole, rest = divmod(run.length, len(_ZEROS))
                found += [_ZEROS] * whole + ([_ZEROS[:rest]] if rest else [])
            else:
                found.append(next(data))
        return found

    def windows(self, first: int = 0, end: int | None = None) -> Iterator[Window]:
        """Yield the windows that the blocks from `first` up to before `end` lie in, in order."""
        end = self.blocks if end is None else end
        for number in range(first // WINDOW_BLOCKS, -(-end // WINDOW_BLOCKS)):
            yield self._window(number)

    def _window(self, number: int) -> Window:
        with self._lock:
            window = self._windows.pop(number, None)
            if window is None:
                first = number * WINDOW_BLOCKS
                self._make_room(min(WINDOW_BLOCKS, self.blocks - first) * self.space.dtype.itemsize)
                window = self._fill(first, min(WINDOW_BLOCKS, self.blocks - first))
            self._windows[number] = window  # the newest stands last
            return window

    def _make_room(self, more: int) -> None:
        kept = sum(window.room for window in self._windows.values())
        for number in list(self._windows):
            if kept + more <= self._room:
                break
            kept -= self._windows.pop(number).room

    def extents(self, offset: int = 0, length: int | None = None) -> Iterator[tuple[int, int, bool]]:
        """Yield (offset, length, whether there is data) over a range, neighbours differing. Bytes."""
        length = self.disk_bytes - offset if length is None else length
        self._check(offset, length)
        begin, known = offset, False
        for low, data in self._changes(offset, offset + length):
            if low > begin and data != known:
                yield begin, low - begin, known
                begin = low
            known = data
        if offset + length > begin:
            yield begin, offset + length - begin, known

    def _changes(self, offset: int, end: int) -> Iterator[tuple[int, bool]]:
        """Yield (offset, whether there is data) wherever that may change."""
        for first, _, table, _ in self._tables(offset, end):
            if table is None:
                yield max(first * BLOCK, offset), False
                continue
            data = table != ZERO_PLACE
            for low in [0, *(np.flatnonzero(data[1:] != data[:-1]) + 1).tolist()]:
                yield max((first + low) * BLOCK, offset), bool(data[low])

    def _tables(self, offset: int, end: int) -> Iterator[tuple[int, int, Places | None, Places]]:
        """Yield (first block, blocks, table, patches) around a range of bytes, window by window."""
        low, last = offset // BLOCK, -(-end // BLOCK)
        if low == last:
            return
        for window in self.windows(low, last):
            first = max(low, window.first)
            stop = min(last, window.first + window.blocks)
            table = None if window.table is None else window.table[first - window.first : stop - window.first]
            yield first, stop - first, table, window.patches

    def runs(self, offset: int = 0, length: int | None = None) -> Iterator[Run]:
        """Yield the pieces of a range (bytes) in order; a run's `place` is that of its offset's sector."""
        length = self.disk_bytes - offset if length is None else length
        self._check(offset, length)
        end = offset + length
        for first, blocks, table, patches in self._tables(offset, end):
            for low, high, place in _block_runs(first, blocks, table):
                if place >= ZERO_PLACE:
                    yield _cut_to(low, high, place, offset, end)
                else:
                    yield from self._patched(low, patches[-1 - place].tolist(), offset, end)

    def _patched(self, block_offset: int, places: list[int], offset: int, end: int) -> Iterator[Run]:
        first = max(offset - block_offset, 0) // SECTOR
        last = min(-(-(end - block_offset) // SECTOR), PER_BLOCK)
        while first < last:
            stop = first + 1
            while stop < last and places[stop] == (
                ZERO_PLACE if places[first] == ZERO_PLACE else places[stop - 1] + 1
            ):
                stop += 1
            low, high = block_offset + first * SECTOR, block_offset + stop * SECTOR
            yield _cut_to(low, high, places[first], offset, end)
            first = stop

    def needs(self, source: int, offset: int, length: int) -> bool:
        """Return whether any sector of the disk lies in that range (bytes) of a source's file."""
        low = int(self.space.bases[source]) + offset // SECTOR
        high = low + length // SECTOR
        for window in self.windows():
            tables = [window.patches] if window.table is None else [window.table, window.patches]
            if any(bool(((places >= low) & (places < high)).any()) for places in tables):
                return True
        return False

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.disk_bytes:
            raise OutsideDisk(f"bytes {offset} to {offset + length} of a disk of {self.disk_bytes} bytes")


def _cut_to(low: int, high: int, place: int, offset: int, end: int) -> Run:
    begin, stop = max(low, offset), min(high, end)
    return Run(begin, stop - begin, place if place <= 0 else place + (begin - low) // SECTOR)


def _block_runs(first: int, blocks: int, table: Places | None) -> Iterator[tuple[int, int, int]]:
    """Yield (offset, end, place) of runs of whole blocks: bytes, and the place of the first."""
    if table is None:
        yield first * BLOCK, (first + blocks) * BLOCK, ZERO_PLACE
        return
    step = 1 << 20  # blocks looked at at once: bounds the memory that a whole disk takes
    for begin in range(first, first + blocks, step):
        part = table[begin - first : begin - first + step]
        goes_on = (part[1:] == part[:-1] + PER_BLOCK) & (part[:-1] > 0)
        goes_on |= (part[1:] == ZERO_PLACE) & (part[:-1] == ZERO_PLACE)
        edges = [0, *(np.flatnonzero(~goes_on) + 1).tolist(), len(part)]
        for low, high in pairwise(edges):
            yield (begin + low) * BLOCK, (begin + high) * BLOCK, int(part[low])
