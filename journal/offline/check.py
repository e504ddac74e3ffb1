"""Checking a journal from end to end: every checksum, count and link. Writes nothing into the journal.

What was read already is remembered outside of it, so that an interrupted check goes on where it stopped.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import xxhash

from journal import layout, metalog
from journal.history import Damage, Epoch
from journal.index.cachetruth import Wrong
from journal.offline.checkcache import cache_problems
from journal.offline.checklinks import file_damage, log_damage
from journal.offline.checkstate import BadFrame, CheckState, FileRead, default_state
from journal.offline.places import require_outside
from journal.offline.salvage import open_salvaged, timeline_numbers
from journal.reader import JournalReader
from journal.scan import SegmentScan
from journal.table import Table

__all__ = ["CheckReport", "check", "default_state"]

Progress = Callable[[int, int], None]
_SAVE_EVERY_S = 5.0
_ROUNDS = 8


@dataclass
class CheckReport:
    """What a check found. `bytes`: of the segments; `torn_bytes`: at the newest one's end, never acknowledged.

    `resumed_bytes` were read by the check that was interrupted. `caches` are no part of the journal: deleting them
    does no harm. `remarks` are sentences about what is no damage.
    """

    journal: str
    name: str
    segments: int = 0
    net_segments: int = 0
    frames: int = 0
    records: int = 0
    bytes: int = 0
    torn_bytes: int = 0
    resumed_bytes: int = 0
    epochs: list[Epoch] = field(default_factory=list)
    damaged: list[Damage] = field(default_factory=list)
    caches: list[Wrong] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing of the journal is damaged, and no cache would make a reader give a wrong answer."""
        return not self.damaged and not any(cache.believed for cache in self.caches)

    @property
    def damaged_metadata(self) -> int:
        """How many of `damaged` are of JOURNAL and meta.log alone: no record is lost with them."""
        return sum(_is_metadata(damage) for damage in self.damaged)


def _is_metadata(damage: Damage) -> bool:
    return damage.path.name in (layout.IDENTITY, layout.META_LOG) and damage.first_lsn >= damage.next_lsn


def check(
    folder: Path | str,
    progress: Progress | None = None,
    *,
    state: Path | None = None,
    keep_state: bool = False,
    restart: bool = False,
) -> CheckReport:
    """Verify a journal. `progress(done, total)` is told bytes of the segments.

    With `state` (a file) or `keep_state` (the default file), what has been read is remembered until the check is
    complete: also when it ends with KeyboardInterrupt. `restart` begins anew. Raises NotAJournal, WrongFormat,
    DamagedJournal when there is nothing that could be checked, InsideJournal and StateNotAFile when
    `state` is no place for it.
    """
    opened = open_salvaged(folder)
    reader = opened.reader
    report = CheckReport(reader.journal_id, reader.name)
    path = state or (default_state(reader.journal_id) if keep_state else None)
    if path:
        require_outside(path, reader.folder)
    kept = CheckState.load(path, reader.journal_id, restart)
    report.damaged = [
        Damage(0, 0, 0, lost.path, lost.offset, lost.reason, lost=False) for lost in opened.lost
    ]
    try:
        found = _DataCheck(reader, report, kept, progress or (lambda done, total: None)).run()
    finally:
        kept.save()
    _check_heads(reader, report)
    report.damaged += found
    report.damaged.sort(key=lambda damage: (damage.timeline, damage.first_lsn, damage.offset))
    report.caches = cache_problems(reader)
    _remark(reader, report)
    kept.forget()
    if kept.problem:
        report.remarks.append(kept.problem)
    return report


def _check_heads(reader: JournalReader, report: CheckReport) -> None:
    """Take up what the heads of the frames, the footers, the chain and the metadata log say."""
    report.damaged += [d for d in reader.damage() if d.lost or d.first_lsn == d.next_lsn]
    report.damaged += log_damage(reader)
    for line in reader.timelines():
        report.epochs += [e for e in reader.epochs(line.number) if e not in report.epochs]
        scans = reader.scans(line.number)
        for index, scan in enumerate(scans):
            report.segments += not scan.is_net
            report.net_segments += scan.is_net
            report.frames += scan.frame_count
            report.records += scan.record_count
            report.bytes += scan.limit
            if index + 1 == len(scans) and not scan.sealed:
                report.torn_bytes += scan.limit - scan.end
            report.damaged += file_damage(line.number, scans, index)


def _remark(reader: JournalReader, report: CheckReport) -> None:
    if report.torn_bytes:
        report.remarks.append(
            f"the last {report.torn_bytes} bytes of the newest segment are no whole frame: a frame that was being "
            "written and never acknowledged; the next writer cuts it off"
        )
    log = reader.folder / layout.META_LOG
    torn = log.stat().st_size - metalog.read(log).end if log.exists() else 0
    if torn > 0:
        report.remarks.append(f"the last {torn} bytes of {layout.META_LOG} are no whole record")
    for number in timeline_numbers(reader.folder):
        every = layout.all_files(reader.folder, number)
        left = len(every) - len(layout.without_left_overs(every))
        if left:
            report.remarks.append(
                f"{left} files of timeline {number} are left over from a crash: they do not count"
            )


