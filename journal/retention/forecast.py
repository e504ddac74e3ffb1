"""What a promise needs and how long the space lasts, from what the journal's files say. Pure but for one statvfs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from journal.reader import JournalReader
from journal.retention.facts import facts_of, journal_bytes
from journal.retention.plan import Facts, plan, promised
from journal.retention.policy import Policy
from journal.retention.run import Promise, shortened_policy, steps_of
from journal.retention.stuck import stuck_in, stuck_sentences
from journal.space import room
from lastwrite.durations import UNITS, duration_text
from lastwrite.text import duration, size, utc

DAY = UNITS["d"]
_SHORTEST = 60 * UNITS["s"]  # a rate over less is no rate


@dataclass(frozen=True, slots=True)
class Forecast:
    """Bytes; rates in bytes a day; times in ns. None: not known yet.

    `journal_bytes`: all files, segments and net segments among them. `write_rate`: what comes in, as it was from
    `since` to `until` (appliance's clock). `kept_rate`: what is left of a day after thinning. `needs`: bytes that the
    whole promise takes at these rates. `room`: bytes that the journal can grow to. `days_left`: until space shortens
    history, None: it does not at these rates. `shortens`: what does, in sentences. `assumes`: what all this rests on.
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
    since: int | None = None
    until: int | None = None
    assumes: str = ""
    segments: int = 0
    nets: int = 0


class _Rate(NamedTuple):
    """Bytes a day, and the time (ns) that they were measured over."""

    bytes_a_day: float
    since: int
    until: int


def forecast(reader: JournalReader, promise: Promise, now: int) -> Forecast:
    """Return the forecast of a journal at `now` (ns, appliance's clock). Raises OSError."""
    facts = {line.number: facts_of(reader, line.number, now) for line in reader.timelines()}
    files = [file for fact in facts.values() for file in fact.files]
    sizes = [[file.bytes for file in files if (file.ends is not None) == nets] for nets in (False, True)]
    total, free = journal_bytes(reader.folder), room(reader.folder).free
    every = list(facts.values())
    comes, stays = _rate(every, now, nets=False), _rate(every, now, nets=True)
    written, left = comes and comes.bytes_a_day, stays and stays.bytes_a_day
    needs = _needs(promise.policy, written, left, every)
    limit = total + max(0, free - promise.reserve)
    days = _days_left(needs, written, limit - total, limit)
    said = [*_for_want_of_space(reader.folder, promise, every, days, free, now), *_kept_anyway(every)]
    older = now - promise.policy.every_write
    stuck = [one for n, fact in facts.items() for one in stuck_in(reader.folder, n, fact, older)]
    said += stuck_sentences(stuck)
    return Forecast(
        total, sum(sizes[0]), sum(sizes[1]), free, promise.reserve, written, left, needs, limit, days, tuple(said),
        comes and comes.since, comes and comes.until, _assumes(comes, left), len(sizes[0]), len(sizes[1]),
    )  # fmt: skip


def _rate(facts: list[Facts], now: int, *, nets: bool) -> _Rate | None:
    """Return the rate of the segments, or of the net segments behind the base; None: too little is known."""
    total, begins, ends = 0, now, 0
    for fact in facts:
        for index, file in enumerate(fact.files):
            if (file.ends is not None) != nets or (nets and index == 0):
                continue
            total += file.bytes
            begins, ends = min(begins, file.oldest or file.newest), max(ends, file.newest)
    return _Rate(total * DAY / (ends - begins), begins, ends) if ends - begins >= _SHORTEST else None


def _assumes(comes: _Rate | None, left: float | None) -> str:
    if comes is None:
        return "nothing is forecast before the journal has been written for a minute"
    window = f"{duration((comes.until - comes.since) / 10**9)}, from {utc(comes.since)} to {utc(comes.until)}"
    thinned = (
        "nothing has been thinned yet, so it assumes that nothing goes away by thinning"
        if left is None
        else "and that as much of a day stays after thinning as has stayed so far"
    )
    return f"it assumes that as much goes on coming in as in the last {window}; {thinned}"


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


def _for_want_of_space(
    folder: Path, promise: Promise, facts: list[Facts], days: float | None, free: int, now: int
) -> list[str]:
    policy = promise.policy
    if promise.reserve and free < promise.reserve:
        what = "ingest stops" if policy.when_full == "stop" else _shortened_by(folder, promise, facts, now)
        return [f"less than the reserve is free ({size(free)} of {size(promise.reserve)}): {what}"]
    if days is None:
        return []
    what = "history will be shortened" if policy.when_full == "thin" else "ingest will stop"
    return [f"the promise needs more than there is room for: in {days:.1f} days {what}"]


def _shortened_by(folder: Path, promise: Promise, facts: list[Facts], now: int) -> str:
    """Return what gives history up, and when, for want of space; or that there is nothing to give up."""
    shortest = shortened_policy(promise.policy, steps_of(promise.policy))
    floor = duration_text(promise.policy.floor)
    if not any(plan(fact, shortest, now, max_bytes=promise.max_job_bytes) for fact in facts):
        return f"there is nothing to give up that is older than the floor of {floor}: make space"
    return (
        f"history is shortened step by step, the oldest first, and never below the floor of {floor}: by a running"
        f" server at its next look, or at once by `lastwrite retention run {folder}`"
    )


def _kept_anyway(facts: list[Facts]) -> list[str]:
    count = sum(len(promised(fact)) for fact in facts)
    if not count:
        return []
    points = "point is" if count == 1 else "points are"
    return [f"{count} {points} kept whatever is promised: pins, bookmarks, forks, and what is being read"]
