"""Times for people who read refusals: when a record was, and what a time ago means in a journal that stands alone."""

from __future__ import annotations

import re
import time

from journal.errors import NotRecoverable
from journal.reader import Lineage
from journal.times import Instant
from lastwrite.instant import SECOND, format_time

_AGO = re.compile(r"-(\d{1,9})([smhd])", re.ASCII)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_CLOCK_SET = SECOND  # what is less is taken for the error of measuring an offset
_NEAR = re.compile(r"nearest (before|after): (\d+)", re.ASCII)
_LSNS = re.compile(r"\bLSN (\d+)(?: to (\d+))?", re.ASCII)


def parse_ago(text: str) -> int | None:
    """Return the ns of `-90s`, `-10m`, `-2h` or `-1d`, None when it is none of them."""
    found = _AGO.fullmatch(text)
    return int(found[1]) * _UNITS[found[2]] * SECOND if found else None


def instant_ago(lineage: Lineage, ago: int) -> tuple[Instant, int]:
    """Return the instant that lies `ago` ns before this machine's present, and its time on the source's clock.

    So much time must really have passed: the offset between the two clocks that was last measured before counts.
    """
    measured = [cut for cut in lineage.history.cuts if cut.offset is not None]
    newest = (measured[-1].offset or 0) if measured else 0
    here = max(time.time_ns() - ago, 0)
    cut = next((cut for cut in reversed(measured) if cut.wall - (cut.offset or 0) <= here), None)
    if cut is not None and abs((cut.offset or 0) - newest) >= _CLOCK_SET:
        passed = here - (cut.wall - (cut.offset or 0))
        instant = lineage.times.at(cut.epoch, cut.mono + passed)
        reason = "nothing is known of that time"
        return instant or Instant(cut.lsn, cut.wall, False, reason, cut.epoch, cut.mono), cut.wall + passed
    wall = max(here + newest, 0)
    return lineage.times.lsn_at(wall), wall


def time_of(lineage: Lineage, lsn: int | None) -> str | None:
    """Return when a record was (ISO 8601), None when that is not known."""
    try:
        return None if lsn is None else format_time(lineage.times.record_time(lsn))
    except NotRecoverable:
        return None


def tell(lineage: Lineage, lsn: int | None) -> str:
    """Return a point as a person can write and judge it: its LSN and when it was."""
    if lsn is None:
        return "none"
    when = time_of(lineage, lsn)
    return f"lsn:{lsn} ({when})" if when else f"lsn:{lsn}"


def timed(lineage: Lineage, error: NotRecoverable) -> NotRecoverable:
    """Return a refusal in which every LSN has its time, where that is known."""
    text = _NEAR.sub(lambda m: f"nearest {m[1]}: {tell(lineage, int(m[2]))}", error.message)
    text = _LSNS.sub(lambda m: m[0] + _when(lineage, m), text)
    known = {name: error.details[name] for name in ("lsn", "before", "after") if name in error.details}
    times = {f"{name}_time": time_of(lineage, lsn) for name, lsn in known.items()}
    return NotRecoverable(text, hint=error.hint, **{**error.details, **times})


def _when(lineage: Lineage, found: re.Match[str]) -> str:
    times = [when for when in (time_of(lineage, int(lsn)) for lsn in found.groups() if lsn) if when]
    return f" ({' to '.join(times)})" if times else ""
