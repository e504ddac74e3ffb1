"""What a hold really keeps: the point, its time and its cut, and whether it is earlier than what was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from journal.history import Cut
from journal.reader import JournalReader
from journal.retention.errors import ThinnedAway
from journal.retention.told import moment
from journal.times import THINNED
from lastwrite.text import duration, utc

LOST = "what was thinned away does not come back"
WHY_EARLIER = "that time is thinned: only kept cuts are left"


@dataclass(frozen=True)
class Held:
    """A point that is kept. `wall`: ns of the source's clock; `asked`: the time that was asked for, None: no time was.

    `next_wall`, `next_lsn`: the next kept point after it, when the point is earlier than `asked`.
    """

    timeline: int
    lsn: int
    wall: int
    consistency: str
    cut: Cut | None
    asked: int | None
    earlier: bool
    next_lsn: int | None = None
    next_wall: int | None = None

    @property
    def name(self) -> str:
        """How its cut is named: `cut:17`, with its label; "" when no cut is there."""
        if self.cut is None:
            return ""
        number = f"cut:{self.cut.number}" if self.cut.number else self.cut.kind
        return f"{number} {self.cut.label!r}" if self.cut.label else number

    @property
    def exact(self) -> bool:
        """Whether it is just the state that was asked for."""
        return not self.earlier and self.consistency != "approximate"

    def told(self) -> dict[str, Any]:
        """Return it for programs."""
        cut = self.cut
        earlier = {"earlier_than_asked": self.earlier, "why": WHY_EARLIER if self.earlier else None}
        by = self.asked - self.wall if self.earlier and self.asked is not None else None
        return {
            "timeline": self.timeline,
            "lsn": self.lsn,
            **moment("time", self.wall),
            "cut": cut.number if cut and cut.number else None,
            "name": cut.label if cut else None,
            "consistency": self.consistency,
            "exact": self.exact,
            **moment("asked", self.asked),
            **earlier,
            "earlier_by_ns": by,
            "next_lsn": self.next_lsn,
            **moment("next", self.next_wall),
        }

    def sentences(self) -> list[str]:
        """Return it for people."""
        name = f"{self.name}, " if self.name else ""
        how = "approximate" if self.consistency == "approximate" else f"{self.consistency}-consistent"
        exactly = "exactly what was asked for" if self.exact else "not exactly what was asked for"
        said = [f"Kept is {utc(self.wall)} ({name}LSN {self.lsn}), {how}, {exactly}."]
        if self.earlier and self.asked is not None:
            by = duration((self.asked - self.wall) / 10**9)
            after = (
                f" The next kept point is {utc(self.next_wall)} (LSN {self.next_lsn})."
                if self.next_lsn
                else ""
            )
            said.append(f"This is {by} earlier than {utc(self.asked)}, because {WHY_EARLIER}.{after}")
        return said


def held_point(
    reader: JournalReader, timeline: int, lsn: int, consistency: str, cut: Cut | None, asked: int | None
) -> Held:
    """Return what a hold on a point keeps; `asked`: the wall time (ns) that it was found by, if any."""
    lineage = reader.lineage(timeline)
    wall = cut.wall if cut else reader.record_time(lsn, timeline)
    instants = () if asked is None else lineage.times.occurrences(asked)
    instant = next((found for found in instants if found.lsn == lsn), None)
    if instant is None or instant.covered:
        return Held(timeline, lsn, wall, consistency, cut, asked, earlier=False)
    after = lineage.history.after(lsn)
    after_wall = None if after is None else reader.record_time(after, timeline)
    return Held(timeline, lsn, wall, consistency, cut, asked, True, after, after_wall)


def lost_cut(reader: JournalReader, timeline: int, number: int) -> int | None:
    """Return an LSN where a cut stood that is not there any more, None for one that never was."""
    cuts = reader.lineage(timeline).history.cuts
    before = max((cut for cut in cuts if cut.number < number), key=lambda cut: cut.number, default=None)
    if before is None or not any(cut.number > number for cut in cuts):
        return None
    return None if any(cut.number == number for cut in cuts) else before.lsn + 1


def thinned_away(reader: JournalReader, timeline: int, text: str, lsn: int) -> ThinnedAway | None:
    """Return the error for a point (`text`, as it was asked for) that thinning took; None: it is not that."""
    history = reader.lineage(timeline).history
    if history.is_point(lsn) or THINNED not in history.refusal(lsn).message:
        return None
    near = {
        "before": _near(reader, timeline, history.before(lsn)),
        "after": _near(reader, timeline, history.after(lsn)),
    }
    told = " and ".join(
        f"{point['name']} ({point['time']}) {side} it" for side, point in near.items() if point
    )
    message = f"{text} of {reader.name} cannot be kept: thinned: only kept cuts are left of that time"
    return ThinnedAway(message, hint=f"The nearest kept points are {told}; {LOST}.", **near)


def _near(reader: JournalReader, timeline: int, lsn: int | None) -> dict[str, Any] | None:
    if lsn is None:
        return None
    cut = next((cut for cut in reader.cuts(timeline) if cut.lsn == lsn and cut.number), None)
    wall = cut.wall if cut else reader.record_time(lsn, timeline)
    return {"name": f"cut:{cut.number}" if cut else f"lsn:{lsn}", "lsn": lsn, **moment("time", wall)}
