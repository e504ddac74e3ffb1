"""One run for one journal, or what it would do: what is due and, for want of space, less than is promised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from journal.reader import JournalReader
from journal.retention.measure import net_bytes, points_after, points_before
from journal.retention.plan import Job
from journal.retention.policy import policy_text
from journal.retention.run import Promise, Report, retain, shortened_policy, steps_of
from lastwrite.durations import duration_text
from lastwrite.text import size


class Look(NamedTuple):
    """What a job would do. `bytes_after`: about; the job has the bytes now."""

    timeline: int
    job: Job
    points: int
    points_after: int
    bytes_after: int

    @property
    def freed(self) -> int:
        """About how many bytes it would give back."""
        return self.job.bytes - self.bytes_after


@dataclass(frozen=True)
class Foreseen:
    """What a run would do: its jobs, and the report of the look that they are from."""

    looks: list[Look]
    report: Report

    @property
    def freed(self) -> int:
        """About how many bytes the run would give back."""
        return sum(look.freed for look in self.looks)


def retain_in_space(folder: Path, promise: Callable[[], Promise], now: int, report: Report) -> Report:
    """Do what is due at `now` (ns); while less than the reserve is free, shorten the promise by step after step.

    `promise` is asked before each step: a longer floor counts at once. What was done is in `report` at any moment.
    Raises as retain() does.
    """
    step = 0
    while True:
        present = promise()
        retain(folder, present, now, shortened=step, report=report)
        if not report.short or step >= steps_of(present.policy):
            return report
        step += 1


def foresee(folder: Path, promise: Promise, now: int) -> Foreseen:
    """Return what a run would do at `now` (ns): by the first step that is reckoned to free the reserve. Reads only."""
    reader = JournalReader(folder)
    known: dict[tuple[int, Job], Look] = {}
    steps = steps_of(promise.policy)
    for step in range(steps + 1):
        report = retain(folder, promise, now, shortened=step, dry_run=True)
        for key in report.planned:
            if key not in known:
                known[key] = reader.settled(lambda key=key: _look(reader, *key))  # type: ignore[misc]
        found = Foreseen([known[key] for key in report.planned], report)
        if not report.short or report.free + found.freed >= promise.reserve:
            break
    return found


def _look(reader: JournalReader, timeline: int, job: Job) -> Look:
    history = reader.lineage(timeline).history
    after = net_bytes(reader.scans(timeline), history, job)
    return Look(timeline, job, points_before(history, job), points_after(history, job), after)


def space_sentences(folder: Path, promise: Promise, report: Report, *, freed: int = 0) -> list[str]:
    """Return what is to be said of the space after a run, or before one that would free so many bytes."""
    policy, expected = promise.policy, report.free + freed
    is_free = f"{size(report.free)} is free, the reserve is {size(promise.reserve)}"
    if report.short and policy.when_full == "stop":
        return [
            f"Space is short ({is_free}): this promise stops ingest and gives nothing up. Make space, or choose"
            f" `lastwrite retention set {folder} --when-full thin`."
        ]
    said = []
    if report.steps:
        counts = policy_text(shortened_policy(policy, report.steps))
        said.append(
            f"Space {'is' if report.short else 'was'} short ({is_free}): history is shortened by {report.steps} of"
            f" {steps_of(policy)} steps. What counts until there is space again: {counts}. Other journals on this file"
            " system are not shortened by this; a running server takes all of them in step."
        )
    if report.short and expected < promise.reserve:
        said.append(
            f"Space stays short: {size(max(0, expected))} of the reserve of {size(promise.reserve)} are free then, and"
            f" what is left is within the floor of {duration_text(policy.floor)}, kept whatever is promised, or named"
            " above. Make space on the file system."
        )
    return said
