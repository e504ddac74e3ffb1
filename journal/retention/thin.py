"""Doing a job: neighbouring files become one net segment. Crash-safe by its order (docs/journal-format.md).

The net segment is written under a name that readers ignore, made durable, read back, and gets its name under the lock
of the metadata log, after a look whether a point that would go away is needed. Then what it replaces is deleted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from journal import layout, metalog, notes, pins
from journal.data import SegmentData
from journal.frame import FrameError
from journal.history import History
from journal.metalog import Meta
from journal.notes import CutNote, SyncNote
from journal.placed import PlacedNote
from journal.retention.collect import last_times, newest, rows_of
from journal.retention.errors import NetSegmentBad, NoRoomToThin, NotThinned
from journal.retention.netfile import NEW_SUFFIX, EpochShare, NetFile
from journal.retention.plan import Job
from journal.scan import Owner, SegmentScan
from journal.space import room
from journal.storage import sync_folder
from journal.table import Int64s
from lastwrite.failpoints import reach


class Done(NamedTuple):
    """What a job has done: the files that went and the one that came, in bytes.

    What it covers came between `oldest` (0: not known) and `newest` (ns, appliance's clock).
    """

    first_lsn: int
    next_lsn: int
    files: int
    bytes_before: int
    bytes_after: int
    oldest: int = 0
    newest: int = 0


class Thinner:
    """Does the jobs of one timeline. The caller holds the journal's upkeep lock."""

    def __init__(
        self,
        folder: Path,
        timeline: int,
        history: History,
        *,
        keep_free: int = 0,
        go_on: Callable[[], bool] = lambda: True,
    ) -> None:
        """`history` of the timeline as the jobs' facts were taken from it; `keep_free`: bytes that stay free.

        When `go_on` says no, the job that is being done is given up.
        """
        self._go_on = go_on
        self._folder = folder
        self._timeline = timeline
        self._history = history
        self._keep_free = keep_free
        self._owner = Owner(layout.read_identity(folder).journal.bytes, timeline)

    def do(self, job: Job) -> Done:
        """Do a job. On an error nothing has changed.

        Raises NotThinned, NoRoomToThin, NetSegmentBad, FrameError for files that turn out to be damaged, JournalFull,
        JournalWriteFailed.
        """
        sources = self._sources(job)
        self._require_room(job)
        path = layout.net_path(self._folder, self._timeline, job.first_lsn, job.next_lsn)
        new = path.with_name(path.stem + NEW_SUFFIX)
        metalog.upgrade(self._folder)
        try:
            footer = self._write(job, new, sources)
            self._verify(job, new, footer)
            self._put_in_place(job, new, path, sources, footer)
        finally:
            new.unlink(missing_ok=True)
        old = [source.scan.path for source in sources]
        delete_files([file for file in old if file != path], path)
        after = path.stat().st_size
        return Done(job.first_lsn, job.next_lsn, len(old), job.bytes, after, job.oldest, job.newest)

    def name_damage(self, error: FrameError) -> None:
        """Write into the log where data turned out to be damaged: nothing is thinned there from now on."""
        where = {"first_lsn": error.details["first_lsn"], "next_lsn": error.details["next_lsn"]}
        meta = {"meta": "damage", "timeline": self._timeline, **where, "reason": error.message}
        metalog.append(self._folder, meta)

    def _sources(self, job: Job) -> list[SegmentData]:
        """Open the files of a job. Raises NotThinned when they are not what the plan was made of."""
        files = [
            file
            for file in layout.files(self._folder, self._timeline)
            if job.first_lsn <= file.first_lsn < job.next_lsn
        ]
        sources = []
        due = job.first_lsn
        for file in files:
            scan = SegmentScan(file.path, file.first_lsn, self._owner, file.next_lsn, cached=False)
            scan.extend()
            if scan.first_lsn != due or not is_whole(scan):
                raise NotThinned(f"{file.path} is not what it was when the work was planned")
            source = SegmentData(scan)
            source.hold()
            sources.append(source)
            due = scan.following_lsn
        if due != job.next_lsn:
            raise NotThinned(
                f"files of timeline {self._timeline} between LSN {due} and {job.next_lsn} are gone"
            )
        return sources

    def _require_room(self, job: Job) -> None:
        free = room(self._folder).free
        if free - job.bytes < self._keep_free:
            raise NoRoomToThin(
                f"{self._folder}: LSN {job.first_lsn} to {job.next_lsn - 1} take {job.bytes} bytes, of {free} free"
                f" {self._keep_free} are to stay free"
            )

    def _write(self, job: Job, new: Path, sources: Sequence[SegmentData]) -> layout.Footer:
        first, last = sources[0].scan.header, sources[-1].scan
        assert first is not None  # a file without a header is not whole
        stands_for = last.header.stands_for if isinstance(last.header, layout.NetHeader) else last.digest
        header = layout.NetHeader(
            self._owner.journal, self._timeline, job.first_lsn, job.next_lsn, first.created, first.previous, stands_for
        )  # fmt: skip
        file = NetFile(new, header, sources, self._go_on)
        try:
            placed = self._notes(job, sources)
            low = job.first_lsn
            for end in job.ends:
                self._add_interval(file, low, end + 1, sources, placed)
                low = end + 1
            return file.seal()
        finally:
            file.close()

    def _add_interval(
        self, file: NetFile, low: int, high: int, sources: Sequence[SegmentData], placed: list[PlacedNote]
    ) -> None:
        """Write one interval; takes its notes away from the beginning of `placed`."""
        inside = [s.scan for s in sources if s.scan.first_lsn < high and s.scan.following_lsn > low]
        numbers = np.array([n for n, s in enumerate(sources) if s.scan in inside], np.int64)
        rows = newest(rows_of(inside, low, high, counted_epochs(self._history, high - 1)))
        count = next((n for n, note in enumerate(placed) if note.lsn >= high), len(placed))
        own, placed[:count] = placed[:count], []
        times = last_times(inside, low, high)
        shares = []
        for epoch in sorted({*times, *(note.epoch for note in own)}):
            said = [notes.unparse(n.note) | {"lsn": n.lsn} for n in own if n.epoch == epoch]
            shares.append(EpochShare(epoch, said, times.get(epoch, 0)))
        file.add_interval(low, high, shares, rows._replace(source=numbers[rows.source]))

    def _notes(self, job: Job, sources: Sequence[SegmentData]) -> list[PlacedNote]:
        """Return the notes that stay, in their order."""
        placed = [note for source in sources for note in source.scan.notes]
        return [note for note in placed if _stays(note, job)]

    def _verify(self, job: Job, new: Path, footer: layout.Footer) -> None:
        """Read a net segment back from its disk. Raises NetSegmentBad."""
        scan = SegmentScan(new, job.first_lsn, self._owner, job.next_lsn, cached=False)
        scan.extend()
        data = SegmentData(scan)
        reason = ""
        if not is_whole(scan) or scan.footer != footer:
            reason = scan.tail_reason or "its frames are not those that were written"
        elif (scan.intervals - 1).tolist() != list(job.ends):
            reason = "its intervals are not those that were wanted"
        bad = (self._checked(data, index) for index in range(scan.frame_count))
        reason = reason or next((why for why in bad if why), "")
        if reason:
            raise NetSegmentBad(f"{new} did not read back as it was written: {reason}")

    def _checked(self, data: SegmentData, index: int) -> str | None:
        if not self._go_on():
            raise NotThinned(f"{data.scan.path}: the work was ended before it was done")
        return data.damaged(index)

    def _put_in_place(
        self, job: Job, new: Path, path: Path, sources: Sequence[SegmentData], footer: layout.Footer
    ) -> None:
        def rename() -> None:
            new.rename(path)
            reach("net-renamed")
            sync_folder(path.parent)

        fields = {"timeline": self._timeline, "first_lsn": job.first_lsn, "next_lsn": job.next_lsn}
        meta = {"meta": "thinned", **fields, "digest": footer.digest, "created": time.time_ns()}
        metalog.append(
            self._folder, meta, lambda records: self._require_unneeded(job, sources, records), rename
        )
        reach("net-logged")

    def _require_unneeded(self, job: Job, sources: Sequence[SegmentData], records: list[Meta]) -> None:
        """Raise NotThinned when a point that would go away has been pinned, named, forked from or opened."""
        if self._timeline not in {line.number for line in metalog.timelines(records)}:
            raise NotThinned(f"timeline {self._timeline} has been given up")
        ends = set(job.ends)
        for point in pins.required(self._folder, records, time.time_ns(), sweep=True):
            if point.timeline != self._timeline or point.lsn in ends:
                continue
            if job.first_lsn <= point.lsn < job.next_lsn and _stands(point.lsn, sources):
                raise NotThinned(f"LSN {point.lsn} is needed ({point.reason}): it would go away")


def counted_epochs(history: History, last_lsn: int) -> Int64s:
    """Return the epochs whose records can count for a point from `last_lsn` on: valid ones, from the base on."""
    valid = [epoch for epoch in history.epochs if epoch.valid_from is not None]
    bases = [e.number for e in valid if e.is_base and (e.valid_from or 0) <= last_lsn]
    return np.array([e.number for e in valid if e.number >= max(bases, default=0)], np.int64)


def _stays(placed: PlacedNote, job: Job) -> bool:
    if isinstance(placed.note, SyncNote):
        return False
    if isinstance(placed.note, CutNote):
        return placed.note.kind == "sync-end" or placed.note.number in job.cuts
    return True


def _stands(lsn: int, sources: Sequence[SegmentData]) -> bool:
    """Return whether no net segment among the sources has given up `lsn` before."""
    for source in sources:
        if source.scan.first_lsn <= lsn < source.scan.following_lsn:
            return not source.scan.is_net or lsn + 1 in source.scan.intervals
    return False


def is_whole(scan: SegmentScan) -> bool:
    """Return whether a file is sealed, and nothing in its heads is damaged."""
    if scan.header is None or scan.footer is None or scan.bad or scan.tail_reason or scan.suspect:
        return False
    footer = scan.footer
    counted = (scan.frame_count, scan.record_count, scan.next_lsn, scan.digest)
    return (footer.frames, footer.records, footer.next_lsn, footer.digest) == counted


def delete_files(paths: Sequence[Path], kept: Path | None = None) -> None:
    """Delete files of a timeline with their caches; a cache beside `kept` was of a former file of that name."""
    for path in paths:
        path.unlink(missing_ok=True)
        reach("net-old-deleted")
    for path in [*paths, *([kept] if kept else [])]:
        for cache in (path.with_suffix(".idx"), path.with_suffix(".map")):
            cache.unlink(missing_ok=True)
    if paths:
        sync_folder(paths[0].parent)
