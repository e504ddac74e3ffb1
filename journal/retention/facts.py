"""What the planner wants to know of a timeline, read from the journal: files, cuts, and what must be kept."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from journal import pins
from journal.history import Damage, History
from journal.layout import NetHeader
from journal.reader import JournalReader
from journal.retention import dating
from journal.retention.plan import CutFact, Facts, FileFact
from journal.retention.thin import is_whole
from journal.scan import SegmentScan

IN_USE = "it is in use"
NOT_ENDED = "has not ended"


def facts_of(reader: JournalReader, timeline: int, now: int) -> Facts:
    """Return what the planner needs of a timeline as of the reader's last refresh. `now`: appliance's clock, ns."""
    scans = reader.scans(timeline)
    history = reader.lineage(timeline).history
    damage = [d for d in reader.damage() if d.timeline == timeline]
    reasons = _fixed(scans, history, damage)
    dated = dating.spans([scan.header.created if scan.header else None for scan in scans], now)
    files = tuple(map(_file, scans, dated, reasons))
    needed = pins.required(reader.folder, reader.meta.records, now)
    required = frozenset(point.lsn for point in needed if point.timeline == timeline)
    return Facts(files, _cuts(history, files, reader.timeline(timeline).fork_lsn), required)


def _file(scan: SegmentScan, span: tuple[int, int], fixed: str) -> FileFact:
    ends = tuple((scan.intervals - 1).tolist()) if scan.is_net else None
    size = scan.path.stat().st_size if scan.path.exists() else 0
    return FileFact(
        scan.first_lsn, scan.following_lsn, size, *span, ends, fixed=fixed, largest=_largest(scan)
    )


def _largest(scan: SegmentScan) -> int:
    """Return the bytes of the data of a net segment's largest interval, 0 for a segment."""
    frames = scan.frames.array()
    if not scan.is_net or not len(frames):
        return 0
    heads = np.flatnonzero(np.append(True, frames["next_lsn"][1:] != frames["next_lsn"][:-1]))
    return int(np.add.reduceat(frames["data_bytes"], heads).max())


def _fixed(scans: Sequence[SegmentScan], history: History, damage: Sequence[Damage]) -> list[str]:
    """Return for each file why it must stay as it is, or "".

    The last sealed segment stays, too: when the frames of the one in use were lost with the power, it says where the
    tap must go on.
    """
    sealed = [index for index, scan in enumerate(scans) if scan.sealed and not scan.is_net]
    last = sealed[-1] if sealed else 0
    reasons = [IN_USE if index >= last else _why_fixed(scans, index, damage) for index in range(len(scans))]
    newest = history.epochs[-1] if history.epochs else None
    if newest and newest.valid_from is None and newest.gap_reason is None:
        for index, scan in enumerate(scans):
            if scan.epoch >= newest.number and not reasons[index]:
                reasons[index] = f"the sync of epoch {newest.number} {NOT_ENDED}"
    return reasons


def _why_fixed(scans: Sequence[SegmentScan], index: int, damage: Sequence[Damage]) -> str:
    scan = scans[index]
    if not is_whole(scan):
        return "it is damaged"
    if index and _digest(scans[index - 1]) != getattr(scan.header, "previous", None):
        return "it does not follow the file before it"
    low, high = _epochs(scan)
    for bad in damage:
        # Which epochs are valid may be said in bytes that are lost: nothing of theirs is given up.
        if bad.path == scan.path or (bad.lost and bad.low_epoch <= high and low <= bad.high_epoch):
            return f"it holds or needs damaged records ({bad.reason})"
    return ""


def _digest(scan: SegmentScan) -> bytes:
    return scan.header.stands_for if isinstance(scan.header, NetHeader) else scan.digest


def _epochs(scan: SegmentScan) -> tuple[int, int]:
    epochs = scan.frames.array()["epoch"]
    return (int(epochs.min()), int(epochs.max())) if len(epochs) else (0, 0)


def _cuts(history: History, files: Sequence[FileFact], fork_lsn: int) -> tuple[CutFact, ...]:
    """Return the cuts that are recovery points of this timeline's own files."""
    starts = [file.first_lsn for file in files]
    found = []
    spans = {span.epoch: span for span in history.spans}
    for cut in history.cuts:
        span = spans.get(cut.epoch)
        if span is None or not span.first <= cut.lsn <= span.last or cut.lsn <= fork_lsn:
            continue
        index = bisect_right(starts, cut.lsn) - 1
        if index < 0 or not history.thinned.allows(cut.lsn):
            continue
        # A guest's clock may be wrong, and an offset measured by a wrong one: the file knows better.
        around = (files[index].oldest, files[index].newest)
        time, known = dating.cut_time(cut.wall - (cut.offset or 0), around)
        found.append(CutFact(cut.number, cut.lsn, time, cut.kind, known))
    return tuple(found)


def journal_bytes(folder: Path) -> int:
    """Return the bytes of all files of a journal."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
