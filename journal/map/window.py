"""A range of a disk's blocks as a dense table of places, filled with nets from the oldest to the newest."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from journal.index.chunks import Blocks, Part
from journal.map.net import PER_BLOCK, ZERO_PLACE, Extents, distinct, shifted
from journal.table import Int64s, spread

_BATCH = 1 << 18  # blocks that are expanded at once
_LONG = 512  # a run of more blocks is assigned by itself

Places = npt.NDArray[Any]


class Window(NamedTuple):
    """Blocks from `first` on. `table` (None: all zeros): per block a place in sectors, 0 for zeros, -1 - k for row k of
    `patches`, which has a place for each of the block's eight sectors."""

    first: int
    blocks: int
    table: Places | None
    patches: Places

    @property
    def room(self) -> int:
        """The bytes of memory that it takes."""
        return (0 if self.table is None else self.table.nbytes) + self.patches.nbytes


class Filling:
    """A window being made. Parts are laid over one another; the last one laid on a sector stays."""

    def __init__(self, first: int, blocks: int, dtype: npt.DTypeLike) -> None:
        self.first = first
        self.blocks = blocks
        self._dtype = np.dtype(dtype)
        self._table: Places | None = None
        self._patches: Places = np.empty((0, PER_BLOCK), self._dtype)
        self._rows = 0
        self._steps: Places | None = None

    def window(self) -> Window:
        """Return what was laid."""
        if not self._rows:
            return Window(self.first, self.blocks, self._table, self._patches)
        # Rows of blocks that were written as a whole later are no part of the map.
        at = np.flatnonzero(self.table < 0)
        patches = self._patches[-1 - self.table[at]]
        self.table[at] = -1 - np.arange(len(at))
        return Window(self.first, self.blocks, self._table, patches)

    @property
    def table(self) -> Places:
        """The table; memory is only taken for what is laid."""
        if self._table is None:
            self._table = np.zeros(self.blocks, self._dtype)
        return self._table

    def lay(self, part: Part, base: int) -> None:
        """Lay a part of a net over what is there; `base`: sectors that its places are short of."""
        if isinstance(part, Blocks):
            self._lay_blocks(part, base)
            return
        low = self.first * PER_BLOCK
        extents = part.inside(low, low + self.blocks * PER_BLOCK)
        if not len(extents) or (self._table is None and not extents.place.any()):
            return
        start, place = extents.start - low, shifted(extents.place, np.int64(base))
        self._lay_extents(Extents(start, extents.sectors, place))

    def _lay_blocks(self, part: Blocks, base: int) -> None:
        step, place = part.step, part.place
        ahead = part.first - self.first
        if ahead < 0 or ahead + int(step[-1]) >= self.blocks:
            low, high = np.searchsorted(step, [max(-ahead, 0), max(self.blocks - ahead, 0)])
            step, place = step[low:high], place[low:high]
        index = step.astype(np.intp)
        index += ahead
        self.table[index] = place.astype(self._dtype) + self._dtype.type(base)

    def _lay_extents(self, extents: Extents) -> None:
        start, sectors, place = extents
        first = (start + PER_BLOCK - 1) // PER_BLOCK
        count = np.maximum((start + sectors) // PER_BLOCK - first, 0)
        inner = shifted(place, first * PER_BLOCK - start)
        self._lay_runs(first, count, inner)
        ends = ((start | sectors) & (PER_BLOCK - 1)) != 0
        if ends.any():
            self._lay_ends(extents.taken(np.flatnonzero(ends)))

    def _lay_runs(self, first: Int64s, count: Int64s, place: Int64s) -> None:
        for at in np.flatnonzero(count > _LONG).tolist():
            self._lay_run(int(first[at]), int(count[at]), int(place[at]))
        short = np.flatnonzero((count > 0) & (count <= _LONG))
        filled = np.cumsum(count[short]) // _BATCH
        for batch in np.split(short, np.flatnonzero(np.diff(filled)) + 1):
            if len(batch):
                blocks = spread(first[batch], count[batch])
                places = spread(place[batch], count[batch], PER_BLOCK)
                zero = place[batch] == ZERO_PLACE
                if zero.any():
                    places = np.where(np.repeat(zero, count[batch]), ZERO_PLACE, places)
                self.table[blocks] = places

    def _lay_run(self, first: int, count: int, place: int) -> None:
        if place == ZERO_PLACE:
            self.table[first : first + count] = ZERO_PLACE
            return
        if self._steps is None or len(self._steps) < count:
            self._steps = np.arange(count).astype(self._dtype) * self._dtype.type(PER_BLOCK)
        np.add(self._steps[:count], self._dtype.type(place), out=self.table[first : first + count])

    def _lay_ends(self, extents: Extents) -> None:
        """Lay the parts of blocks at the two ends of extents that do not overlap."""
        start, end = extents.start, extents.start + extents.sectors
        head = np.flatnonzero(start % PER_BLOCK)
        tail = (end % PER_BLOCK != 0) & ((start % PER_BLOCK == 0) | (end // PER_BLOCK > start // PER_BLOCK))
        tail_at = np.flatnonzero(tail)
        last = end[tail_at] // PER_BLOCK
        low = start[head] % PER_BLOCK
        block = np.concatenate([start[head] // PER_BLOCK, last])
        lows = np.concatenate([low, np.zeros_like(last)])
        highs = np.concatenate([np.minimum(PER_BLOCK, low + extents.sectors[head]), end[tail_at] % PER_BLOCK])
        behind = shifted(extents.place[tail_at], last * PER_BLOCK - start[tail_at])
        self._patch(block, lows, highs, np.concatenate([extents.place[head], behind]))

    def _patch(self, block: Int64s, low: Int64s, high: Int64s, place: Int64s) -> None:
        different = distinct(block)
        rows = self._rows_of(different)
        count = high - low
        places = spread(place, count)
        places = np.where(np.repeat(place == ZERO_PLACE, count), ZERO_PLACE, places)
        at = spread(rows[np.searchsorted(different, block)] * PER_BLOCK + low, count)
        self._patches.reshape(-1)[at] = places

    def _rows_of(self, blocks: Int64s) -> Int64s:
        """Return the rows of some blocks in `patches`, made where there are none."""
        codes = self.table[blocks].astype(np.int64)
        new = np.flatnonzero(codes >= 0)
        rows = -1 - codes
        rows[new] = self._rows + np.arange(len(new))
        self._grow(len(new))
        whole = shifted(codes[new][:, None], np.arange(PER_BLOCK, dtype=np.int64)[None, :])
        self._patches[rows[new]] = whole
        self.table[blocks[new]] = -1 - rows[new]
        self._rows += len(new)
        return rows

    def _grow(self, more: int) -> None:
        if self._rows + more > len(self._patches):
            room = np.empty((max(self._rows + more, 2 * len(self._patches)), PER_BLOCK), self._dtype)
            room[: self._rows] = self._patches[: self._rows]
            self._patches = room
