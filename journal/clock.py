"""Between the source's monotonic clock and its wall clock, by the pairs that an epoch's notes give."""

from __future__ import annotations

from array import array

import numpy as np

from journal.table import Int64s


class EpochClock:
    """Converts times (ns) of one epoch by the nearest (mono, wall) pair at or before, else the first.

    A *stretch* reaches from one pair to the next. When the wall clock was set back, stretches overlap.
    """

    def __init__(self, pairs: array[int]) -> None:
        """`pairs`: mono, wall, mono, wall, ..."""
        table = np.frombuffer(pairs, np.int64).reshape(-1, 2)
        table = table[np.argsort(table[:, 0], kind="stable")]
        self._mono: Int64s = table[:, 0]
        self._wall: Int64s = table[:, 1]

    def wall(self, mono: int) -> int:
        """Return the wall time of a monotonic time."""
        index = max(int(np.searchsorted(self._mono, mono, "right")) - 1, 0)
        return int(self._wall[index]) + mono - int(self._mono[index])

    def monos(self, wall: int, end: int) -> list[int]:
        """Return when the wall clock showed `wall`, as monotonic times up to `end`, the newest first.

        For a time that a clock which was set forward left out: the last instant before it was set.
        """
        count = int(np.searchsorted(self._mono, end, "right"))
        starts, walls = self._mono[:count], self._wall[:count]
        stops = np.append(starts[1:], end + 1)[:count]
        uppers = walls + (stops - starts)
        # Up to the next pair's time, when the clock was set forward there.
        uppers[:-1] = np.maximum(uppers[:-1], walls[1:])
        inside = np.flatnonzero((walls <= wall) & (wall < uppers))
        found = np.minimum(starts[inside] + wall - walls[inside], stops[inside] - 1)
        return [int(mono) for mono in found[::-1]]

    @property
    def first(self) -> int:
        """Monotonic time of the first pair."""
        return int(self._mono[0])

    @property
    def last(self) -> int:
        """Monotonic time of the last pair."""
        return int(self._mono[-1])

    @property
    def oldest(self) -> int:
        """The earliest wall time of any pair."""
        return int(self._wall.min())

    @property
    def newest(self) -> int:
        """Wall time of the newest pair."""
        return int(self._wall[-1])
