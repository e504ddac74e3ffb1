"""The nets of one file, from its frames and record tables: per (epoch, rank, disk), newest record wins."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from journal.frame import SECTOR, WRITE
from journal.index.chunks import Key, MemoryUnit
from journal.map.net import ZERO_PLACE, Extents, distinct, net_of
from journal.table import SECTOR_BITS, SECTOR_MASK, Int64s, Table, data_sectors, spread


class Columns(Protocol):
    """A column of a file."""

    def array(self) -> npt.NDArray[Any]:
        """Return all of it."""


class Scanned(Protocol):
    """What nets are made of: frames (dtype FRAME), records, and the place of each record's data in sectors."""

    @property
    def frames(self) -> Columns:
        """One row for each frame."""

    @property
    def rows(self) -> Columns:
        """One row for each record."""

    @property
    def places(self) -> Columns:
        """One place for each record."""

    @property
    def is_net(self) -> bool:
        """Whether a frame stands for an interval."""


def nets_of(
    scan: Scanned, last_lsn: int | None = None, disk: int | None = None
) -> Iterator[tuple[Key, Extents]]:
    """Yield the nets of a file, of its records up to an LSN and of one disk when these are given."""
    frames = scan.frames.array()
    frames = frames[frames["records"] > 0]
    count: Int64s = frames["records"]
    if last_lsn is not None:
        within = (frames["next_lsn"] if scan.is_net else frames["first_lsn"] + 1) <= last_lsn + 1
        frames = frames[within]
        count = frames["records"]
        if not scan.is_net:
            count = np.minimum(count, last_lsn + 1 - frames["first_lsn"])
    layer = frames["epoch"] * 2 + (frames["kind"] % 2)
    for number in distinct(layer).tolist():
        of_layer = layer == number
        index = _rows_of(frames["row"][of_layer], count[of_layer])
        yield from _by_disk(scan, number >> 1, number & 1, index, disk)


def _rows_of(first: Int64s, count: Int64s) -> Int64s | slice:
    """Return the rows of some frames; as a slice where they follow one another, as nearly always: nothing is copied."""
    if (first[1:] == first[:-1] + count[:-1]).all():
        return slice(int(first[0]), int(first[-1] + count[-1]))
    return spread(first, count)


def _by_disk(
    scan: Scanned, epoch: int, rank: int, index: Int64s | slice, disk: int | None
) -> Iterator[tuple[Key, Extents]]:
    rows, places = scan.rows.array()[index], scan.places.array()[index]
    disks = (rows["place"] >> SECTOR_BITS).astype(np.int64)
    for number in [disk] if disk is not None else distinct(disks).tolist():
        of_disk = disks == number
        if not of_disk.any():
            continue
        chosen, place = (rows, places.copy()) if of_disk.all() else (rows[of_disk], places[of_disk])
        place[(chosen["how"] & 15) != WRITE] = ZERO_PLACE
        start = (chosen["place"] & SECTOR_MASK).astype(np.int64)
        yield Key(epoch, rank, int(number)), net_of(start, chosen["sectors"].astype(np.int64), place)


def unit_of(scan: Scanned, last_lsn: int | None = None, disk: int | None = None) -> MemoryUnit:
    """Return the nets of a file in memory."""
    return MemoryUnit(nets_of(scan, last_lsn, disk))


def places_of(frames: Table, rows: Table) -> Int64s:
    """Return where the data of every record begins, in sectors of the file."""
    lengths = data_sectors(rows)
    before = np.cumsum(lengths) - lengths
    filled = frames[frames["records"] > 0]
    result: Int64s = before + np.repeat(filled["data"] // SECTOR - before[filled["row"]], filled["records"])
    return result
