"""Instants: which LSN a wall time means, and when a record was written, by the source's clocks."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from journal.clock import EpochClock
from journal.errors import NotRecoverable
from journal.history import Epoch, History
from journal.map.resolve import Source
from journal.recordtimes import EpochRecords, Reached

THINNED = "only kept cuts are left of that time"


class Instant(NamedTuple):
    """The LSN that a wall time means; `wall` (ns) is the time of that record.

    `covered` is false when the journal cannot know the state at the asked time: it is later than the newest
    known time, before the first epoch, between two epochs, after what is known before a gap, or thinned away.
    `reason` then says which. `epoch` is the epoch that the time lies in (0: none), `mono` (ns) the time on its
    monotonic clock.
    """

    lsn: int
    wall: int
    covered: bool
    reason: str = ""
    epoch: int = 0
    mono: int = 0


class Times:
    """Times of one lineage, computed per epoch when first asked for."""

    def __init__(self, sources: Sequence[Source], history: History) -> None:
        self._sources = sources
        self._history = history
        self._records: dict[int, EpochRecords] = {}
        self._clocks: dict[int, EpochClock] = {}

    def _records_of(self, epoch: Epoch) -> EpochRecords:
        if epoch.number not in self._records:
            self._records[epoch.number] = EpochRecords(self._sources, epoch.number)
        return self._records[epoch.number]

    def _clock(self, epoch: Epoch) -> EpochClock:
        if epoch.number not in self._clocks:
            self._clocks[epoch.number] = EpochClock(self._history.clocks[epoch.number])
        return self._clocks[epoch.number]

    def _end(self, epoch: Epoch) -> int:
        """Return the monotonic time up to which the state is known.

        Where a gap ends the epoch: its last record or cut. The gap's own note is later than what was lost.
        """
        record = self._records_of(epoch).newest
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
        clock, record = self._clock(epoch), self._records_of(epoch).newest
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
        reached, clock = self._records_of(epoch).up_to(mono), self._clock(epoch)
        lsn, wall = (reached.lsn, clock.wall(reached.mono)) if reached else (epoch.begins, epoch.wall)
        if epoch.order == "cycle":
            cuts = [c for c in self._history.cuts if c.epoch == epoch.number and c.mono <= mono]
            cuts = [c for c in cuts if self._history.thinned.allows(c.lsn)]
            lsn, wall = (cuts[-1].lsn, cuts[-1].wall) if cuts else (epoch.begins, epoch.wall)
        found = Instant(lsn, wall, True, "", epoch.number, mono)
        return self._kept(found, epoch, reached) if self._history.thinned.ranges else found

    def _kept(self, found: Instant, epoch: Epoch, reached: Reached | None) -> Instant:
        """Return an instant, or the kept point before it where the state at that time was thinned away."""
        first = reached.first_lsn if reached else epoch.begins + 1
        if found.lsn > epoch.last_lsn or not self._history.thinned.allows(found.lsn):
            before = self._history.before(min(first, found.lsn))
            return found._replace(lsn=before or 0, covered=False, reason=THINNED)
        thinned_next = reached.thinned_next if reached else not self._history.thinned.allows(found.lsn + 1)
        if thinned_next and found.mono > self._marked(
            epoch, found.lsn, reached.mono if reached else epoch.mono
        ):
            return found._replace(covered=False, reason=THINNED)
        return found

    def _marked(self, epoch: Epoch, lsn: int, mono: int) -> int:
        """Return the last time at which the state after `lsn` is known to have been that of the source."""
        cuts = self._history.cuts
        low, high = (side(cuts, lsn, key=lambda cut: cut.lsn) for side in (bisect_left, bisect_right))
        return max([mono, *(cut.mono for cut in cuts[low:high] if cut.epoch == epoch.number)])

    def record_time(self, lsn: int) -> int:
        """Return the wall time of a record (LSN 0: of the first epoch's note). Raises NotRecoverable."""
        epoch = next((e for e in reversed(self._history.epochs) if e.begins < lsn), None)
        if epoch is None and lsn == 0 and self._history.epochs:
            return self._history.epochs[0].wall
        mono = self._records_of(epoch).time_of(lsn) if epoch else None
        if epoch is None or mono is None:
            raise NotRecoverable(f"there is no record with LSN {lsn}", before=None, after=None)
        return self._clock(epoch).wall(mono)
