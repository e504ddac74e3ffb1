"""Numbers, sizes and times as people read them. The same words in every table and message."""

from __future__ import annotations

import datetime as dt

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def size(count: int | None) -> str:
    """Return a number of bytes with a binary unit, such as `1.5 GiB`; `-` for None."""
    if count is None:
        return "-"
    value = float(count)
    unit = 0
    while abs(value) >= 1024 and unit < len(_UNITS) - 1:
        value /= 1024
        unit += 1
    return f"{count} B" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"


def duration(seconds: float | None) -> str:
    """Return seconds as `350 ms`, `4.2 s`, `3 min 5 s`, `2 h 10 min` or `3 d 4 h`; `-` for None."""
    if seconds is None:
        return "-"
    if abs(seconds) < 1:
        return f"{seconds * 1000:.0f} ms"
    if abs(seconds) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    if not hours:
        return f"{minutes} min {rest} s"
    if hours < 24:
        return f"{hours} h {minutes_left} min"
    return f"{hours // 24} d {hours % 24} h"


def utc(ns: int | None) -> str:
    """Return nanoseconds since 1970 as ISO 8601 in UTC with milliseconds, cut off; `-` for None."""
    if ns is None:
        return "-"
    when = dt.datetime.fromtimestamp(ns // 1_000_000_000, dt.UTC)
    return f"{when:%Y-%m-%dT%H:%M:%S}.{ns % 1_000_000_000 // 1_000_000:03d}Z"
