"""What differs between two points of a journal, disk by disk: from the index alone, no data is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from journal import layout
from journal.errors import NoSuchDisk, NotRecoverable
from journal.map.diff import Extent, amount, differing
from journal.notes import JournalDisk
from journal.offline.choose import BadPointText, choose
from journal.offline.instants import timed
from journal.reader import JournalReader


class PointOf(NamedTuple):
    """A point on a timeline, and the text that it was named by."""

    text: str
    timeline: int
    lsn: int


@dataclass(frozen=True)
class DiskDiff:
    """What may differ of a disk. `first_bytes`, `second_bytes`: its size at each point, None where it is not there."""

    disk: int
    name: str
    first_bytes: int | None
    second_bytes: int | None
    blocks: int
    bytes: int
    extents: list[Extent]


@dataclass(frozen=True)
class DiffReport:
    """What differs between two points."""

    journal: str
    name: str
    first: PointOf
    second: PointOf
    disks: list[DiskDiff]


def compare(folder: Path | str, first: str, second: str, disk: str | None = None) -> DiffReport:
    """Compare two points, each written POINT (on timeline 1) or N/POINT (on timeline N).

    Raises what choose() does, NotAJournal, WrongFormat, NotRecoverable, NoSuchDisk, NoSuchTimeline.
    """
    reader = JournalReader(folder)
    return reader.settled(lambda: _compared(reader, first, second, disk))


def _compared(reader: JournalReader, first: str, second: str, disk: str | None) -> DiffReport:
    a, b = _point(reader, first), _point(reader, second)
    disks = [_disk(reader, a, b, number) for number in _numbers(reader, a, b, disk)]
    return DiffReport(reader.journal_id, reader.name, a, b, disks)


def _point(reader: JournalReader, text: str) -> PointOf:
    number, slash, rest = text.partition("/")
    if not (slash and number.isascii() and number.isdigit()):
        return _chosen(reader, text, layout.MAIN, text)
    if not rest or len(number) > 9:
        raise BadPointText(f"{text!r}: a point of another timeline is written 2/latest")
    return _chosen(reader, rest, int(number), text)


def _chosen(reader: JournalReader, text: str, timeline: int, whole: str) -> PointOf:
    try:
        lsn = choose(reader, text, timeline)
        reader.point(lsn, timeline)
    except NotRecoverable as error:
        raise timed(reader.lineage(timeline), error) from error
    return PointOf(whole, timeline, lsn)


def _at(reader: JournalReader, point: PointOf) -> dict[int, JournalDisk]:
    return {disk.disk: disk for disk in reader.point(point.lsn, point.timeline).disks}


def _numbers(reader: JournalReader, a: PointOf, b: PointOf, wanted: str | None) -> list[int]:
    known = _at(reader, a) | _at(reader, b)
    found = sorted(number for number, disk in known.items() if wanted in (None, disk.name, str(number)))
    if not found:
        names = ", ".join(disk.name for disk in known.values())
        raise NoSuchDisk(f"neither point has a disk {wanted!r}; there is {names}")
    return found


def _disk(reader: JournalReader, a: PointOf, b: PointOf, number: int) -> DiskDiff:
    before, after = _at(reader, a).get(number), _at(reader, b).get(number)
    if before and after:
        places = ((a.timeline, a.lsn), (b.timeline, b.lsn))
        extents = list(differing(reader, *places, number))
    else:  # added or taken away between the points: all of it
        extents = [Extent(0, (before or after).bytes)]  # type: ignore[union-attr]
    name = (after or before).name  # type: ignore[union-attr]
    sizes = (before.bytes if before else None, after.bytes if after else None)
    return DiskDiff(number, name, *sizes, *amount(extents), extents)
