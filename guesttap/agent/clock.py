"""The source's two clocks, read together."""

from __future__ import annotations

import time
from typing import NamedTuple


class Moment(NamedTuple):
    """One instant: `wall` ns since 1970 (UTC), `mono` ns of CLOCK_MONOTONIC."""

    wall: int
    mono: int


def now() -> Moment:
    """Return this instant."""
    return Moment(time.time_ns(), time.monotonic_ns())


def at(mono: int) -> Moment:
    """Return the instant of a monotonic time (ns) of this boot, by the wall clock as it is set now."""
    current = now()
    return Moment(current.wall - (current.mono - mono), mono)
