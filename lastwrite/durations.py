"""Lengths of time and numbers of bytes as people write them in settings and commands: `36h`, `30d`, `20GiB`, `5%`."""

from __future__ import annotations

import re

SECOND = 1_000_000_000
UNITS = {
    "s": SECOND,
    "m": 60 * SECOND,
    "h": 3600 * SECOND,
    "d": 86400 * SECOND,
    "w": 7 * 86400 * SECOND,
    "y": 365 * 86400 * SECOND,
}
_DURATION = re.compile(r"(\d{1,7})\s*([smhdwy])", re.ASCII)
_SIZES = {unit: 1 << 10 * power for power, unit in enumerate(("B", "KiB", "MiB", "GiB", "TiB", "PiB"))}
_SIZE = re.compile(r"(\d{1,9})\s*([KMGTP]i?B?|B)?", re.ASCII)


def parse_duration(text: str) -> int:
    """Return nanoseconds for `30s`, `5m`, `36h`, `30d`, `8w`, `1y`; `0` is none. Raises ValueError."""
    cleaned = text.strip()
    if cleaned == "0":
        return 0
    match = _DURATION.fullmatch(cleaned)
    if match is None:
        raise ValueError(f"{text!r} is no length of time: write a number and one of s, m, h, d, w, y")
    return int(match[1]) * UNITS[match[2]]


def duration_text(ns: int) -> str:
    """Return nanoseconds in the form that parse_duration reads, in the largest unit that fits."""
    for unit in ("y", "w", "d", "h", "m"):
        if ns and ns % UNITS[unit] == 0:
            return f"{ns // UNITS[unit]}{unit}"
    return f"{ns // SECOND}s" if ns else "0"


def parse_size(text: str) -> int:
    """Return bytes for `512MiB`, `20GiB`, `2T` or a plain number. Units are binary. Raises ValueError."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no number of bytes: write a number and KiB, MiB, GiB or TiB")
    unit = match[2] or "B"
    return int(match[1]) * (_SIZES["B"] if unit == "B" else _SIZES[f"{unit[0]}iB"])


def parse_share(text: str, whole: int) -> int:
    """Return bytes for a size, or for a percentage of `whole` such as `5%`. Raises ValueError."""
    cleaned = text.strip()
    if not cleaned.endswith("%"):
        return parse_size(cleaned)
    number = cleaned[:-1].strip()
    if not number.isdecimal() or not 0 <= int(number) <= 50:
        raise ValueError(f"{text!r} is no share: write a percentage from 0% to 50%")
    return whole * int(number) // 100
