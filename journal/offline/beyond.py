"""What lies behind the point that was restored and is damaged: whoever restores must know what is not in the image."""

from __future__ import annotations

from dataclasses import dataclass

from journal.errors import NotRecoverable
from journal.offline.checklinks import missing_newest
from journal.ranges import DAMAGED, Range, ranges
from journal.reader import JournalReader


@dataclass(frozen=True)
class DamagedAfter:
    """History after a point that cannot be had exactly: LSNs, both ends included, times in ns of the source's clock.

    `first_wall`: of the last record before it; None where a time is not known. `reasons` are sentences. `whole_from`:
    the first exact point after it. `torn_bytes`: what stands behind the newest whole frame of a segment in use: a frame
    that was being written and never acknowledged, or a damaged last one; nobody can tell.
    """

    first_lsn: int
    last_lsn: int
    first_wall: int | None
    last_wall: int | None
    reasons: list[str]
    whole_from: int | None
    torn_bytes: int


def damaged_after(reader: JournalReader, lsn: int, timeline: int) -> DamagedAfter | None:
    """Return what is damaged of a timeline after a point, None when nothing is. Looks at heads, reads no data."""
    lineage = reader.lineage(timeline)
    stretches = ranges(lineage.history, lineage.times.known_until)
    bad = [r for r in stretches if r.kind == DAMAGED and max(r.first_lsn, r.last_lsn) > lsn]
    gone = [m for m in missing_newest(reader) if m.timeline == timeline and m.named > lsn]
    torn = _torn(reader, timeline)
    if not (bad or gone or torn):
        return None
    ends = [max(r.first_lsn, r.last_lsn) for r in bad] + [m.named for m in gone]
    begins = [max(r.first_lsn, lsn + 1) for r in bad] + [m.newest + 1 for m in gone]
    last = max(ends, default=lineage.history.last_lsn)
    reasons = list(dict.fromkeys([r.reason for r in bad if r.reason] + [m.reason for m in gone]))
    first = min(begins, default=last + 1)
    whole = lineage.history.after(last) if ends else None
    return DamagedAfter(
        first, last, _wall(reader, first - 1, timeline), _end(bad, bool(gone)), reasons, whole, torn
    )


def _wall(reader: JournalReader, lsn: int, timeline: int) -> int | None:
    try:
        return reader.record_time(lsn, timeline)
    except NotRecoverable:
        return None


def _end(bad: list[Range], gone: bool) -> int | None:
    """Return up to when it is damaged; not known where the newest files are gone."""
    return None if gone else max((r.last_wall for r in bad if r.last_wall is not None), default=None)


def _torn(reader: JournalReader, timeline: int) -> int:
    scans = reader.scans(timeline)
    scan = scans[-1] if scans else None
    return scan.limit - scan.end if scan and not scan.sealed and not scan.suspect else 0
