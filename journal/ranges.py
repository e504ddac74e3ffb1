"""The honest timeline: what every stretch of a history can give back, and why. Pure, on History."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from journal.history import Epoch, History, Span
from journal.thinned import Thinned

EXACT, CUTS, APPROXIMATE, SYNCING, GAP, DAMAGED = (
    "exact",
    "cuts",
    "approximate",
    "syncing",
    "gap",
    "damaged",
)
KINDS = (EXACT, CUTS, APPROXIMATE, SYNCING, GAP, DAMAGED)


@dataclass(frozen=True, slots=True)
class Range:
    """A stretch of a timeline. Both LSNs and times (ns, source's wall clock; None: unknown) belong to it.

    `kind`: `exact` every record is a point; `cuts` only the cuts that were kept are; `approximate` the order of single
    writes is not known; `syncing`, `gap` and `damaged` hold no point. An empty stretch has first_lsn = last_lsn + 1.
    `points`: how many LSNs of it can be recovered to. `reason`: a sentence, "" when there is nothing to say.
    """

    kind: str
    first_lsn: int
    last_lsn: int
    first_wall: int | None
    last_wall: int | None
    points: int
    epoch: int
    reason: str


def ranges(history: History, known_until: Callable[[Epoch], int] | None = None) -> list[Range]:
    """Return the stretches of a history, oldest first.

    `known_until` gives the wall time (ns) of an epoch's last record; without it the newest cut's time counts.
    """
    return _Timeline(history, known_until).ranges()


class _Timeline:
    def __init__(self, history: History, known_until: Callable[[Epoch], int] | None) -> None:
        self._history = history
        self._known_until = known_until or self._newest_note
        self._cuts: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        for cut in sorted(history.cuts, key=lambda cut: (cut.lsn, cut.wall)):
            self._cuts[cut.epoch].append((cut.lsn, cut.wall))
        self._thinned = _stretches(history.thinned)
        self._spans = {span.epoch: span for span in history.spans}

    def ranges(self) -> list[Range]:
        found: list[Range] = []
        before: Epoch | None = None
        for epoch in self._history.epochs:
            found += self._gap(before, epoch)
            found += self._sync(epoch)
            found += self._valid(epoch)
            before = epoch
        if before is not None and before.gap_reason is not None:
            # The newest epoch has ended and no other has begun: nothing is captured from here on.
            end = self._known_until(before)
            found.append(
                self._none(GAP, before.last_lsn + 1, before.last_lsn, (end, None), 0, before.gap_reason)
            )
        return sorted(found + self._elsewhere(found), key=lambda r: (r.first_lsn, r.epoch))

    def _none(
        self, kind: str, first: int, last: int, walls: tuple[int | None, int | None], epoch: int, reason: str
    ) -> Range:
        return Range(kind, first, last, *walls, 0, epoch, reason)

    # -- what holds no point ------------------------------------------------------------------------

    def _gap(self, before: Epoch | None, epoch: Epoch) -> Iterator[Range]:
        if before is None:
            return
        walls = (self._known_until(before), epoch.wall)
        reason = before.gap_reason or f"nothing was captured in between: {epoch.reason}"
        if before.gap_reason is not None or walls[0] != walls[1]:
            yield self._none(GAP, before.last_lsn + 1, epoch.begins, walls, 0, reason)

    def _sync(self, epoch: Epoch) -> Iterator[Range]:
        first, valid = epoch.begins + 1, epoch.valid_from
        if valid is None:
            kind, reason = self._never_valid(epoch)
            yield self._none(
                kind, first, epoch.last_lsn, (epoch.wall, self._known_until(epoch)), epoch.number, reason
            )
            return
        walls = (epoch.wall, self._wall(epoch, valid, first=True))
        if valid > first or walls[0] != walls[1]:
            reason = f"{epoch.sync} sync: {epoch.reason}"
            last = max(valid - 1, first - 1)
            yield self._none(SYNCING, first, last, walls, epoch.number, reason)

    def _never_valid(self, epoch: Epoch) -> tuple[str, str]:
        lost = [d for d in self._history.damage if d.low_epoch <= epoch.number <= d.high_epoch]
        if lost:
            return DAMAGED, f"the end of its sync is not there: {lost[0].reason}"
        going_on = epoch is self._history.epochs[-1] and epoch.gap_reason is None
        ended = "goes on" if going_on else "never ended"
        return SYNCING, f"{epoch.sync} sync, which {ended}: {epoch.reason}"

    def _elsewhere(self, found: list[Range]) -> list[Range]:
        """Return damage that no stretch tells of: the notes of its epochs are lost with it."""
        bad = [r for r in found if r.kind == DAMAGED]
        return [
            self._none(DAMAGED, d.first_lsn, d.next_lsn - 1, (None, None), d.low_epoch, d.reason)
            for d in self._history.damage
            if not any(r.first_lsn <= d.first_lsn and d.next_lsn - 1 <= r.last_lsn for r in bad)
        ]

    # -- what holds points --------------------------------------------------------------------------

    def _valid(self, epoch: Epoch) -> Iterator[Range]:
        span = self._spans.get(epoch.number)
        if epoch.valid_from is None:
            return
        if span is not None:
            yield from self._points(epoch, span)
        good = span.last if span else epoch.valid_from - 1
        if good < epoch.last_lsn:
            base = self._history.base(epoch)
            lost = [d for d in self._history.damage if d.high_epoch >= base and d.low_epoch <= epoch.number]
            reason = f"LSN {lost[0].first_lsn} to {lost[0].next_lsn - 1}: {lost[0].reason}" if lost else ""
            walls = (self._wall(epoch, good + 1, first=True), self._known_until(epoch))
            yield self._none(DAMAGED, good + 1, epoch.last_lsn, walls, epoch.number, reason)

    def _points(self, epoch: Epoch, span: Span) -> Iterator[Range]:
        kind, reason = _exactness(epoch)
        for first, last, ends in self._pieces(span):
            # A thinned stretch that begins an epoch has its first point later than where it begins.
            begin = self._wall(epoch, first, first=True)
            end = self._known_until(epoch) if last == epoch.last_lsn else self._wall(epoch, last)
            if ends is None:
                count = self._count(epoch, first, last)
                yield Range(kind, first, last, begin, end, count, epoch.number, reason)
            else:
                count = sum(self._history.is_point(lsn) for lsn in ends)
                left = "only kept points are left" if count else "none of its points was kept"
                yield Range(CUTS, first, last, begin, end, count, epoch.number, f"thinned: {left}")

    def _pieces(self, span: Span) -> Iterator[tuple[int, int, list[int] | None]]:
        """Cut a span where thinning begins and ends: (first LSN, last LSN, the LSNs that were kept or None)."""
        at = span.first
        for low, high, kept in self._thinned:
            first, last = max(low, at), min(high, span.last)
            if first > last:
                continue
            if at < first:
                yield at, first - 1, None
            yield first, last, [lsn for lsn in kept if first <= lsn <= last]
            at = last + 1
        if at <= span.last:
            yield at, span.last, None

    def _count(self, epoch: Epoch, first: int, last: int) -> int:
        if epoch.order == "cycle":
            return len({lsn for lsn, _ in self._cuts[epoch.number] if first <= lsn <= last})
        return last - first + 1

    # -- times --------------------------------------------------------------------------------------

    def _wall(self, epoch: Epoch, lsn: int, first: bool = False) -> int:
        """Return the time of the newest cut of an epoch up to `lsn` (`first`: of the oldest from it on)."""
        mine = self._cuts[epoch.number]
        index = bisect_left(mine, (lsn, 0)) if first else bisect_left(mine, (lsn + 1, 0))
        if first:
            return mine[index][1] if index < len(mine) else self._known_until(epoch)
        return mine[index - 1][1] if index else epoch.wall

    def _newest_note(self, epoch: Epoch) -> int:
        return max([epoch.wall, *(wall for _, wall in self._cuts[epoch.number])])


def _exactness(epoch: Epoch) -> tuple[str, str]:
    if epoch.order == "cycle":
        return APPROXIMATE, "this tap is exact at cuts only"
    if epoch.order == "per-disk" and len(epoch.disks) > 1:
        return APPROXIMATE, "exact for each disk by itself; across disks at cuts"
    return EXACT, ""


def _stretches(thinned: Thinned) -> list[tuple[int, int, list[int]]]:
    """Return the thinned stretches (first LSN, last LSN, kept LSNs), neighbouring net segments joined."""
    found: list[tuple[int, int, list[int]]] = []
    for part in thinned.ranges:
        ends = part.ends.tolist()
        if found and found[-1][1] + 1 == part.first_lsn:
            found[-1] = (found[-1][0], part.next_lsn - 1, found[-1][2] + ends)
        else:
            found.append((part.first_lsn, part.next_lsn - 1, ends))
    return found
