"""Whether the time of a look can be right: a clock that runs ahead for a moment must not make all history old.

The last believed look stands in the file of the upkeep lock, so the caller holds that lock.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from journal.reader import JournalReader
from journal.retention.dating import EARLIEST
from journal.retention.errors import ClockDoubted
from journal.storage import FILE_MODE, write_error
from lastwrite.durations import UNITS
from lastwrite.text import utc

UPKEEP_LOCK = "upkeep.lock"
LONGEST = UNITS["d"]
"""What is farther than this (ns) ahead of everything that is known is doubted, for as long."""


class Looks(NamedTuple):
    """In ns, 0: none. `last`: the newest believed time; `since`, `seen`: first and last look at a doubted one."""

    last: int = 0
    since: int = 0
    seen: int = 0


def require_likely(reader: JournalReader, now: int, *, record: bool = True) -> None:
    """Raise ClockDoubted when `now` (ns, appliance's clock) is more than a day ahead of everything that is known.

    Known are the last look and what the journal says of its own times, as far as they follow each other. A time that
    stays through looks for a whole day is believed. `record`: remember this look. Raises JournalFull,
    JournalWriteFailed.
    """
    looks = read(reader.folder)
    ours, guests = times_of(reader, now)
    known = newest_likely(looks.last or min(ours, default=0), ours + guests)
    if not known or now - known <= LONGEST:
        after = Looks(max(now, looks.last))
    else:
        steady = bool(looks.since) and 0 <= now - looks.seen <= LONGEST
        after = Looks(looks.last, looks.since if steady else now, now)
    doubted = after.since and now - after.since < LONGEST
    if after.since and not doubted:
        after = Looks(now)
    if record:
        write(reader.folder, after)
    if doubted:
        raise ClockDoubted(
            f"{reader.folder}: the clock says {utc(now)}, but nothing is known of this journal after {utc(known)}:"
            " no history is given up until that is cleared up"
        )


def believe(folder: Path, now: int) -> None:
    """Remember that a person vouches for `now` (ns). Raises JournalWriteFailed, JournalFull."""
    write(folder, Looks(now))


def newest_likely(start: int, times: Iterable[int]) -> int:
    """Return the newest of `times` (ns) that is reached from `start` in steps of at most a day."""
    reached = start
    for time in sorted(times):
        if reached < time <= reached + LONGEST:
            reached = time
    return reached


def times_of(reader: JournalReader, now: int) -> tuple[list[int], list[int]]:
    """Return the appliance's times (headers, log) and the guest's (cuts) that a journal says, up to `now` (ns)."""
    ours: list[Any] = [meta.get("created") for meta in reader.meta.records]
    guests: list[Any] = []
    for line in reader.timelines():
        ours += [scan.header.created for scan in reader.scans(line.number) if scan.header]
        guests += [cut.wall for cut in reader.lineage(line.number).history.cuts]
    return _possible(ours, now), _possible(guests, now)


def _possible(times: list[Any], now: int) -> list[int]:
    return [time for time in times if type(time) is int and EARLIEST <= time <= now]


def read(folder: Path) -> Looks:
    """Return what the looks before have left; nothing when that cannot be read."""
    try:
        said: Any = json.loads((folder / UPKEEP_LOCK).read_bytes()[:200])
        return Looks(*(int(said[name]) for name in Looks._fields))
    except (OSError, ValueError, TypeError, KeyError):
        return Looks()


def write(folder: Path, looks: Looks) -> None:
    """Remember looks; what a crash leaves of that counts as nothing."""
    path = folder / UPKEEP_LOCK
    text = json.dumps(looks._asdict()).ljust(120).encode()
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        try:
            os.pwrite(fd, text, 0)
        finally:
            os.close(fd)
    except OSError as error:
        raise write_error(path, error) from error
