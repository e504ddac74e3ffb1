"""What a promise needs and how long the space lasts, from what the journal's files say. Pure but for one statvfs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from journal.reader import JournalReader
from journal.retention.facts import facts_of, journal_bytes
from journal.retention.plan import Facts
from journal.retention.policy import Policy
from journal.retention.run import Promise
from journal.space import room
from lastwrite.durations import UNITS, duration_text

DAY = UNITS["d"]
_SHORTEST = 60 * UNITS["s"]  # a rate over less is no rate


@dataclass(frozen=True, slots=True)
class Forecast:
    """Bytes; rates in bytes a day; times in ns. None: not known yet.

    `write_rate`: what comes in. `kept_rate`: what is left of a day after thinning. `needs`: bytes that the
    whole promise takes at these rates. `room`: bytes that the journal can grow to. `days_left`: until space shortens
    history, None: it does not at these rates. `shortens`: what does, in sentences.
    """

    journal_bytes: int
    segment_bytes: int
    net_bytes: int
    free: int
    reserve: int
    write_rate: float | None
    kept_rate: float | None
    needs: int | None
    room: int
    days_left: float | None
    shortens: tuple[str, ...]


def forecast(reader: JournalReader, promise: Promise, now: int) -> Forecast:
    """Return the forecast of a journal at `now` (ns, appliance's clock). Raises OSError."""
    facts = [facts_of(reader, line.number, now) for line in reader.timelines()]
    files = [file for fact in facts for file in fact.files]
    segments = sum(file.bytes for file in files if file.ends is None)
    nets = sum(file.bytes for file in files if file.ends is not None)
    total, free = journal_bytes(reader.folder), room(reader.folder).free
    written, left = _rate(facts, now, nets=False), _rate(facts, now, nets=True)
    needs = _needs(promise.policy, written, left, facts)
    limit = total + max(0, free - promise.reserve)
    days = _days_left(needs, written, limit - total, limit)
    said = tuple(_shortens(reader.folder, promise, facts, needs, limit, days, free))
    return Forecast(total, segments, nets, free, promise.reserve, written, left, needs, limit, days, said)


def _rate(facts: list[Facts], now: int, *, nets: bool) -> float | None:
    """Return the bytes a day of the segments, or of the net segments behind the base; None: too little is known."""
    total, begins, ends = 0, now, 0
    for fact in facts:
        for index, file in enumerate(fact.files):
            if (file.ends is not None) != nets or (nets and index == 0):
                continue
            total += file.bytes
            begins, ends = min(begins, file.oldest or file.newest), max(ends, file.newest)
    return total * DAY / (ends - begins) if ends - begins >= _SHORTEST else None


def _needs(policy: Policy, written: float | None, left: float | None, facts: list[Facts]) -> int | None:
    """Return the bytes that the promise takes: base, every write for its time, and what is left of each day after."""
    if written is None:
        return None
    base = sum(fact.files[0].bytes for fact in facts if fact.files and fact.files[0].ends is not None)
    # Before anything was thinned, nobody knows how much goes away: at most nothing does.
    day = min(left, written) if left is not None else written
    return int(base + (policy.every_write * written + (policy.horizon - policy.every_write) * day) / DAY)


def _days_left(needs: int | None, written: float | None, space: int, limit: int) -> float | None:
    if needs is None or not written or needs <= limit:
        return None
    return space / written


def _shortens(
    folder: Path,
    promise: Promise,
    facts: list[Facts],
    needs: int | None,
    limit: int,
    days: float | None,
    free: int,
) -> list[str]:
    said = []
    policy = promise.policy
    if promise.reserve and free < promise.reserve:
        what = (
            "history is being shortened, the oldest first" if policy.when_full == "thin" else "ingest stops"
        )
        said.append(
            f"less than the reserve is free: {what}, and never below the floor of {duration_text(policy.floor)}"
        )
    elif days is not None and needs:
        what = "history will be shortened" if policy.when_full == "thin" else "ingest will stop"
        said.append(f"the promise needs more than there is room for: in {days:.1f} days {what}")
    pinned = sum(len(fact.required) for fact in facts)
    if pinned:
        said.append(
            f"{pinned} {'point is' if pinned == 1 else 'points are'} kept whatever is promised: "
            "pins, bookmarks, forks, and what is being read"
        )
    fixed = sum(1 for fact in facts for file in fact.files if "damaged" in file.fixed)
    if fixed:
        files = "file" if fixed == 1 else "files"
        said.append(f"{fixed} {files} of {folder.name} stay as they are, because damage is in or before them")
    return said
