"""Instants: which LSN a wall time means, and when a record was written, by the source's clocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from journal.clock import EpochClock
from journal.errors import NotRecoverable
from journal.history import Epoch, History
from journal.resolve import Source
from journal.table import Int64s, Table, spread

_RECORD_REACH = 1000 << 24  # ns: no record is later than this after its frame's base_time


class Instant(NamedTuple):
    """The LSN that a wall time means; `wall` (ns) is the time of that record.

    `covered` is false when the journal cannot know the state at the asked time: it is later than the newest
    known time, before the first epoch, between two epochs, or after what is known before a gap. `reason` then
    says which. `epoch` is the epoch that the time lies in (0: none), `mono` (ns) the time on its monotonic clock.
    """

    lsn: int
    wall: int
    covered: bool
    reason: str = ""
    epoch: int = 0
    mono: int = 0


class EpochTimes(NamedTuple):
    """LSNs of an epoch's records and their monotonic times (ns, running maximum)."""

    lsns: Int64s
    monos: Int64s


class Times:
    """Times of one lineage, computed per epoch when first asked for."""

    def __init__(self, sources: Sequence[Source], history: History) -> None:
        self._sources = sources
        self._history = history
        self._epochs: dict[int, EpochTimes] = {}
        self._clocks: dict[int, EpochClock] = {}

    def _times(self, epoch: Epoch) -> EpochTimes:
        if epoch.number not in self._epochs:
            self._epochs[epoch.number] = self._compute(epoch.number)
        return self._epochs[epoch.number]

    def _compute(self, number: int) -> EpochTimes:
        lsns: list[Int64s] = [np.empty(0, np.int64)]
        monos: list[Int64s] = [np.empty(0, np.int64)]
        for source in self._sources:
            frames = self._frames(source, number)
            if len(frames):
                lsns.append(spread(frames["first_lsn"], _count(source, frames)))
                monos.append(_monos(source, frames))
        return EpochTimes(np.concatenate(lsns), np.maximum.accumulate(np.concatenate(monos)))

    def _frames(self, source: Source, number: int) -> Table:
        frames = source.data.scan.frames.array()
        counted = (frames["epoch"] == number) & (frames["first_lsn"] <= source.last_lsn)
        found: Table = frames[counted & (frames["records"] > 0) & (frames["epoch"] <= source.last_epoch)]
        return found

    def _clock(self, epoch: Epoch) -> EpochClock:
        if epoch.number not in self._clocks:
            self._clocks[epoch.number] = EpochClock(self._history.clocks[epoch.number])
        return self._clocks[epoch.number]

    def _last_mono(self, epoch: Epoch) -> int | None:
        """Return the newest time of an epoch's records; looks at the few that can have it only."""
        latest: int | None = None
        for source in self._sources:
            frames = self._frames(source, epoch.number)
            if not len(frames):
                continue
            bases = frames["base_time"].astype(np.int64)
            monos = _monos(source, frames[bases >= bases.max() - _RECORD_REACH])
            latest = max(int(monos.max()), latest or 0)
        return latest

    def _end(self, epoch: Epoch) -> int:
        """Return the monotonic time up to which the state is known.

        Where a gap ends the epoch: its last record or cut. The gap's own note is later than what was lost.
        """
        record = self._last_mono(epoch)
        known = [epoch.mono] if record is None else [epoch.mono, record]
        if epoch.gap_reason is None:
            return max(*known, self._clock(epoch).last)
        return max(known + [cut.mono for cut in self._history.cuts if cut.epoch == epoch.number])

    def known_until(self, epoch: Epoch) -> int:
        """Return the wall time (ns) up to which an epoch's state is known: its last record, or a later mark."""
        return self._clock(epoch).wall(self._end(epoch))

    @property
    def newest(self) -> int | None:
        """Wall time of the newest record or note."""
        if not self._history.epochs:
            return None
        epoch = self._history.epochs[-1]
        clock, record = self._clock(epoch), self._last_mono(epoch)
        return clock.newest if record is None else max(clock.newest, clock.wall(record))

    def occurrences(self, wall: int) -> Iterator[Instant]:
        """Yield every instant at which the source's clock showed `wall`, the newest first.

        There are several when the clock was set back. Each holds all records up to it, and none after it.
        """
        for epoch in reversed(self._history.epochs):
            clock = self._clock(epoch)
            if clock.oldest <= wall:
                for mono in clock.monos(wall, self._end(epoch)):
                    yield self._instant(epoch, mono)

    def at(self, number: int, mono: int) -> Instant | None:
        """Return the instant of a monotonic time (ns) of an epoch; None when the epoch does not reach so far."""
        epoch = self._history.epoch(number)
        if epoch is None or not self._clock(epoch).first <= mono <= self._end(epoch):
            return None
        return self._instant(epoch, mono)

    def lsn_at(self, wall: int) -> Instant:
        """Return the point that holds all records up to the newest instant that `wall` can mean."""
        newest = next(self.occurrences(wall), None)
        if newest is not None:
            return newest
        epochs = self._history.epochs
        index = next((i for i in reversed(range(len(epochs))) if epochs[i].wall <= wall), None)
        if index is None:
            return Instant(0, epochs[0].wall if epochs else 0, False, "before the first epoch")
        epoch = epochs[index]
        reason = "later than the newest known time" if index + 1 == len(epochs) else "between two epochs"
        if epoch.gap_reason is not None and wall <= self._clock(epoch).newest:
            reason = "after what is known before a gap"
        return self._instant(epoch, self._end(epoch))._replace(covered=False, reason=reason)

    def _instant(self, epoch: Epoch, mono: int) -> Instant:
        times, clock = self._times(epoch), self._clock(epoch)
        count = int(np.searchsorted(times.monos, mono, "right"))
        lsn = int(times.lsns[count - 1]) if count else epoch.begins
        wall = clock.wall(int(times.monos[count - 1])) if count else epoch.wall
        if epoch.order == "cycle":
            cuts = [c for c in self._history.cuts if c.epoch == epoch.number and c.mono <= mono]
            lsn, wall = (cuts[-1].lsn, cuts[-1].wall) if cuts else (epoch.begins, epoch.wall)
        return Instant(lsn, wall, True, "", epoch.number, mono)

    def record_time(self, lsn: int) -> int:
        """Return the wall time of a record (LSN 0: of the first epoch's note). Raises NotRecoverable."""
        epoch = next((e for e in reversed(self._history.epochs) if e.begins < lsn), None)
        if epoch is None and lsn == 0 and self._history.epochs:
            return self._history.epochs[0].wall
        times = self._times(epoch) if epoch else None
        index = int(np.searchsorted(times.lsns, lsn)) if times else 0
        if epoch is None or times is None or index >= len(times.lsns) or times.lsns[index] != lsn:
            raise NotRecoverable(f"there is no record with LSN {lsn}", before=None, after=None)
        return self._clock(epoch).wall(int(times.monos[index]))


def _count(source: Source, frames: Table) -> Int64s:
    count: Int64s = np.minimum(frames["records"], source.last_lsn + 1 - frames["first_lsn"])
    return count


def _monos(source: Source, frames: Table) -> Int64s:
    """Return the monotonic times (ns) of the records of some frames."""
    count = _count(source, frames)
    how = source.data.scan.rows.array()["how"][spread(frames["row"], count)]
    return np.repeat(frames["base_time"].astype(np.int64), count) + (how >> 8).astype(np.int64) * 1000
