"""Checking a journal from end to end: every checksum, count and link. Writes nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import xxhash

from journal import layout
from journal.history import Damage, Epoch
from journal.reader import JournalReader
from journal.scan import SegmentScan

Progress = Callable[[int, int], None]


@dataclass
class CheckReport:
    """What a check found. `bytes`: of the segments; `torn_bytes`: a frame never acknowledged."""

    journal: str
    name: str
    segments: int = 0
    frames: int = 0
    records: int = 0
    bytes: int = 0
    torn_bytes: int = 0
    epochs: list[Epoch] = field(default_factory=list)
    damaged: list[Damage] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged."""
        return not self.damaged


def check(folder: Path | str, progress: Progress | None = None) -> CheckReport:
    """Verify a journal. `progress(done, total)` is told bytes of the segments.

    Raises NotAJournal, WrongFormat, DamagedJournal when there is nothing that could be checked.
    """
    reader = JournalReader(folder)
    report = CheckReport(reader.journal_id, reader.name)
    scans = [(line.number, reader.scans(line.number)) for line in reader.timelines()]
    total = sum(scan.limit for _, own in scans for scan in own)
    data = _DataCheck(report, total, progress or (lambda done, total: None))
    report.damaged = [
        damage for damage in reader.damage() if damage.lost or damage.first_lsn == damage.next_lsn
    ]
    for offset in reader.meta.damaged:
        path = reader.folder / layout.META_LOG
        report.damaged.append(Damage(0, 0, 0, path, offset, "the metadata log is damaged here", lost=False))
    for timeline, own in scans:
        report.epochs += [e for e in reader.epochs(timeline) if e not in report.epochs]
        for index, scan in enumerate(own):
            _check_links(report, timeline, own, index)
            data.check(timeline, scan)
    report.damaged.sort(key=lambda damage: (damage.timeline, damage.first_lsn, damage.offset))
    return report


def _check_links(report: CheckReport, timeline: int, scans: list[SegmentScan], index: int) -> None:
    """Compare a segment's footer with its frames, and its header with the segment before."""
    scan = scans[index]
    report.segments += 1
    report.frames += scan.frame_count
    report.records += scan.record_count
    last = index + 1 == len(scans)
    if last and not scan.sealed:
        report.torn_bytes += scan.limit - scan.end
    reasons = []
    if not last and not scan.sealed and not scan.tail_reason:
        reasons.append("the segment has no footer")
    if scan.footer and not scan.bad and not scan.tail_reason:
        counted = (scan.frame_count, scan.record_count, scan.next_lsn, scan.digest)
        footer = scan.footer
        if (footer.frames, footer.records, footer.next_lsn, footer.digest) != counted:
            reasons.append("the footer does not fit the frames: some were removed or altered")
    before = scans[index - 1] if index else None
    digest = _digest(before) if before else layout.NO_DIGEST
    if scan.header and scan.header.previous != digest:
        reasons.append("the segment does not follow the one before it: that was removed or altered")
    for reason in reasons:
        where = (scan.first_lsn, scan.first_lsn, scan.path, 0, reason)
        report.damaged.append(Damage(timeline, *where, lost=False))


def _digest(scan: SegmentScan) -> bytes:
    return scan.footer.digest if scan.footer else scan.digest


class _DataCheck:
    """Reads the data of every frame and compares its checksum."""

    def __init__(self, report: CheckReport, total: int, progress: Progress) -> None:
        self._report = report
        self._total = total
        self._progress = progress

    def check(self, timeline: int, scan: SegmentScan) -> None:
        """Check the data of one segment."""
        done = self._report.bytes
        fd = os.open(scan.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            for row in scan.frames.array():
                reason = _data_problem(fd, int(row["data"]), int(row["data_bytes"]), int(row["payload_sum"]))
                if reason:
                    first, epoch = int(row["first_lsn"]), int(row["epoch"])
                    where = (first, first + int(row["records"]), scan.path, int(row["offset"]), reason)
                    self._report.damaged.append(Damage(timeline, *where, epoch, epoch, lost=False))
                self._progress(done + int(row["data"]) + int(row["data_bytes"]), self._total)
        finally:
            os.close(fd)
        self._report.bytes = done + scan.limit
        self._progress(self._report.bytes, self._total)


def _data_problem(fd: int, place: int, length: int, expected: int) -> str | None:
    if not length:
        return None
    try:
        data = os.pread(fd, length, place)
    except OSError as error:
        return f"the data cannot be read: {error.strerror}"
    if len(data) != length or xxhash.xxh3_64_intdigest(data) != expected:
        return "the data does not match its checksum"
    return None
