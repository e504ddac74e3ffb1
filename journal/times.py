"""Instants: which LSN a wall time means, and when a record was written, by the source's clocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from journal.clock import EpochClock
from journal.errors import NotRecoverable
from journal.history import Epoch, History
from journal.resolve import Source
from journal.table import Int64s, spread


class Instant(NamedTuple):
    """The LSN that a wall time means; `wall` (ns) is the time of that record.

    `covered` is false when the journal cannot know the state at the asked time: it is later than the newest
    known time, before the first epoch, or between two epochs. `reason` then says which.
    """

    lsn: int
    wall: int
    covered: bool
    reason: str = ""


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
            frames = source.data.scan.frames.array()
            counted = (frames["epoch"] == number) & (frames["first_lsn"] <= source.last_lsn)
            frames = frames[counted & (frames["records"] > 0) & (frames["epoch"] <= source.last_epoch)]
            if not len(frames):
                continue
            count = np.minimum(frames["records"], source.last_lsn + 1 - frames["first_lsn"])
            how = source.data.scan.rows.array()["how"][spread(frames["row"], count)]
            lsns.append(spread(frames["first_lsn"], count))
            monos.append(
                np.repeat(frames["base_time"].astype(np.int64), count) + (how >> 8).astype(np.int64) * 1000
            )
        return EpochTimes(np.concatenate(lsns), np.maximum.accumulate(np.concatenate(monos)))

    def _clock(self, epoch: Epoch) -> EpochClock:
        if epoch.number not in self._clocks:
            self._clocks[epoch.number] = EpochClock(self._history.clocks[epoch.number])
        return self._clocks[epoch.number]

    def _newest(self, epoch: Epoch) -> int:
        times, clock = self._times(epoch), self._clock(epoch)
        return max(clock.newest, clock.wall(int(times.monos[-1]))) if len(times.monos) else clock.newest

    @property
    def newest(self) -> int | None:
        """Wall time of the newest record or note."""
        return self._newest(self._history.epochs[-1]) if self._history.epochs else None

    def lsn_at(self, wall: int) -> Instant:
        """Return the point that holds all records whose time is at most `wall`."""
        epochs = self._history.epochs
        index = next((i for i in reversed(range(len(epochs))) if epochs[i].wall <= wall), None)
        if index is None:
            return Instant(0, epochs[0].wall if epochs else 0, False, "before the first epoch")
        epoch = epochs[index]
        lsn, found = self._in_epoch(epoch, wall)
        if wall <= self._newest(epoch):
            return Instant(lsn, found, True)
        last = index + 1 == len(epochs)
        return Instant(
            lsn, found, False, "later than the newest known time" if last else "between two epochs"
        )

    def _in_epoch(self, epoch: Epoch, wall: int) -> tuple[int, int]:
        times, clock = self._times(epoch), self._clock(epoch)
        count = int(np.searchsorted(times.monos, clock.mono(wall), "right"))
        lsn = int(times.lsns[count - 1]) if count else epoch.begins
        if epoch.order == "cycle":
            cuts = [
                c for c in self._history.cuts if c.epoch == epoch.number and c.lsn <= lsn and c.wall <= wall
            ]
            return (cuts[-1].lsn, cuts[-1].wall) if cuts else (epoch.begins, epoch.wall)
        return lsn, clock.wall(int(times.monos[count - 1])) if count else epoch.wall

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
