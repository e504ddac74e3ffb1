"""Between the source's monotonic clock and its wall clock, by the pairs that an epoch's notes give."""

from __future__ import annotations

from array import array

import numpy as np

from journal.table import Int64s


class EpochClock:
    """Converts times (ns) of one epoch by the nearest (mono, wall) pair at or before, else the first."""

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

    def mono(self, wall: int) -> int:
        """Return the newest monotonic time whose wall time is at most `wall`."""
        older = np.flatnonzero(self._wall <= wall)
        index = int(older[-1]) if len(older) else 0
        mono = int(self._mono[index]) + wall - int(self._wall[index])
        # What comes after the next pair is converted by that one, and is later than `wall`.
        return min(mono, int(self._mono[index + 1]) - 1) if index + 1 < len(self._mono) else mono

    @property
    def newest(self) -> int:
        """Wall time of the newest pair."""
        return int(self._wall[-1])
