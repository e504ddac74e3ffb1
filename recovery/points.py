"""From what somebody wrote to a recovery point: the one place that every command and export name asks.

Owns the looking up; the forms are `recovery.pointform`'s. It never answers with another point than the
one that was asked for: it raises, and names the nearest good points on either side.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lastwrite.errors import LastwriteError
from lastwrite.names import nearest_hint
from recovery.errors import AmbiguousPoint, ClockSetBack, PointInGap, PointNotFound
from recovery.pointform import (
    Form,
    Point,
    format_time,
    parse,
    parse_time,
    split_export,
    split_target,
)

if TYPE_CHECKING:
    from journal.history import Cut, Epoch
    from journal.reader import JournalReader
    from journal.times import Instant

__all__ = [
    "CONSISTENCIES",
    "Form",
    "Point",
    "RecoveryPoint",
    "find",
    "format_time",
    "parse",
    "parse_time",
    "source_now",
    "split_export",
    "split_target",
]

CLOCK_SET = 10**9  # ns: what is less is taken for the error of measuring an offset
CONSISTENCIES = ("app", "filesystem", "crash", "approximate")  # best first


@dataclass(frozen=True)
class RecoveryPoint:
    """A point that one can recover to.

    `wall` is ns since 1970 of the source's clock; `cut` the best cut at this very place, if there is one.
    """

    timeline: int
    lsn: int
    wall: int
    consistency: str
    cut: Cut | None
    epoch: int
    description: str

    @property
    def pinned(self) -> str:
        """How to write exactly this point, whatever is written later."""
        return f"lsn:{self.lsn}"


def find(reader: JournalReader, point: Point, now: int | None = None, timeline: int = 1) -> RecoveryPoint:
    """Look `point` up in a journal.

    `now` is the source's wall clock in ns (default: this machine's, corrected by the last known offset). Raises
    PointNotFound, AmbiguousPoint or PointInGap; the latter two and a point out of range name the nearest good ones.
    """
    return _Search(reader, point, timeline).run(now)


def source_now(cuts: Sequence[Cut]) -> int:
    """Return the source's present wall clock in ns: this machine's plus the newest known offset."""
    known = (cut.offset for cut in reversed(cuts) if cut.offset is not None)
    return time.time_ns() + next(known, 0)


class _Search:
    """One look-up in one timeline."""

    def __init__(self, reader: JournalReader, point: Point, timeline: int) -> None:
        self._reader = reader
        self._point = point
        self._timeline = timeline
        lineage = reader.lineage(timeline)
        self._history, self._times = lineage.history, lineage.times
        self._cuts = reader.cuts(timeline)

    def run(self, now: int | None) -> RecoveryPoint:
        point = self._point
        latest = self._history.latest()
        if latest is None:
            raise PointNotFound(
                f"{point.text}: the journal of {self._reader.name} has no recovery point yet",
                hint="The first one is made when the initial sync ends; `lastwrite status` shows how far it is.",
            )
        if point.form is Form.LATEST:
            return self._at(latest)
        if point.form is Form.TIME:
            return self._by_time(point.number)
        if point.form is Form.AGO:
            return self._by_time_ago((source_now(self._cuts) if now is None else now) - point.number)
        if point.form is Form.LSN:
            return self._by_lsn(point.number)
        return self._by_cut()

    # -- the forms ----------------------------------------------------------------------------------

    def _by_time(self, wall: int) -> RecoveryPoint:
        instants = self._times.occurrences(wall)  # made as they are asked for: mostly the first will do
        newest = next(instants, None)
        if newest and self._known(newest):
            return self._at(newest.lsn, wall)
        lsn = self._reader.lsn_at(wall, self._timeline).lsn
        missing = self._missing(*self._around(lsn, wall), wall)
        cuts = self._cuts_beside(wall, any(map(self._known, instants)), missing)
        raise self._set_back(wall, cuts, missing) if cuts else missing

    def _by_time_ago(self, wall: int) -> RecoveryPoint:
        """Find a time ago by `wall`, what the clock would have shown then had it always gone as it goes now.

        The offset between the two clocks tells where it was another: a clock that was set back or forward.
        """
        measured = [cut for cut in self._history.cuts if cut.offset is not None]
        newest = (measured[-1].offset or 0) if measured else 0
        # `wall - newest` is the time on the appliance's clock.
        earlier = (cut for cut in reversed(measured) if cut.wall - (cut.offset or 0) <= wall - newest)
        cut = next(earlier, None)
        if cut is None or abs((cut.offset or 0) - newest) < CLOCK_SET:
            return self._by_time(wall)
        passed = wall - newest - (cut.wall - (cut.offset or 0))
        instant = self._times.at(cut.epoch, cut.mono + passed)
        if instant and self._known(instant):
            return self._at(instant.lsn, cut.wall + passed)
        lsn = instant.lsn if instant else cut.lsn
        raise self._missing(*self._around(lsn, cut.wall + passed), cut.wall + passed)

    def _cuts_beside(self, wall: int, known: bool, missing: LastwriteError) -> list[Cut]:
        """Return the cuts nearest to a time that is refused only because the clock was set back, else none."""
        cuts = [cut for cut in self._history.cuts if self._history.is_point(cut.lsn) and self._belongs(cut)]
        early = missing.details["before"] is None and any(cut.wall <= wall for cut in cuts)
        late = missing.details["after"] is None and any(cut.wall > wall for cut in cuts)
        if not (known or early or late):
            return []
        return sorted(sorted(cuts, key=lambda cut: abs(cut.wall - wall))[:4], key=lambda cut: cut.number)

    def _set_back(self, wall: int, cuts: list[Cut], missing: LastwriteError) -> ClockSetBack:
        choice = ", ".join(f"{_spell(cut)} ({format_time(cut.wall)})" for cut in cuts)
        return ClockSetBack(
            f"{self._point.text}: the clock of {self._reader.name} was set back; "
            f"when it last showed {format_time(max(wall, 0))}, there was no recovery point",
            hint=f"The order of the cuts is that of their numbers. The nearest are: {choice}.",
            choices=[_spell(cut) for cut in cuts],
            **missing.details,
        )

    def _around(self, lsn: int, wall: int) -> tuple[int | None, int | None]:
        """Return the nearest points on both sides of a time whose newest record is `lsn`."""
        history = self._history
        if not history.is_point(lsn):
            return history.before(lsn), history.after(lsn)
        if self._at(lsn).wall <= wall:
            return lsn, history.after(lsn)
        return history.before(lsn), lsn  # the last record of a sync: a point only from the sync's end

    def _known(self, instant: Instant) -> bool:
        """Return whether the state at `instant` can be had: not before the sync of its epoch has ended."""
        epoch, lsn = self._history.epoch(instant.epoch), instant.lsn
        if epoch is None or epoch.valid_from is None or not epoch.valid_from <= lsn:
            return False
        ends = [c.mono for c in self._history.cuts if c.epoch == epoch.number and c.kind == "sync-end"]
        if not ends or instant.mono < min(ends):
            return False
        return self._history.is_point(lsn) and self._same_state(epoch.number, lsn)

    def _by_lsn(self, lsn: int) -> RecoveryPoint:
        if self._history.is_point(lsn):
            return self._at(lsn)
        raise self._missing(self._history.before(lsn), self._history.after(lsn))

    def _by_cut(self) -> RecoveryPoint:
        point = self._point
        if point.form is Form.CUT:
            found = [cut for cut in self._cuts if cut.number == point.number and cut.number]
        else:
            found = [cut for cut in self._cuts if cut.label == point.name]
        if not found:
            raise self._unknown()
        if len({cut.lsn for cut in found}) > 1:
            choice = ", ".join(f"{_spell(cut)} ({format_time(cut.wall)})" for cut in found[-8:])
            raise AmbiguousPoint(
                f"{len(found)} points of {self._reader.name} are named {point.name!r}",
                hint=f"Name one of them: {choice}.",
                choices=[_spell(cut) for cut in found],
            )
        cut = found[0]
        # A cut in an epoch that has no points may stand at the last LSN of the epoch before: another state.
        if self._history.is_point(cut.lsn) and self._belongs(cut):
            return self._at(cut.lsn, cut.wall)
        around = cut.lsn if self._history.is_point(cut.lsn) else self._history.before(cut.lsn)
        raise self._missing(around, self._history.after(cut.lsn))

    def _belongs(self, cut: Cut) -> bool:
        return not cut.number or self._same_state(cut.epoch, cut.lsn)

    def _same_state(self, number: int, lsn: int) -> bool:
        """Return whether the point `lsn` is the state that epoch `number` has there.

        An LSN that ends one valid epoch may begin the next, when that needed no record: the same disks then
        have the same content in both.
        """
        meant = self._reader.point(lsn, self._timeline)
        if meant.number == number:
            return True
        epoch = self._history.epoch(number)
        spans = [
            span for span in self._history.spans if span.epoch == number and span.first <= lsn <= span.last
        ]
        return bool(spans) and epoch is not None and epoch.disks == meant.disks

    # -- answers ------------------------------------------------------------------------------------

    def _at(self, lsn: int, wall: int | None = None) -> RecoveryPoint:
        epoch = self._reader.point(lsn, self._timeline)
        here = [cut for cut in self._cuts if cut.lsn == lsn and self._belongs(cut)]
        cut = min(here, key=lambda cut: _rank(cut.consistency), default=None)
        consistency = cut.consistency if cut else _between_cuts(epoch)
        if wall is None:
            wall = cut.wall if cut else self._reader.record_time(lsn, self._timeline)
        what = f"{_name(cut)}, " if cut else ""
        text = f"{format_time(wall)} ({what}LSN {lsn}), {_say(consistency)}"
        return RecoveryPoint(self._timeline, lsn, wall, consistency, cut, epoch.number, text)

    def _missing(
        self, before: int | None, after: int | None, wall: int | None = None
    ) -> PointInGap | PointNotFound:
        """Return the error for a place that is no recovery point, between two that are (LSNs, or None)."""
        near = {"before": self._near(before), "after": self._near(after)}
        meant = "" if wall is None or self._point.form is Form.TIME else f" ({format_time(max(wall, 0))})"
        asked, whose = f"{self._point.text}{meant}", f"of {self._reader.name}"
        if before is None:
            message = f"{asked} is before the first recovery point {whose}"
            return PointNotFound(message, hint=f"The first one is {_tell(near['after'])}.", **near)
        if after is None:
            message = f"{asked} is after the newest recovery point {whose}"
            return PointNotFound(message, hint=f"The newest one is {_tell(near['before'])}.", **near)
        reason = self._reader.point(before, self._timeline).gap_reason
        because = f" ({reason})" if reason else ""
        hint = (
            f"The nearest points are {_tell(near['before'])} before it and {_tell(near['after'])} after it."
        )
        return PointInGap(f"{asked} lies in a gap of the journal {whose}{because}", hint=hint, **near)

    def _near(self, lsn: int | None) -> dict[str, Any] | None:
        if lsn is None:
            return None
        point = self._at(lsn)
        cut = point.cut.number if point.cut and point.cut.number else None
        return {"lsn": lsn, "time": format_time(point.wall), "cut": cut, "consistency": point.consistency}

    def _unknown(self) -> PointNotFound:
        point, whose = self._point, f"of {self._reader.name}"
        if point.form is Form.CUT:
            numbers = sorted({cut.number for cut in self._cuts if cut.number})
            close = sorted(numbers, key=lambda number: abs(number - point.number))[:2]
            names = " and ".join(f"cut:{number}" for number in sorted(close))
            return PointNotFound(f"there is no cut {point.number} {whose}", hint=f"The nearest are {names}.")
        labels = {str(cut.label) for cut in self._cuts if cut.label}
        hint = nearest_hint(
            point.name, labels, "It has no bookmark and no AppShot yet; `latest` always works."
        )
        return PointNotFound(f"no bookmark or AppShot {whose} is named {point.name!r}", hint=hint)


def _between_cuts(epoch: Epoch) -> str:
    """Return the consistency of a single record: the order in which its tap sees writes decides."""
    exact = epoch.order == "total" or (epoch.order == "per-disk" and len(epoch.disks) == 1)
    return "crash" if exact else "approximate"


def _rank(consistency: str) -> int:
    return CONSISTENCIES.index(consistency) if consistency in CONSISTENCIES else len(CONSISTENCIES)


def _say(consistency: str) -> str:
    return "approximate" if consistency == "approximate" else f"{consistency}-consistent"


def _spell(cut: Cut) -> str:
    return f"cut:{cut.number}" if cut.number else f"lsn:{cut.lsn}"


def _name(cut: Cut) -> str:
    label = f" {cut.label!r}" if cut.label else ""
    return f"{cut.kind}{label}" + (f", cut {cut.number}" if cut.number else "")


def _tell(near: dict[str, Any] | None) -> str:
    assert near is not None
    spelled = f"cut:{near['cut']}" if near["cut"] else f"lsn:{near['lsn']}"
    return f"{spelled} ({near['time']}, {near['consistency']})"
