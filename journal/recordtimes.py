"""When the records of one epoch were written: found by bisection, file by file, frame by frame, then in one frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from journal.scan import SegmentScan
from journal.table import Int64s, Table

_NEVER = -1


class Counted(Protocol):
    """A file of a lineage, and how far it counts."""

    @property
    def scan(self) -> SegmentScan:
        """What its heads say."""

    @property
    def last_lsn(self) -> int:
        """The last LSN that counts."""

    @property
    def last_epoch(self) -> int:
        """The last epoch that counts."""


class Reached(NamedTuple):
    """The last record up to a time: its LSN (that of its interval's end, when that is thinned), its time (ns, running
    maximum), the first LSN of its frame, and whether the record that follows in the epoch lies in a thinned range."""

    lsn: int
    mono: int
    first_lsn: int
    thinned_next: bool


class EpochRecords:
    """The records of an epoch in the order of the files. Looks at records of one frame for each question."""

    def __init__(self, sources: Sequence[Counted], number: int) -> None:
        self._number = number
        found = [(source, self._newest_of(source)) for source in sources if number <= source.last_epoch]
        self._sources = [source for source, newest in found if newest is not None]
        times = [newest for _, newest in found if newest is not None]
        self._tops: Int64s = np.maximum.accumulate(np.array(times, np.int64))

    @property
    def newest(self) -> int | None:
        """The time of the newest record."""
        return int(self._tops[-1]) if len(self._tops) else None

    def _newest_of(self, source: Counted) -> int | None:
        scan = source.scan
        if scan.first_lsn > source.last_lsn:
            return None
        if scan.next_lsn - 1 <= source.last_lsn:
            return scan.last_times.get(self._number)
        frames = self._frames(source)
        return int(self._run(source, frames, _NEVER)[-1]) if len(frames) else None

    def _frames(self, source: Counted) -> Table:
        """Return the frames of a file that have records of the epoch that count."""
        frames = source.scan.frames.array()
        begins = frames["next_lsn"] - 1 if source.scan.is_net else frames["first_lsn"]
        found: Table = frames[
            (frames["epoch"] == self._number) & (frames["records"] > 0) & (begins <= source.last_lsn)
        ]
        return found

    def _run(self, source: Counted, frames: Table, before: int) -> Int64s:
        """Return the newest time up to each frame's last record that counts."""
        times = frames["last_time"].copy()
        if int(frames["next_lsn"][-1]) - 1 > source.last_lsn:
            times[-1] = self._within(source, frames[-1], before)[-1]
        return np.maximum.accumulate(np.maximum(times, before))

    def _within(self, source: Counted, row: Table, before: int) -> Int64s:
        """Return the times of a frame's records that count (running maximum)."""
        first, count = int(row["row"]), int(row["records"])
        if not source.scan.is_net:
            count = min(count, source.last_lsn + 1 - int(row["first_lsn"]))
        how = source.scan.rows.array()["how"][first : first + count]
        times = int(row["base_time"]) + (how >> 8).astype(np.int64) * 1000
        return np.maximum.accumulate(np.maximum(times, before))

    def up_to(self, mono: int) -> Reached | None:
        """Return the last record up to a time (ns), None when there is none."""
        if not len(self._tops):
            return None
        number = min(int(np.searchsorted(self._tops, mono, "right")), len(self._tops) - 1)
        reached = self._in_file(number, mono)
        if reached is None and number:
            reached = self._in_file(number - 1, mono)
            if reached is not None:
                reached = reached._replace(thinned_next=self._sources[number].scan.is_net)
        return reached

    def _in_file(self, number: int, mono: int) -> Reached | None:
        source = self._sources[number]
        frames = self._frames(source)
        before = int(self._tops[number - 1]) if number else _NEVER
        run = self._run(source, frames, before)
        index = int(np.searchsorted(run, mono, "right"))
        if index < len(frames) and not source.scan.is_net:
            within = self._within(source, frames[index], int(run[index - 1]) if index else before)
            count = int(np.searchsorted(within, mono, "right"))
            if count:
                first = int(frames["first_lsn"][index])
                return Reached(first + count - 1, int(within[count - 1]), first, False)
        if not index:
            return None
        row = frames[index - 1]
        lsn = min(int(row["next_lsn"]) - 1, source.last_lsn)
        follows = number + (index == len(frames))
        thinned = follows < len(self._sources) and self._sources[follows].scan.is_net
        return Reached(lsn, int(run[index - 1]), int(row["first_lsn"]), thinned)

    def time_of(self, lsn: int) -> int | None:
        """Return the time (ns) of a record, None when there is none of that LSN, or it is thinned away."""
        for number, source in enumerate(self._sources):
            if not source.scan.first_lsn <= lsn < source.scan.following_lsn:
                continue
            frames = self._frames(source)
            before = int(self._tops[number - 1]) if number else _NEVER
            run = self._run(source, frames, before)
            at = np.flatnonzero((frames["first_lsn"] <= lsn) & (lsn < frames["next_lsn"]))
            if not len(at) or lsn > source.last_lsn:
                continue
            if source.scan.is_net:
                return int(run[at[-1]]) if lsn == int(frames["next_lsn"][at[-1]]) - 1 else None
            index = int(at[0])
            within = self._within(source, frames[index], int(run[index - 1]) if index else before)
            return int(within[lsn - int(frames["first_lsn"][index])])
        return None
