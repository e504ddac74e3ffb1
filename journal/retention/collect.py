"""The newest of every sector in one interval of LSNs, as pieces of the files that hold it. Reads no payload."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from journal.frame import WRITE
from journal.map.net import net_of
from journal.scan import SegmentScan
from journal.table import SECTOR_BITS, SECTOR_MASK, Int64s, Table, spread

_SHARD = 1 << 21
"""Records whose net is made at once: more are taken in ranges of sectors, so that memory stays bounded."""


_LONGEST = 1 << 31


class Rows(NamedTuple):
    """Records in the order of their rank: what wins stands later. `key`: 2 * epoch, + 1 when captured.

    `source`: number of the file, `place`: sector of the file where a write's data begins.
    """

    key: Int64s
    disk: Int64s
    start: Int64s
    sectors: Int64s
    kind: Int64s
    source: Int64s
    place: Int64s

    def taken(self, which: Int64s) -> Rows:
        """Return some of the rows."""
        return Rows(*(column[which] for column in self))


def rows_of(scans: Sequence[SegmentScan], first_lsn: int, next_lsn: int, epochs: Int64s) -> Rows:
    """Return the records of some epochs that stand in an interval, by their rank."""
    parts = [_rows_of_file(scan, number, first_lsn, next_lsn, epochs) for number, scan in enumerate(scans)]
    rows = Rows(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    return rows.taken(np.argsort(rows.key, kind="stable"))


def _frames(scan: SegmentScan, first_lsn: int, next_lsn: int) -> Table:
    """Return the frames with records in an interval; those of a net segment stand at the end of theirs."""
    frames = scan.frames.array()
    low = int(np.searchsorted(frames["next_lsn"], first_lsn, "right"))
    if scan.is_net:
        high = int(np.searchsorted(frames["next_lsn"], next_lsn, "right"))
        found: Table = frames[low:high]  # also those without records: their time counts
        return found
    high = int(np.searchsorted(frames["first_lsn"], next_lsn, "left"))
    found = frames[low:high]
    return found[found["records"] > 0]


def _rows_of_file(scan: SegmentScan, number: int, first_lsn: int, next_lsn: int, epochs: Int64s) -> Rows:
    frames = _frames(scan, first_lsn, next_lsn)
    frames = frames[(frames["records"] > 0) & np.isin(frames["epoch"], epochs)]
    skipped = np.zeros(len(frames), np.int64)
    count = frames["records"]
    if not scan.is_net:
        skipped = np.maximum(first_lsn - frames["first_lsn"], 0)
        count = np.minimum(frames["first_lsn"] + count, next_lsn) - frames["first_lsn"] - skipped
    index = spread(frames["row"] + skipped, count) if len(frames) else np.empty(0, np.int64)
    rows = scan.rows.array()[index]
    key = np.repeat(frames["epoch"] * 2 + (frames["kind"] & 1), count)
    return Rows(
        key,
        (rows["place"] >> SECTOR_BITS).astype(np.int64),
        (rows["place"] & SECTOR_MASK).astype(np.int64),
        rows["sectors"].astype(np.int64),
        (rows["how"] & 15).astype(np.int64),
        np.full(len(rows), number, np.int64),
        scan.places.array()[index].astype(np.int64),
    )


def newest(rows: Rows) -> Rows:
    """Return what of each record no later one hides, ordered by key, disk and sector."""
    parts = [part for disk in np.unique(rows.disk).tolist() for part in _of_disk(rows, disk)]
    if not parts:
        return rows
    found = Rows(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    return found.taken(np.lexsort((found.start, found.disk, found.key)))


def _of_disk(rows: Rows, disk: int) -> Iterator[Rows]:
    own = rows.taken(np.flatnonzero(rows.disk == disk))
    inner = np.sort(own.start)[_SHARD::_SHARD]
    for low, high in pairwise(np.unique([0, *inner, 1 << int(SECTOR_BITS)]).tolist()):
        yield _net(own, low, high)


def _net(own: Rows, low: int, high: int) -> Rows:
    """Return the newest of the sectors from `low` up to before `high` of one disk."""
    end = own.start + own.sectors
    inside = own.taken(np.flatnonzero((own.start < high) & (end > low)))
    begin = np.maximum(inside.start, low)
    sectors = np.minimum(inside.start + inside.sectors, high) - begin
    # Each record gets numbers of its own for its sectors, apart from all others': what is left is known by them.
    own_place = 1 + np.cumsum(sectors + 1) - (sectors + 1)
    start, length, place = net_of(begin, sectors, own_place)
    who = np.searchsorted(own_place, place, "right") - 1
    moved = start - inside.start[who]
    left = inside.taken(who)
    return left._replace(start=start, sectors=length, place=left.place + moved)


class Records(NamedTuple):
    """Rows cut and joined to the records of a net segment.

    `rows`: pieces in the order of the records; piece i belongs to record `record[i]`. `first`: the first piece of each
    record; `sectors`: length of each record.
    """

    rows: Rows
    record: Int64s
    first: Int64s
    sectors: Int64s


def records_of(rows: Rows, limit: int) -> Records:
    """Return neighbouring pieces of the same kind joined to records of less than 2 * `limit` sectors."""
    rows = _split(rows, limit)
    count = len(rows.start)
    if not count:
        return Records(rows, *([np.empty(0, np.int64)] * 3))
    same = (
        (rows.key[1:] == rows.key[:-1])
        & (rows.disk[1:] == rows.disk[:-1])
        & (rows.kind[1:] == rows.kind[:-1])
    )
    follows = same & (rows.start[1:] == rows.start[:-1] + rows.sectors[:-1])
    heads = np.flatnonzero(np.append(True, ~follows))
    run = np.cumsum(np.append(True, ~follows)) - 1
    within = (rows.start - rows.start[heads][run]) // limit
    breaks = np.append(True, (run[1:] != run[:-1]) | (within[1:] != within[:-1]))
    first = np.flatnonzero(breaks)
    return Records(rows, np.cumsum(breaks) - 1, first, np.add.reduceat(rows.sectors, first))


def _split(rows: Rows, limit: int) -> Rows:
    """Cut writes into pieces of at most `limit` sectors, discards and zeroings so that two are one record."""
    longest = np.where(rows.kind == WRITE, limit, _LONGEST)
    pieces = -(-rows.sectors // longest)
    if (pieces == 1).all():
        return rows
    index = np.repeat(np.arange(len(pieces)), pieces)
    moved = spread(np.zeros(len(pieces), np.int64), pieces) * longest[index]
    cut = rows.taken(index)
    sectors = np.minimum(cut.sectors - moved, longest[index])
    return cut._replace(start=cut.start + moved, sectors=sectors, place=cut.place + moved)


def last_times(scans: Sequence[SegmentScan], first_lsn: int, next_lsn: int) -> dict[int, int]:
    """Return the time (ns) of the newest record of every epoch that has records in an interval."""
    found: dict[int, int] = {}
    for scan in scans:
        for row in _frames(scan, first_lsn, next_lsn):
            epoch = int(row["epoch"])
            if not row["records"] and not row["base_time"]:
                continue  # it is there for its notes alone, and those may stand before the interval
            found[epoch] = max(found.get(epoch, 0), _last_time(scan, row, first_lsn, next_lsn))
    return found


def _last_time(scan: SegmentScan, row: np.void, first_lsn: int, next_lsn: int) -> int:
    if scan.is_net:
        return int(row["base_time"])
    first, after = int(row["first_lsn"]), int(row["next_lsn"])
    low, high = max(first, first_lsn), min(after, next_lsn)
    if (low, high) == (first, after):
        return int(row["last_time"])
    begin = int(row["row"]) + low - first
    how = scan.rows.array()["how"][begin : begin + high - low]
    return int(row["base_time"]) + (int(how.max()) >> 8) * 1000


def payload_bytes(kind: Int64s, sectors: Int64s) -> Int64s:
    """Return how many bytes of a payload each record takes."""
    return np.where(kind == WRITE, (sectors + 7) & ~7, 0) * 512
