"""A disk at a point, made readable: BlockMap turns offsets into the verified bytes that lie in segments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from journal.data import SegmentData
from journal.errors import OutsideDisk
from journal.frame import BLOCK, SECTOR
from journal.table import Int64s

ZERO_PLACE = -1
SOURCE_SHIFT = 36
PER_BLOCK = BLOCK // SECTOR
_PLACE_MASK = (1 << SOURCE_SHIFT) - 1
_ZEROS = memoryview(bytes(1 << 20))


class Run(NamedTuple):
    """A range of the disk (bytes) that lies in one piece: `place` as in BlockMap.table."""

    offset: int
    length: int
    place: int


class BlockMap:
    """The place of every 4 KiB block of a disk at a point. Immutable; safe for several threads.

    `table` (int64, one per block): >= 0 a place, (source << 36 | sector in the source's file); -1 a block of
    zeros; -2 - k row k of `patches`, which has a place for each of the block's eight sectors.
    """

    def __init__(
        self, disk_bytes: int, table: Int64s, patches: Int64s, sources: Sequence[SegmentData]
    ) -> None:
        self.disk_bytes = disk_bytes
        self.table = table
        self.patches = patches
        self._sources = sources

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
        """Return the bytes of a range as views, copying nothing of sealed segments.

        A frame's checksum is compared before its first byte is handed out. Raises OutsideDisk, FrameError.
        """
        found: list[memoryview] = []
        for run in self.runs(offset, length):
            if run.place == ZERO_PLACE:
                whole, rest = divmod(run.length, len(_ZEROS))
                found += [_ZEROS] * whole + ([_ZEROS[:rest]] if rest else [])
            else:
                found.append(self._data(run))
        return found

    def _data(self, run: Run) -> memoryview:
        source = self._sources[run.place >> SOURCE_SHIFT]
        inside = run.offset % SECTOR
        return source.read((run.place & _PLACE_MASK) * SECTOR + inside, run.length)

    def extents(self, offset: int = 0, length: int | None = None) -> Iterator[tuple[int, int, bool]]:
        """Yield (offset, length, whether there is data) over a range, neighbours differing. Bytes."""
        length = self.disk_bytes - offset if length is None else length
        self._check(offset, length)
        if not length:
            return
        first, end = offset // BLOCK, -(-(offset + length) // BLOCK)
        data = self.table[first:end] != ZERO_PLACE
        edges = [0, *(np.flatnonzero(data[1:] != data[:-1]) + 1).tolist(), end - first]
        for low, high in pairwise(edges):
            begin = max((first + low) * BLOCK, offset)
            stop = min((first + high) * BLOCK, offset + length)
            yield begin, stop - begin, bool(data[low])

    def runs(self, offset: int = 0, length: int | None = None) -> Iterator[Run]:
        """Yield the pieces of a range (bytes) in order; a run's `place` is that of its offset's sector."""
        length = self.disk_bytes - offset if length is None else length
        self._check(offset, length)
        end = offset + length
        for low, high, place in self._block_runs(offset, end):
            if place >= ZERO_PLACE:
                yield _cut_to(low, high, place, offset, end)
            else:
                yield from self._patched(low, place, offset, end)

    def _block_runs(self, offset: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Yield (offset, end, place) of runs of whole blocks around a range of bytes."""
        step = 1 << 20  # blocks looked at at once: bounds the memory that a whole disk takes
        last = -(-end // BLOCK)
        for first in range(offset // BLOCK, last, step):
            table = self.table[first : min(first + step, last)]
            goes_on = (table[1:] == table[:-1] + PER_BLOCK) & (table[:-1] >= 0)
            goes_on |= (table[1:] == ZERO_PLACE) & (table[:-1] == ZERO_PLACE)
            edges = [0, *(np.flatnonzero(~goes_on) + 1).tolist(), len(table)]
            for low, high in pairwise(edges):
                yield (first + low) * BLOCK, (first + high) * BLOCK, int(table[low])

    def _patched(self, block_offset: int, code: int, offset: int, end: int) -> Iterator[Run]:
        places = self.patches[-2 - code].tolist()
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
        low = source << SOURCE_SHIFT | offset // SECTOR
        high = low + length // SECTOR
        return any(bool(((places >= low) & (places < high)).any()) for places in (self.table, self.patches))

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.disk_bytes:
            raise OutsideDisk(f"bytes {offset} to {offset + length} of a disk of {self.disk_bytes} bytes")


def _cut_to(low: int, high: int, place: int, offset: int, end: int) -> Run:
    begin, stop = max(low, offset), min(high, end)
    return Run(begin, stop - begin, place if place < 0 else place + (begin - low) // SECTOR)
