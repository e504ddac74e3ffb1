"""What a job will do, before it is done: points before and after, bytes of the net segment. Reads no payload."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from journal.frame import BLOCK, MAX_RECORDS
from journal.history import History
from journal.retention.collect import Rows, newest, payload_bytes, records_of, rows_of
from journal.retention.netfile import FRAME_BYTES, RECORD_SECTORS
from journal.retention.plan import Job
from journal.retention.thin import counted_epochs
from journal.scan import SegmentScan
from journal.table import RECORD


def net_bytes(scans: Sequence[SegmentScan], history: History, job: Job) -> int:
    """Return about how many bytes the net segment of a job takes: exact but for its notes and its heads' padding."""
    total = 2 * BLOCK  # header and footer
    low = job.first_lsn
    for end in job.ends:
        inside = [s for s in scans if s.first_lsn <= end and s.following_lsn > low]
        rows = newest(rows_of(inside, low, end + 1, counted_epochs(history, end))) if inside else None
        total += _interval_bytes(rows) if rows is not None else BLOCK
        low = end + 1
    return total


def _interval_bytes(rows: Rows) -> int:
    total = 0
    for key in np.unique(rows.key):
        records = records_of(rows.taken(np.flatnonzero(rows.key == key)), RECORD_SECTORS)
        payload = int(payload_bytes(records.rows.kind[records.first], records.sectors).sum())
        frames = max(1, -(-payload // FRAME_BYTES), -(-len(records.sectors) // MAX_RECORDS))
        total += payload + frames * BLOCK + len(records.sectors) * RECORD.itemsize // BLOCK * BLOCK
    return max(total, BLOCK)


def points_before(history: History, job: Job) -> int:
    """Return how many recovery points there are now in what a job covers."""
    count, at = 0, job.first_lsn
    for span in sorted(history.spans):
        low, high = max(span.first, at), min(span.last, job.next_lsn - 1)
        if low <= high:
            count += _points(history, span.epoch, low, high)
            at = high + 1
    return count


def _points(history: History, number: int, low: int, high: int) -> int:
    epoch = history.epoch(number)
    if epoch is not None and epoch.order == "cycle":
        cuts = {cut.lsn for cut in history.cuts if cut.epoch == number and low <= cut.lsn <= high}
        return sum(history.thinned.allows(lsn) for lsn in cuts)
    count = high - low + 1
    for part in history.thinned.ranges:
        first, last = max(low, part.first_lsn), min(high, part.next_lsn - 1)
        if first <= last:
            ends = np.searchsorted(part.ends, [first, last + 1])
            count += int(ends[1] - ends[0]) - (last - first + 1)
    return count


def points_after(history: History, job: Job) -> int:
    """Return how many recovery points a job leaves."""
    return sum(history.is_point(lsn) for lsn in job.ends)
