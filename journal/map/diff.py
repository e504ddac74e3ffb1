"""What differs between two points: told by where the blocks lie, no data is read.

Two maps are compared by the files that their places lie in, whatever timelines they are of. A block that was written
since the last common ancestor of two points counts as different although the same bytes may have been written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from journal.frame import BLOCK
from journal.map.blockmap import BlockMap, Space
from journal.map.net import PER_BLOCK, ZERO_PLACE
from journal.map.window import Places, Window
from journal.table import Int64s

if TYPE_CHECKING:
    from journal.reader import JournalReader

_STEP = 1 << 20  # blocks that are compared at once


class Extent(NamedTuple):
    """A range of a disk, in bytes."""

    offset: int
    length: int


class Amount(NamedTuple):
    """How much differs: blocks of 4096 bytes, and bytes."""

    blocks: int
    bytes: int


def diff(a: BlockMap, b: BlockMap) -> Iterator[Extent]:
    """Yield the ranges in which two disks may differ, in order, apart from each other.

    Where one disk ends before the other, all that follows differs.
    """
    smaller, larger = sorted((a.disk_bytes, b.disk_bytes))
    pending: Extent | None = None
    for extent in _found(a, b, smaller, larger):
        if pending and pending.offset + pending.length == extent.offset:
            pending = Extent(pending.offset, pending.length + extent.length)
            continue
        if pending:
            yield pending
        pending = extent
    if pending:
        yield pending


def amount(extents: Iterable[Extent]) -> Amount:
    """Return how much the extents of a diff are."""
    blocks = total = 0
    for offset, length in extents:
        blocks += -(-(offset + length) // BLOCK) - offset // BLOCK
        total += length
    return Amount(blocks, total)


def differing(
    reader: JournalReader, first: tuple[int, int], second: tuple[int, int], disk: int | str
) -> Iterator[Extent]:
    """Yield the ranges in which a disk may differ between two points, each (timeline, LSN).

    Raises NotRecoverable, NoSuchDisk, NoSuchTimeline, DamagedJournal.
    """
    a = reader.resolve(first[1], disk, first[0])
    return diff(a, reader.resolve(second[1], disk, second[0]))


def _found(a: BlockMap, b: BlockMap, smaller: int, larger: int) -> Iterator[Extent]:
    same = _Same(a.space, b.space)
    shared = smaller // BLOCK  # a block that is cut off at the end of one disk differs when the other goes on
    if smaller == larger:
        shared = -(-smaller // BLOCK)
    for ours, theirs in zip(a.windows(0, shared), b.windows(0, shared), strict=True):
        blocks = min(ours.blocks, theirs.blocks, shared - ours.first)
        for low in range(0, blocks, _STEP):
            high = min(low + _STEP, blocks)
            for begin, end in _runs(same.differs(ours, theirs, low, high)):
                offset = (ours.first + low + begin) * BLOCK
                yield Extent(offset, min((ours.first + low + end) * BLOCK, larger) - offset)
    if shared * BLOCK < larger and smaller != larger:
        yield Extent(shared * BLOCK, larger - shared * BLOCK)


def _runs(flags: Places) -> Iterator[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.view(np.int8), [0]])))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


class _Same:
    """Compares places of two maps: those of the second are told in the space of the first."""

    def __init__(self, a: Space, b: Space) -> None:
        known = {source.identity: number for number, source in enumerate(a.sources) if source.held}
        beyond = int(a.bases[-1]) + 1
        bases = []
        for number, source in enumerate(b.sources):
            there = known.get(source.identity) if source.held else None
            # Places of files that the first map does not have are equal to none of its places.
            bases.append(beyond + int(b.bases[number]) if there is None else int(a.bases[there]))
        self._moved: Int64s = np.array(bases, np.int64) - b.bases[:-1]
        self._bases: Int64s = b.bases
        self._equal = not self._moved.any()

    def _told(self, places: Places) -> Places:
        if self._equal:
            return places
        result = places.astype(np.int64)
        at = result > 0
        result[at] += self._moved[np.searchsorted(self._bases, result[at], "right") - 1]
        return result

    def differs(self, ours: Window, theirs: Window, low: int, high: int) -> Places:
        """Return for each block of a part of two windows whether it may differ."""
        mine, other = _table(ours, low, high), _table(theirs, low, high)
        result = mine != self._told(other)
        patched = np.flatnonzero((mine < 0) | (other < 0))
        if len(patched):
            sectors = _sectors(mine[patched], ours), self._told(_sectors(other[patched], theirs))
            result[patched] = (sectors[0] != sectors[1]).any(axis=1)
        return np.asarray(result)


def _table(window: Window, low: int, high: int) -> Places:
    if window.table is None:
        return np.zeros(high - low, np.int64)
    return window.table[low:high]


def _sectors(codes: Places, window: Window) -> Places:
    """Return the places of the eight sectors of some blocks."""
    codes = codes.astype(np.int64)
    steps = np.arange(PER_BLOCK, dtype=np.int64)[None, :]
    result: Places = np.where((codes == ZERO_PLACE)[:, None], ZERO_PLACE, codes[:, None] + steps)
    patched = np.flatnonzero(codes < 0)
    result[patched] = window.patches[-1 - codes[patched]]
    return result
