"""Newest wins among extents of one disk, exact to the sector. Pure: numpy in, numpy out, no loop over extents.

An extent is (first sector, sectors, place): `place` is where its data begins, in sectors of whatever space the
caller numbers, at least 1; 0 means zeros. A *net* is extents that are sorted and do not overlap.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from journal.frame import BLOCK, SECTOR
from journal.table import Int64s, spread

PER_BLOCK = BLOCK // SECTOR
ZERO_PLACE = 0
WINDOW_BLOCKS = 1 << 23  # a map is made for 32 GiB of disk at a time: a table of 32 MiB most often
_SMALL = 4  # aligned extents of up to so many blocks on average are cut into blocks


class Extents(NamedTuple):
    """Extents of one disk as columns (int64): first sector, length in sectors, place of the data or 0."""

    start: Int64s
    sectors: Int64s
    place: Int64s

    def __len__(self) -> int:
        return len(self.start)

    def taken(self, which: Int64s | slice) -> Extents:
        """Return some of the extents."""
        return Extents(self.start[which], self.sectors[which], self.place[which])

    def inside(self, low: int, high: int) -> Extents:
        """Return what of a net lies in the sectors from `low` up to before `high`."""
        first = int(np.searchsorted(self.start, low, "right")) - 1
        if first < 0 or int(self.start[first] + self.sectors[first]) <= low:
            first += 1
        last = int(np.searchsorted(self.start, high))
        start, sectors, place = self.taken(slice(first, last))
        if len(start) and (int(start[0]) < low or int(start[-1] + sectors[-1]) > high):
            begin, end = np.maximum(start, low), np.minimum(start + sectors, high)
            start, sectors, place = begin, end - begin, shifted(place, begin - start)
        return Extents(start, sectors, place)


NO_EXTENTS = Extents(*[np.empty(0, np.int64)] * 3)


def distinct(values: Int64s) -> Int64s:
    """Return the different values, ascending. (np.unique imports numpy.ma: ten milliseconds of a new process.)"""
    ordered = np.sort(values)
    return ordered[np.append(True, ordered[1:] != ordered[:-1])] if len(ordered) else ordered


def is_among(values: Int64s, ascending: Int64s) -> npt.NDArray[np.bool_]:
    """Return for each value whether it is one of some ascending ones. (np.isin imports numpy.ma too.)"""
    if not len(ascending):
        return np.zeros(len(values), np.bool_)
    at = np.searchsorted(ascending, values)
    found: npt.NDArray[np.bool_] = ascending[np.minimum(at, len(ascending) - 1)] == values
    return found


def shifted(place: Int64s, sectors: Int64s | np.int64) -> Int64s:
    """Return places so many sectors further on; zeros stay zeros."""
    return np.where(place == ZERO_PLACE, ZERO_PLACE, place + sectors)


def joined(parts: list[Extents]) -> Extents:
    """Return extents one after the other."""
    if len(parts) < 2:
        return parts[0] if parts else NO_EXTENTS
    return Extents(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def net_of(start: Int64s, sectors: Int64s, place: Int64s) -> Extents:
    """Return the net of extents whose order is their age, the newest last.

    Takes time by their number, not by their length. Neighbours whose data lies in one piece are made one.
    """
    if len(start) and not ((start | sectors) & (PER_BLOCK - 1)).any():
        blocks = sectors // PER_BLOCK
        if int(blocks.sum()) <= _SMALL * len(start):
            return merged(_net_of_blocks(start // PER_BLOCK, blocks, place))
    return merged(_net_of_cells(Extents(start, sectors, place)))


def _net_of_blocks(first: Int64s, count: Int64s, place: Int64s) -> Extents:
    """Newest wins: of equal neighbours in the order of the blocks the last."""
    block = spread(first, count)
    if len(block) > len(first):
        steps = spread(np.zeros_like(first), count, PER_BLOCK)
        place = shifted(np.repeat(place, count), steps)
    order = _ordered(block)
    block = block[order]
    newest = np.append(block[1:] != block[:-1], True)
    block = block[newest]
    return Extents(block * PER_BLOCK, np.full(len(block), PER_BLOCK, np.int64), place[order[newest]])


def _ordered(block: Int64s) -> Int64s:
    """Return the order of blocks, equal ones as they came: by halves of 16 bits, which numpy sorts by radix."""
    if int(block.max()) >= 1 << 32:
        return np.argsort(block, kind="stable")
    order = np.argsort(block.astype(np.uint16), kind="stable")
    return order[np.argsort((block >> 16).astype(np.uint16)[order], kind="stable")]


def _net_of_cells(extents: Extents) -> Extents:
    """Newest wins among the cells that all the edges of extents cut the disk into."""
    start, sectors, place = extents
    edges, index = np.unique(np.concatenate([start, start + sectors]), return_inverse=True)
    owner = _newest_over(index[: len(start)], index[len(start) :], max(len(edges) - 1, 0))
    cells = np.flatnonzero(owner >= 0)
    who = owner[cells]
    begin = edges[cells]
    return Extents(begin, edges[cells + 1] - begin, shifted(place[who], begin - start[who]))


def _newest_over(low: Int64s, high: Int64s, cells: int) -> Int64s:
    """Return for each cell the highest i with low[i] <= cell < high[i], or -1.

    A range is the union of two that are powers of two long; what is known of such a range is known of its halves.
    """
    level = np.frexp((high - low).astype(np.float64))[1] - 1
    owner = np.full(cells, -1, np.int64)
    top = int(level.max(initial=0))
    for power in range(top, -1, -1):
        width = 1 << power
        if power < top:
            halves = owner.copy()
            np.maximum(halves[width:], owner[:-width], out=halves[width:])
            owner = halves
        at = np.flatnonzero(level == power)
        for places in (low[at], high[at] - width):
            # Ascending: of equal places the last counts, which is the newest.
            owner[places] = np.maximum(owner[places], at)
    return owner


def merged(net: Extents) -> Extents:
    """Return a net with neighbours made one whose data lies in one piece."""
    start, sectors, place = net
    if len(net) < 2:
        return net
    follows = start[1:] == start[:-1] + sectors[:-1]
    goes_on = np.where(
        place[:-1] == ZERO_PLACE, place[1:] == ZERO_PLACE, place[1:] == place[:-1] + sectors[:-1]
    )
    heads = np.flatnonzero(np.append(True, ~(follows & goes_on)))
    if len(heads) == len(net):
        return net
    lengths = np.add.reduceat(sectors, heads)
    return Extents(start[heads], lengths, place[heads])