class _DataCheck:
    """Reads the data of every frame and compares its checksum."""

    def __init__(
        self, reader: JournalReader, report: CheckReport, state: CheckState, progress: Progress
    ) -> None:
        self._reader = reader
        self._report = report
        self._state = state
        self._progress = progress
        self._done: dict[str, list[Damage]] = {}
        self._bytes = self._total = self._shown = 0
        self._saved = time.monotonic()

    def run(self) -> list[Damage]:
        """Return every frame whose data is bad. Files that retention replaces meanwhile are looked at anew."""
        for _ in range(_ROUNDS):
            files = [
                (t.number, scan) for t in self._reader.timelines() for scan in self._reader.scans(t.number)
            ]
            self._take_known(files)
            if self._read([(number, scan) for number, scan in files if self._name(scan) not in self._done]):
                return [bad for _, scan in files for bad in self._done[self._name(scan)]]
            self._reader.refresh()
        self._report.remarks.append("retention replaced files again and again: the newest were not read")
        return [bad for found in self._done.values() for bad in found]

    def _name(self, scan: SegmentScan) -> str:
        return str(scan.path.relative_to(self._reader.folder))

    def _take_known(self, files: list[tuple[int, SegmentScan]]) -> None:
        begun = 0
        for number, scan in files:
            name, known = self._name(scan), self._state.known(self._name(scan), scan)
            if name in self._done or not known.frames:
                continue
            if known.frames == scan.frame_count:
                self._done[name] = [_damage(number, scan, bad) for bad in known.bad]
                self._bytes += scan.limit
                self._report.resumed_bytes += scan.limit
            else:
                begun += int(scan.frames.array()["offset"][known.frames])
        self._report.resumed_bytes += begun
        left = sum(scan.limit for _, scan in files if self._name(scan) not in self._done)
        self._total = self._bytes + left
        self._tell(self._bytes + begun)

    def _read(self, files: list[tuple[int, SegmentScan]]) -> bool:
        """Read files; return False when one of them is gone, or is another by now."""
        for number, scan in files:
            try:
                fd = layout.open_file(scan.path)
            except layout.NotAFile:
                self._done[self._name(scan)] = []  # the heads say what it is
                continue
            except FileNotFoundError:
                return False
            try:
                if scan.inode != os.fstat(fd).st_ino:
                    return False
                if scan.sealed:  # what the disk holds counts, not what memory remembers of it
                    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                found = self._frames(fd, scan)
            finally:
                os.close(fd)
            self._done[self._name(scan)] = [_damage(number, scan, bad) for bad in found]
            self._bytes += scan.limit
            self._tell(self._bytes)
        return True

    def _frames(self, fd: int, scan: SegmentScan) -> list[BadFrame]:
        """Return the bad frames of a file; how far it has been read is remembered whatever happens."""
        name = self._name(scan)
        count, found = self._state.known(name, scan)
        try:
            for row in scan.frames.array()[count:]:
                reason = _data_problem(fd, row)
                if reason:
                    lsns = (int(row["first_lsn"]), int(row["next_lsn"]))
                    found.append(BadFrame(int(row["offset"]), *lsns, int(row["epoch"]), reason))
                count += 1
                if time.monotonic() - self._saved > _SAVE_EVERY_S:
                    self._save(name, scan, FileRead(count, found))
                self._tell(self._bytes + int(row["data"]) + int(row["data_bytes"]))
        finally:
            self._state.remember(name, scan, FileRead(count, found))
        return found

    def _tell(self, done: int) -> None:
        """Tell how far it is; a file that has changed is read again, and nothing goes back for that."""
        self._shown = max(self._shown, done)
        self._progress(self._shown, self._total)

    def _save(self, name: str, scan: SegmentScan, read: FileRead) -> None:
        """Write the state now and then: the process may be killed."""
        self._state.remember(name, scan, read)
        self._state.save()
        self._saved = time.monotonic()


def _damage(timeline: int, scan: SegmentScan, bad: BadFrame) -> Damage:
    where = (bad.first_lsn, bad.next_lsn, scan.path, bad.offset, bad.reason)
    return Damage(timeline, *where, bad.epoch, bad.epoch, lost=False)


def _data_problem(fd: int, row: Table) -> str | None:
    length, place = int(row["data_bytes"]), int(row["data"])
    if not length:
        return None
    try:
        data = os.pread(fd, length, place)
    except OSError as error:
        return f"the data cannot be read: {error.strerror}"
    if len(data) != length or xxhash.xxh3_64_intdigest(data) != int(row["payload_sum"]):
        return "the data does not match its checksum"
    return None
