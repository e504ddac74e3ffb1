"""What programs are told of retention: every key says its unit, every time is there in ns and as ISO 8601. Pure.

Where a range has `first_lsn` and `last_lsn`, both belong to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from journal.pins import Pin
from journal.retention.forecast import Forecast
from journal.retention.plan import Job
from journal.retention.policy import Policy
from journal.retention.run import Promise, Report, shortened_policy, steps_of
from journal.retention.shorten import Look
from journal.retention.stuck import Stuck
from journal.retention.thin import Done
from lastwrite.durations import duration_text
from lastwrite.instant import format_time

Told = dict[str, Any]


def moment(name: str, ns: int | None) -> Told:
    """Return a time (ns since 1970, None: not known) twice: `name` in ISO 8601, `name`_ns."""
    return {name: None if ns is None else format_time(ns), f"{name}_ns": ns}


def _age(name: str, ns: int) -> Told:
    return {name: duration_text(ns), f"{name}_ns": ns}


def policy_told(policy: Policy) -> Told:
    """Return a promise without its reserve; ages as people write them, and in ns."""
    tiers = [_age("step", tier.step) | _age("up_to", tier.reach) for tier in policy.tiers]
    ages = _age("every_write", policy.every_write) | _age("floor", policy.floor)
    return ages | {"tiers": tiers, "when_full": policy.when_full}


def promise_told(promise: Promise) -> Told:
    """Return what counts for a journal. `own_reserve_bytes`: null where the appliance's default counts."""
    reserve = {"reserve_bytes": promise.reserve, "own_reserve_bytes": promise.policy.reserve_bytes}
    return policy_told(promise.policy) | reserve | {"own": promise.own}


def pin_told(pin: Pin) -> Told:
    """Return a pin; its times are of the appliance's clock."""
    said = {name: getattr(pin, name) for name in ("pin", "timeline", "lsn", "reason", "holder")}
    return said | moment("until", pin.until) | moment("created", pin.created)


def forecast_told(told: Forecast) -> Told:
    """Return a forecast. The window is the time that the rate was measured over, by the appliance's clock."""
    other = max(0, told.journal_bytes - told.segment_bytes - told.net_bytes)
    return {
        "journal_bytes": told.journal_bytes,
        "of_journal_bytes": {"segments": told.segment_bytes, "net_segments": told.net_bytes, "other": other},
        "files": {"segments": told.segments, "net_segments": told.nets},
        "free_bytes": told.free,
        "reserve_bytes": told.reserve,
        "write_rate_bytes_per_day": told.write_rate,
        "kept_rate_bytes_per_day": told.kept_rate,
        **moment("window_begin", told.since),
        **moment("window_end", told.until),
        "assumes": told.assumes,
        "needs_bytes": told.needs,
        "room_bytes": told.room,
        "days_left": told.days_left,
        "shortens": list(told.shortens),
    }


def shown_told(
    folder: str,
    promise: Promise,
    told: Forecast,
    held: Sequence[Pin],
    oldest: int | None,
    newest: int | None,
) -> Told:
    """Return all of `retention show`; the oldest and newest point by the source's clock."""
    return {
        "journal": folder,
        "promise": promise_told(promise),
        "forecast": forecast_told(told),
        "pins": [pin_told(pin) for pin in held],
        **moment("oldest", oldest),
        **moment("newest", newest),
    }


def run_told(
    folder: str,
    promise: Promise,
    report: Report,
    looks: Sequence[Look] | None,
    *,
    interrupted: bool = False,
) -> Told:
    """Return all of `retention run`; `looks` of a dry run, else None. What is foreseen in bytes is about so much."""
    counts = policy_told(shortened_policy(promise.policy, report.steps))
    shortened = {"steps": report.steps, "of_steps": steps_of(promise.policy), "counts": counts}
    return {
        "journal": folder,
        "dry_run": looks is not None,
        "interrupted": interrupted,
        "planned": [_look_told(look) for look in looks or ()],
        "done": [_done_told(timeline, done) for timeline, done in report.done],
        "left": report.left,
        "cannot_be_thinned": [_stuck_told(stuck) for stuck in report.stuck],
        "freed_bytes": report.freed,
        "would_free_bytes": None if looks is None else sum(look.freed for look in looks),
        "short": report.short,
        "free_bytes": report.free,
        "reserve_bytes": promise.reserve,
        "shortened": shortened if report.steps else None,
    }


def _range_told(timeline: int, of: Job | Done) -> Told:
    where = {"timeline": timeline, "first_lsn": of.first_lsn, "last_lsn": of.next_lsn - 1}
    return where | moment("begin", of.oldest or None) | moment("end", of.newest or None)


def _look_told(look: Look) -> Told:
    job = look.job
    files = {"files": job.last - job.first, "bytes": job.bytes, "bytes_after": look.bytes_after}
    points = {"points": look.points, "points_after": look.points_after}
    return _range_told(look.timeline, job) | files | points


def _done_told(timeline: int, done: Done) -> Told:
    files = {"files": done.files, "bytes": done.bytes_before, "bytes_after": done.bytes_after}
    return _range_told(timeline, done) | files


def _stuck_told(stuck: Stuck) -> Told:
    said = asdict(stuck)
    del said["oldest"], said["newest"]
    return said | moment("begin", stuck.oldest or None) | moment("end", stuck.newest)
