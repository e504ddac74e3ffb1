"""Thinning for tests: any neighbouring files, any points kept; and what must then come back."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from journal import layout, metalog
from journal.errors import NotRecoverable
from journal.reader import JournalReader
from journal.retention.facts import facts_of
from journal.retention.plan import Facts, Job
from journal.retention.policy import Policy
from journal.retention.thin import Done, Thinner
from tests.journal.tap import Images

HOUR = 3_600_000_000_000
NOW = 1 << 62


def free_runs(facts: Facts) -> list[tuple[int, int]]:
    """(first, last) of neighbouring files that may be thinned."""
    runs: list[tuple[int, int]] = []
    for index, file in enumerate(facts.files):
        if file.fixed:
            continue
        if runs and runs[-1][1] == index:
            runs[-1] = (runs[-1][0], index + 1)
        else:
            runs.append((index, index + 1))
    return runs


def job_over(facts: Facts, first: int, last: int, keep: Iterable[int]) -> Job:
    """A job over some files that keeps some LSNs, as far as they are there."""
    files = facts.files[first:last]
    low, high = files[0].first_lsn, files[-1].next_lsn
    gone = {
        lsn
        for file in files
        if file.ends is not None
        for lsn in set(range(file.first_lsn, file.next_lsn)) - set(file.ends)
    }
    ends = sorted({lsn for lsn in keep if low <= lsn < high and lsn not in gone} | {high - 1})
    cuts = frozenset(cut.number for cut in facts.cuts if cut.lsn in keep)
    return Job(first, last, low, high, tuple(ends), cuts, sum(file.bytes for file in files))


def thin_somewhere(folder: Path, timeline: int, keep: set[int], choices: random.Random) -> Done | None:
    """Thin some neighbouring files; None when none may be."""
    reader = JournalReader(folder)
    facts = facts_of(reader, timeline, time.time_ns())
    runs = free_runs(facts)
    if not runs:
        return None
    low, high = choices.choice(runs)
    first = choices.randrange(low, high)
    last = choices.randint(first + 1, high)
    job = job_over(facts, first, last, keep | facts.required)
    return Thinner(folder, timeline, reader.lineage(timeline).history).do(job)


def thin_all(folder: Path, timeline: int, keep: set[int]) -> list[Done]:
    """Make one net segment of every run of files that may be thinned."""
    reader = JournalReader(folder)
    facts = facts_of(reader, timeline, time.time_ns())
    thinner = Thinner(folder, timeline, reader.lineage(timeline).history)
    return [thinner.do(job_over(facts, a, b, keep | facts.required)) for a, b in free_runs(facts)]


def interval_ends(folder: Path, timeline: int) -> tuple[set[int], set[int]]:
    """(LSNs in net segments, those of them that end an interval)."""
    inside: set[int] = set()
    ends: set[int] = set()
    for scan in JournalReader(folder).scans(timeline):
        if scan.is_net:
            inside |= set(range(scan.first_lsn, scan.following_lsn))
            ends |= set((scan.intervals - 1).tolist())
    return inside, ends


def check_what_is_left(
    folder: Path, timeline: int, expected: dict[int, Images], refused: set[int], kept: set[int]
) -> None:
    """Every kept point is bit for bit right; every other is right or refused with the nearest ones that are left."""
    reader = JournalReader(folder)
    history = reader.lineage(timeline).history
    points = {lsn for lsn in expected if history.is_point(lsn)}
    assert kept & expected.keys() <= points
    assert not any(history.is_point(lsn) for lsn in refused - expected.keys())
    for lsn in points:
        for disk, image in expected[lsn].items():
            assert reader.resolve(lsn, disk, timeline).read(0, len(image)) == image, (timeline, lsn, disk)
    for lsn in (expected.keys() | refused) - points:
        with pytest.raises(NotRecoverable) as refusal:
            reader.point(lsn, timeline)
        details = refusal.value.details
        assert details["before"] == max((p for p in points if p < lsn), default=None), lsn
        assert details["after"] == min((p for p in points if p > lsn), default=None), lsn


def names(folder: Path, timeline: int = 1) -> list[str]:
    """The files of a timeline."""
    return sorted(path.name for path in layout.timeline_folder(folder, timeline).iterdir())


def metas(folder: Path, kind: str) -> list[metalog.Meta]:
    """The records of one kind in a journal's log."""
    return [meta for meta in metalog.read(folder / layout.META_LOG).records if meta["meta"] == kind]


EVERYTHING_AT_ONCE = Policy(every_write=0, tiers=(), floor=0)
