"""The nearest points whose every byte can be read: looked for, and verified, when a point cannot be had."""

from __future__ import annotations

from collections.abc import Callable

from journal.history import History
from journal.map.origin import FrameOf, frames_of
from journal.map.resolve import resolve
from journal.reader import JournalReader, Lineage

_TRIES = 16


def nearest(reader: JournalReader, lsn: int, timeline: int) -> tuple[int | None, int | None]:
    """Return the nearest good points before and after `lsn`: every block that they need has been read and is right."""
    search = _Search(reader.lineage(timeline))
    return search.before(lsn), search.after(lsn)


class _Search:
    def __init__(self, lineage: Lineage) -> None:
        self._lineage = lineage
        self._history: History = lineage.history
        self._bad: set[FrameOf] = set()

    def before(self, lsn: int) -> int | None:
        """Return the newest good point before `lsn`."""
        point = lsn if self._history.is_point(lsn) else self._history.before(lsn)
        # Whoever needs a frame later needs it right after it was written, too.
        return self._good(point, lambda _, bad: self._history.before(min(frame.first_lsn for frame in bad)))

    def after(self, lsn: int) -> int | None:
        """Return the oldest good point after `lsn`."""
        point = lsn if self._history.is_point(lsn) else self._history.after(lsn)
        return self._good(point, self._beyond)

    def _good(self, point: int | None, following: Callable[[int, set[FrameOf]], int | None]) -> int | None:
        """Return the first of some points that is good; `following` names the next one after one with bad frames."""
        for _ in range(_TRIES):
            bad = self._verify(point) if point is not None else set()
            if point is None or not bad:
                return point
            point = following(point, bad)
        return None

    def _beyond(self, point: int, bad: set[FrameOf]) -> int | None:
        self._bad |= bad
        return self._first_without(self._bad, point)

    def _first_without(self, bad: set[FrameOf], low: int) -> int | None:
        """Return the oldest point after `low` that needs none of the `bad` frames, by halving."""
        high = self._history.latest()
        if high is None or high <= low or self._needed(high) & bad:
            return None
        while True:
            middle = (low + high) // 2
            point = middle if self._history.is_point(middle) and middle > low else self._history.after(middle)
            if point is None or point >= high:
                point = self._history.before(high)
            if point is None or point <= low:
                return high
            if self._needed(point) & bad:
                low = point
            else:
                high = point

    def _verify(self, lsn: int) -> set[FrameOf]:
        """Return the frames of a point that cannot be read."""
        return {frame for frame in self._needed(lsn) if frame.data.damaged(frame.number) is not None}

    def _needed(self, lsn: int) -> set[FrameOf]:
        epoch = self._history.require(lsn)
        layers = self._history.layers(epoch)
        found: set[FrameOf] = set()
        for disk in epoch.disks:
            found |= frames_of(resolve(self._lineage.sources, layers, lsn, disk.disk, disk.bytes))
        return found
