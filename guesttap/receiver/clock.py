"""How far the source's clock is from ours, from the answers to pings."""

from __future__ import annotations

from collections import deque

SAMPLES = 60


class ClockOffset:
    """Keeps the last samples and believes the one with the shortest round trip. All times in ns."""

    def __init__(self) -> None:
        self._samples: deque[tuple[int, int]] = deque(maxlen=SAMPLES)

    def add(self, sent_wall: int, sent_mono: int, received_mono: int, source_wall: int) -> None:
        """Take one answer: when the ping left (our two clocks), when the pong came, and what it said."""
        round_trip = max(0, received_mono - sent_mono)
        self._samples.append((round_trip, source_wall - sent_wall - round_trip // 2))

    @property
    def value(self) -> int | None:
        """Source's wall clock minus ours, or None before the first answer."""
        return min(self._samples)[1] if self._samples else None
