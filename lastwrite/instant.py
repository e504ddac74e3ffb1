"""Times as people write them: ISO 8601, a date with a time of day. UTC when no zone is named."""

from __future__ import annotations

import calendar
import re
import time
from datetime import datetime

SECOND = 10**9

_TIME = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d)[Tt ](?P<clock>\d\d:\d\d(:\d\d)?)([.,](?P<fraction>\d{1,9}))?"
    r" ?(?P<zone>[Zz]|[+-]\d\d(:?\d\d)?)?",
    re.ASCII,
)
_LOOKS_LIKE_TIME = re.compile(r"\d{4}-\d\d", re.ASCII)


def looks_like_time(text: str) -> bool:
    """Return whether somebody who wrote this meant a time, well written or not."""
    return _LOOKS_LIKE_TIME.match(text) is not None


def parse_time(text: str) -> int:
    """Return ns since 1970 of an ISO time; UTC when it names no zone. Raises ValueError with the reason."""
    found = _TIME.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r}: a time is written 2026-11-22T10:00:05, with Z or +01:00 for its zone")
    zone = found["zone"] or "Z"
    try:
        moment = datetime.fromisoformat(f"{found['date']}T{found['clock']}{zone.upper()}")
        utc = moment.utctimetuple()
    except (ValueError, OverflowError) as error:  # in UTC it may lie outside the years that there are
        raise ValueError(f"{text!r} is no time: {error}") from error
    if utc.tm_year < 1970:
        raise ValueError(f"{text!r} is before 1970")
    return calendar.timegm(utc) * SECOND + int((found["fraction"] or "0").ljust(9, "0"))


def format_time(wall_ns: int) -> str:
    """Return the ISO time (UTC) of ns since 1970, no digit lost: parse_time gives the same number back."""
    seconds, fraction = divmod(wall_ns, SECOND)
    digits = f".{fraction:09d}".rstrip("0") if fraction else ""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + digits + "Z"
