"""What is foreseen of a run is what it does; what cannot be thinned and what is kept anyway is known."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from pathlib import Path

import pytest

from journal import layout
from journal.reader import JournalReader
from journal.retention.facts import IN_USE, NOT_ENDED, facts_of
from journal.retention.measure import net_bytes, points_after, points_before
from journal.retention.plan import CutFact, Facts, FileFact, promised
from journal.retention.policy import Policy
from journal.retention.run import Promise, Report
from journal.retention.shorten import retain_in_space
from journal.retention.stuck import stuck_in, stuck_sentences
from journal.retention.thin import Thinner
from journal.space import Room
from lastwrite.durations import UNITS
from tests.journal.test_thinning import simulated
from tests.journal.thinning import free_runs, job_over

DAY = UNITS["d"]


@pytest.mark.parametrize("seed", range(6))
def test_points_and_bytes_are_foreseen(tmp_path: Path, seed: int) -> None:
    folder, choices = tmp_path / "j", random.Random(seed)
    guest = simulated(folder, seed)
    for share in (0.6, 0.3):  # the second time over net segments
        keep = {lsn for lsn in guest.expected if choices.random() < share}
        reader = JournalReader(folder)
        facts = facts_of(reader, 1, time.time_ns())
        history = reader.lineage().history
        for first, last in free_runs(facts):
            job = job_over(facts, first, last, keep | facts.required)
            lsns = range(job.first_lsn, job.next_lsn)
            assert points_before(history, job) == sum(map(history.is_point, lsns))
            after, expected = net_bytes(reader.scans(1), history, job), points_after(history, job)
            done = Thinner(folder, 1, history).do(job)
            assert after == pytest.approx(done.bytes_after, rel=0.1, abs=16_384)
            now = JournalReader(folder).lineage().history
            assert expected == sum(map(now.is_point, lsns))


def test_bookmarks_in_the_stream_are_among_what_is_kept_anyway() -> None:
    cuts = (
        CutFact(1, 5, 0, "tick"),
        CutFact(2, 7, 0, "bookmark"),
        CutFact(3, 9, 0, "bookmark"),
        CutFact(4, 11, 0, "appshot"),
    )
    assert promised(Facts((), cuts, frozenset({3, 9}))) == {3, 7, 9}


def file(number: int, fixed: str) -> FileFact:
    return FileFact(number * 10, number * 10 + 10, 100, number * DAY, (number + 1) * DAY, fixed=fixed)


def test_neighbours_that_cannot_be_thinned_for_the_same_reason_are_one_range() -> None:
    waits = f"the sync of epoch 2 {NOT_ENDED}"
    reasons = ("", "bad", "bad", "worse", "", "bad", waits, waits, IN_USE)
    facts = Facts(tuple(file(number, why) for number, why in enumerate(reasons, 1)), (), frozenset())
    found = stuck_in(Path("/j"), 1, facts, 8 * DAY)
    said = [(stuck.first_lsn, stuck.last_lsn, stuck.files, stuck.bytes, stuck.reason) for stuck in found]
    assert said == [
        (20, 39, 2, 200, "bad"),
        (40, 49, 1, 100, "worse"),
        (60, 69, 1, 100, "bad"),
        (70, 79, 1, 100, waits),  # the file after it is not due yet
    ]
    told = stuck_sentences(found)
    assert len(told) == 6 and all(stuck.reason in text for stuck, text in zip(found, told, strict=False))
    assert "journal check /j" in told[4] and "sync has ended" in told[5]


def test_a_longer_floor_counts_from_the_next_step_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "j"
    simulated(folder, 5)
    monkeypatch.setattr("journal.retention.run.room", lambda _: Room(1 << 20, 1 << 40))
    short = Promise(Policy(every_write=4 * DAY, tiers=(), floor=0), 1 << 30, own=True)
    asked: list[Promise] = []

    def promise() -> Promise:
        policy = short.policy if len(asked) < 2 else replace(short.policy, floor=4 * DAY)
        asked.append(replace(short, policy=policy))
        return asked[-1]

    report = Report()
    before = [file.path.name for file in layout.files(folder, 1)]
    retain_in_space(folder, promise, time.time_ns() + DAY // 2, report)
    assert report.short and len(asked) == 3 and not report.done
    assert [file.path.name for file in layout.files(folder, 1)] == before
