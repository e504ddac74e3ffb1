"""Bringing a journal to what is promised: every timeline, job by job. The caller holds the upkeep lock."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from journal import metalog
from journal.errors import JournalFull
from journal.frame import FrameError
from journal.reader import JournalReader
from journal.retention.errors import BadPolicy, FloorLowered, NoRoomToThin, NotThinned
from journal.retention.facts import facts_of
from journal.retention.plan import MAX_JOB_BYTES, Facts, Job, plan
from journal.retention.policy import Policy, policy_of
from journal.retention.stuck import Stuck, stuck_in
from journal.retention.thin import Done, Thinner
from journal.space import room
from lastwrite.durations import duration_text


@dataclass(frozen=True, slots=True)
class Promise:
    """What counts for a journal at this moment: its policy, and the bytes of the file system that it works in."""

    policy: Policy
    reserve: int
    own: bool

    @property
    def stop_below(self) -> int:
        """Free bytes below which ingest stops."""
        return self.reserve if self.policy.when_full == "stop" else self.reserve // 2

    @property
    def max_job_bytes(self) -> int:
        """How large a job may be, so that it has room in the reserve."""
        return min(MAX_JOB_BYTES, self.reserve // 4) if self.reserve else MAX_JOB_BYTES


@dataclass
class Report:
    """What was done: jobs by timeline, what was left and why. `short`: less than the reserve is `free` (bytes).

    `stuck`: what cannot be thinned whatever is due. `steps`: by how many steps want of space has shortened the promise.
    """

    done: list[tuple[int, Done]] = field(default_factory=list)
    planned: list[tuple[int, Job]] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    short: bool = False
    free: int = 0
    stuck: list[Stuck] = field(default_factory=list)
    steps: int = 0

    @property
    def freed(self) -> int:
        """Bytes that were given back."""
        return sum(done.bytes_before - done.bytes_after for _, done in self.done)


def promise_of(reader: JournalReader, default: Policy, default_reserve: int) -> Promise:
    """Return what is promised for a journal. Raises BadPolicy, OSError."""
    records = reader.meta.records
    policy = policy_of(records, default)
    reserve = default_reserve if policy.reserve_bytes is None else policy.reserve_bytes
    last = next((meta for meta in reversed(records) if meta["meta"] == "retention"), None)
    return Promise(policy, reserve, last is not None and last.get("policy") is not None)


def set_promise(folder: Path, policy: Policy | None, default: Policy, *, force: bool = False) -> None:
    """Promise something else for a journal; None: the appliance's default. Durable.

    Raises FloorLowered when the guaranteed floor would become shorter, or nobody knows whether it does because this
    version cannot read the present promise, and `force` is not given.
    """

    def check(records: list[metalog.Meta]) -> None:
        then = policy or default
        try:
            now = policy_of(records, default)
        except BadPolicy as error:
            if force:
                return
            raise FloorLowered(f"{folder}: {error.message}: the guaranteed floor is not known") from error
        if then.floor < now.floor and not force:
            raise FloorLowered(
                f"{folder}: the guaranteed floor of {duration_text(now.floor)} would become {duration_text(then.floor)}"
            )

    fields = None if policy is None else policy.to_meta()
    metalog.append(folder, {"meta": "retention", "policy": fields, "created": time.time_ns()}, check)


def retain(
    folder: Path,
    promise: Promise,
    now: int,
    *,
    shortened: int = 0,
    dry_run: bool = False,
    go_on: Callable[[], bool] = lambda: True,
    report: Report | None = None,
) -> Report:
    """Do what is due at `now` (ns, appliance's clock) for every timeline of a journal.

    `shortened`: so many steps of the promise are given up for want of space. `go_on` is asked before each job. What was
    done is put into `report` at once, beside what was done before; the rest of it is that of this look. Raises
    NetSegmentBad, JournalWriteFailed; nothing is half done then.
    """
    report = Report() if report is None else report
    report.planned, report.left, report.stuck = [], [], []
    report.steps = shortened
    _look_at_space(folder, promise, report)
    policy = shortened_policy(promise.policy, shortened)
    reader = JournalReader(folder)
    keep_free = promise.reserve // 8 if report.short else promise.stop_below
    for line in reader.timelines():
        facts = facts_of(reader, line.number, now)
        left = max(0, room(folder).free - keep_free)
        due, jobs = _jobs(facts, policy, promise, now, left)
        report.planned += [(line.number, job) for job in jobs]
        report.left += _without_room(folder, line.number, due, jobs, left)
        report.stuck += stuck_in(folder, line.number, facts, now - policy.every_write)
        if dry_run or not jobs:
            continue
        history = reader.lineage(line.number).history
        thinner = Thinner(folder, line.number, history, keep_free=keep_free, go_on=go_on)
        for job in jobs:
            if not go_on():
                return report
            _do(thinner, line.number, job, report)
    _look_at_space(folder, promise, report)
    return report


def _look_at_space(folder: Path, promise: Promise, report: Report) -> None:
    report.free = room(folder).free
    report.short = promise.reserve > 0 and report.free < promise.reserve


def _jobs(facts: Facts, policy: Policy, promise: Promise, now: int, left: int) -> tuple[list[Job], list[Job]]:
    """Return the jobs that are due, and those that can be done in the room that is `left` (bytes)."""
    due = plan(facts, policy, now, max_bytes=promise.max_job_bytes)
    if all(job.bytes <= left for job in due):
        return due, due
    return due, plan(facts, policy, now, max_bytes=promise.max_job_bytes, room=left)


def _without_room(folder: Path, timeline: int, due: list[Job], jobs: list[Job], left: int) -> list[str]:
    """Return a sentence when there is too little room for some of what is due."""
    planned = {index for job in jobs for index in range(job.first, job.last)}
    missing = [job for job in due if not planned.issuperset(range(job.first, job.last))]
    if not missing:
        return []
    files = sum(job.last - job.first for job in missing)
    least = min(job.bytes for job in missing)
    return [
        f"{folder}: {files} {'file' if files == 1 else 'files'} of timeline {timeline} are due, but there is too little"
        f" room: {least} bytes or more are needed beside the reserve, {left} may be used"
    ]


def _do(thinner: Thinner, timeline: int, job: Job, report: Report) -> None:
    try:
        report.done.append((timeline, thinner.do(job)))
    except (NotThinned, NoRoomToThin, JournalFull) as error:
        report.left.append(error.message)
    except FrameError as error:  # found only now: the writer and the checks are told where to look
        report.left.append(error.message)
        thinner.name_damage(error)


def shortened_policy(policy: Policy, steps: int) -> Policy:
    """Return what so many steps of want of space make of a promise: none for one that stops instead."""
    if not steps or policy.when_full != "thin":
        return policy
    return [policy, *islice(policy.shortened(), steps)][-1]


def steps_of(policy: Policy) -> int:
    """Return how many steps a promise can be shortened by, down to its floor."""
    return sum(1 for _ in policy.shortened()) if policy.when_full == "thin" else 0


def is_short(folder: Path, promise: Promise) -> bool:
    """Return whether less than the reserve is free. Raises OSError."""
    return promise.reserve > 0 and room(folder).free < promise.reserve
