"""When the files of a timeline were written, although the appliance's clock was wrong for a while. Pure.

Every doubt makes history younger: what is believed to be too young is kept longer, what too old is lost.
"""

from __future__ import annotations

from collections.abc import Sequence

from lastwrite.durations import SECOND

EARLIEST = 1_577_836_800 * SECOND
"""2020 in ns since 1970: an older time of the appliance is a clock that had not been set."""
SLACK = 60 * SECOND
"""A cut may lie so far outside of its file by the error of measuring an offset."""


def spans(created: Sequence[int | None], now: int) -> list[tuple[int, int]]:
    """Return for each file (oldest, newest): what it holds came between these times (ns, appliance's clock).

    `created`: what the headers say, in the order of the files, None where there is none. A clock that was behind gives
    no file an end: that is the next header whose time is not smaller than any before it, or `now`. `oldest` is 0
    when it is not known.
    """
    known = [time if time is not None and EARLIEST <= time <= now else None for time in created]
    found = []
    oldest = 0
    for index, time in enumerate(known):
        oldest = max(oldest, time or 0)
        later = (t for t in known[index + 1 :] if t is not None and t >= oldest)
        found.append((oldest, max(oldest, next(later, now))))
    return found


def cut_time(taken: int, span: tuple[int, int]) -> tuple[int, bool]:
    """Return the time of a cut and whether it is known, from what its clock and its file's span say (ns).

    When the two exclude each other one clock was wrong, and nobody knows which: the newest possible time counts.
    """
    oldest, newest = span
    if taken < EARLIEST or not oldest - SLACK <= taken <= newest + SLACK:
        return newest, False
    return min(max(taken, oldest), newest), True
