"""From a point to the place of every block of a disk: newest record wins, exact to the sector."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from journal.blockmap import PER_BLOCK, SOURCE_SHIFT, ZERO_PLACE, BlockMap
from journal.data import SegmentData
from journal.errors import DiskTooLarge
from journal.frame import BLOCK, CAPTURED, SECTOR, WRITE
from journal.table import SECTOR_BITS, SECTOR_MASK, Int64s, spread

_CHUNK = 1 << 22  # blocks that are expanded at once
_LARGE = 1 << 14  # a record of more blocks is assigned by itself

Ranks = npt.NDArray[np.int32]


class Source(NamedTuple):
    """One segment of a lineage, and how far it counts."""

    data: SegmentData
    last_lsn: int
    last_epoch: int


class Extents(NamedTuple):
    """Records of one disk in the order of their rank; `place` in sectors over all sources, or ZERO_PLACE."""

    start: Int64s
    sectors: Int64s
    place: Int64s


def resolve(
    sources: Sequence[Source], epochs: Sequence[int], lsn: int, disk: int, disk_bytes: int
) -> BlockMap:
    """Return the map of `disk` at `lsn` made of the records of `epochs`. Raises DiskTooLarge."""
    extents = ranked(sources, epochs, lsn, disk, disk_bytes // SECTOR)
    try:
        table, patches = _fill(extents, -(-disk_bytes // BLOCK))
    except MemoryError:
        raise DiskTooLarge(f"the map of disk {disk} ({disk_bytes} bytes) does not fit into memory") from None
    return BlockMap(disk_bytes, table, patches, [source.data for source in sources])


def ranked(
    sources: Sequence[Source], epochs: Sequence[int], lsn: int, disk: int, disk_sectors: int
) -> Extents:
    """Return the records that count at a point: epoch by epoch, sync before captured, then by LSN."""
    first, count, key = _frames(sources, epochs, lsn)
    order = np.argsort(key, kind="stable")
    index = spread(first[order], count[order])
    rows = np.concatenate([s.data.scan.rows.array() for s in sources])[index]
    places = np.concatenate(
        [s.data.scan.places.array() + (number << SOURCE_SHIFT) for number, s in enumerate(sources)]
    )[index]
    start = (rows["place"] & SECTOR_MASK).astype(np.int64)
    wanted = ((rows["place"] >> SECTOR_BITS) == disk) & (start < disk_sectors)
    if not wanted.all():
        rows, places, start = rows[wanted], places[wanted], start[wanted]
    places[(rows["how"] & 15) != WRITE] = ZERO_PLACE
    # A disk that was larger in an earlier epoch: what lies beyond its present end is not there.
    sectors = np.minimum(rows["sectors"].astype(np.int64), disk_sectors - start)
    return Extents(start, sectors, places)


def _frames(sources: Sequence[Source], epochs: Sequence[int], lsn: int) -> tuple[Int64s, Int64s, Int64s]:
    """Return first row (over all sources), number of rows and sort key of each frame that counts."""
    firsts, counts, keys = [], [], []
    row_base = 0
    for source in sources:
        frames = source.data.scan.frames.array()
        last = min(lsn, source.last_lsn)
        counted = np.isin(frames["epoch"], np.array(epochs, np.int64)) & (
            frames["epoch"] <= source.last_epoch
        )
        frames = frames[counted & (frames["first_lsn"] <= last) & (frames["records"] > 0)]
        firsts.append(frames["row"] + row_base)
        counts.append(np.minimum(frames["records"], last + 1 - frames["first_lsn"]))
        keys.append(frames["epoch"] * 2 + (frames["kind"] == CAPTURED))
        row_base += len(source.data.scan.rows.array())
    return np.concatenate(firsts), np.concatenate(counts), np.concatenate(keys)


def _fill(extents: Extents, blocks: int) -> tuple[Int64s, Int64s]:
    """Return the table of places, and the places per sector of the blocks that are put together."""
    table = np.full(blocks, ZERO_PLACE, np.int64)
    parts = _parts(extents)
    ranks = np.full(blocks, -1, np.int32) if len(parts.rank) else None
    first = (extents.start + PER_BLOCK - 1) // PER_BLOCK
    count = np.maximum((extents.start + extents.sectors) // PER_BLOCK - first, 0)
    place = _shifted(extents.place, first * PER_BLOCK - extents.start)
    for begin, end in _batches(count):
        if end - begin == 1:
            _assign(table, ranks, begin, int(first[begin]), int(count[begin]), int(place[begin]))
        else:
            _scatter(table, ranks, begin, first[begin:end], count[begin:end], place[begin:end])
    if ranks is None:
        return table, np.empty((0, PER_BLOCK), np.int64)
    return table, _patch(table, ranks, parts)


def _shifted(place: Int64s, sectors: Int64s) -> Int64s:
    return np.where(place == ZERO_PLACE, ZERO_PLACE, place + sectors)


def _batches(count: Int64s) -> list[tuple[int, int]]:
    """Cut the records into runs of a bounded number of blocks; one with very many blocks stands alone."""
    if not len(count):
        return []
    large = np.flatnonzero(count > _LARGE)
    filled = np.cumsum(np.where(count > _LARGE, 0, count)) // _CHUNK
    cuts = np.concatenate([[0, len(count)], large, large + 1, np.flatnonzero(np.diff(filled)) + 1])
    edges = np.unique(cuts).tolist()
    return list(pairwise(edges))


def _assign(table: Int64s, ranks: Ranks | None, rank: int, first: int, count: int, place: int) -> None:
    steps = np.arange(count, dtype=np.int64) * PER_BLOCK + place
    table[first : first + count] = ZERO_PLACE if place == ZERO_PLACE else steps
    if ranks is not None:
        ranks[first : first + count] = rank


def _scatter(
    table: Int64s, ranks: Ranks | None, rank: int, first: Int64s, count: Int64s, place: Int64s
) -> None:
    """Write the whole blocks of some records into the table; the last assignment to a block wins."""
    index = spread(first, count)
    places = spread(place, count, PER_BLOCK)
    zero = place == ZERO_PLACE
    if zero.any():
        places = np.where(np.repeat(zero, count), ZERO_PLACE, places)
    table[index] = places
    if ranks is not None:
        ranks[index] = np.repeat(np.arange(rank, rank + len(first), dtype=np.int32), count)


class _Parts(NamedTuple):
    """Parts of blocks: sectors low to high of `block`, the place of sector `low`, the rank of the record."""

    rank: Int64s
    block: Int64s
    low: Int64s
    high: Int64s
    place: Int64s


def _parts(extents: Extents) -> _Parts:
    """Return the parts of blocks that records cover at their two ends, ordered by rank."""
    start, end = extents.start, extents.start + extents.sectors
    head = np.flatnonzero(start % PER_BLOCK)
    tail = np.flatnonzero(
        (end % PER_BLOCK != 0) & ((start % PER_BLOCK == 0) | (end // PER_BLOCK > start // PER_BLOCK))
    )
    low = start[head] % PER_BLOCK
    last = end[tail] // PER_BLOCK
    heads = (head, start[head] // PER_BLOCK, low, np.minimum(PER_BLOCK, low + extents.sectors[head]))
    tails = (tail, last, np.zeros_like(tail), end[tail] % PER_BLOCK)
    places = (extents.place[head], _shifted(extents.place[tail], last * PER_BLOCK - start[tail]))
    rank, block, low, high, place = (
        np.concatenate(p) for p in zip((*heads, places[0]), (*tails, places[1]), strict=True)
    )
    order = np.argsort(rank, kind="stable")
    return _Parts(rank[order], block[order], low[order], high[order], place[order])


def _patch(table: Int64s, ranks: Ranks, parts: _Parts) -> Int64s:
    """Lay newer parts over the blocks that they touch: their places per sector, and codes in `table`."""
    newer = parts.rank > ranks[parts.block]
    block, low, high, place = (column[newer] for column in parts[1:])
    touched, row = np.unique(block, return_inverse=True)
    base = table[touched]
    sectors = _shifted(base[:, None], np.arange(PER_BLOCK, dtype=np.int64)[None, :])
    count = high - low
    places = spread(place, count)
    places = np.where(np.repeat(place == ZERO_PLACE, count), ZERO_PLACE, places)
    # Ordered by rank: the last assignment to a sector is the newest.
    sectors.reshape(-1)[spread(row * PER_BLOCK + low, count)] = places
    table[touched] = -2 - np.arange(len(touched), dtype=np.int64)
    return sectors
