"""What is bad in and between the segments of a timeline, by their scans."""

from __future__ import annotations

from collections.abc import Sequence

from journal.history import Damage
from journal.notes import EpochNote
from journal.scan import PlacedNote, SegmentScan


def segment_damage(timeline: int, scans: Sequence[SegmentScan], due: int) -> list[Damage]:
    """Return what is bad in and between the segments of a timeline whose first record has LSN `due`."""
    found: list[Damage] = []
    epoch = 0
    for index, scan in enumerate(scans):
        if scan.first_lsn > due:
            reason = "the segment before this one is missing or cut short"
            high = int(scan.frames.array()["epoch"][0]) if scan.frame_count else epoch + 1
            found.append(Damage(timeline, due, scan.first_lsn, scan.path, 0, reason, epoch, high))
        if scan.header is None:
            reason = "the segment's header is damaged"
            found.append(Damage(timeline, scan.first_lsn, scan.first_lsn, scan.path, 0, reason, lost=False))
        for bad in scan.bad:
            low = bad.low_epoch or epoch
            where = (bad.first_lsn, bad.next_lsn, scan.path, bad.offset, bad.reason)
            found.append(Damage(timeline, *where, low, bad.high_epoch))
        epoch = scan.epoch or epoch
        due = scan.next_lsn
        if scan.tail_reason and (scan.sealed or scan.suspect or index + 1 < len(scans)):
            due = _damaged_end(found, timeline, scan, scans[index + 1 :], epoch)
    return found


def _damaged_end(
    found: list[Damage], timeline: int, scan: SegmentScan, later: Sequence[SegmentScan], epoch: int
) -> int:
    """Name the bad bytes at the end of a segment that is not the one in use; return the LSN that follows."""
    following = later[0].first_lsn if later and not scan.footer else scan.following_lsn
    known = bool(later) and later[0].frame_count > 0
    high = int(later[0].frames.array()["epoch"][0]) if known else epoch + 1
    if later and any(
        n.lsn == later[0].first_lsn - 1 and n.epoch == high and _begins(n) for n in later[0].notes
    ):
        high -= 1
    where = (scan.next_lsn, following, scan.path, scan.end, scan.tail_reason)
    found.append(Damage(timeline, *where, epoch, max(high, epoch)))
    return following


def _begins(placed: PlacedNote) -> bool:
    return isinstance(placed.note, EpochNote)
