"""The planner by itself: what is promised is kept, nothing else is touched, and the work comes to an end."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from journal.retention.errors import BadPolicy
from journal.retention.plan import CutFact, Facts, FileFact, Job, kept, plan
from journal.retention.policy import Policy, Tier, from_meta, parse_tiers, tiers_text
from lastwrite.durations import UNITS, duration_text, parse_duration, parse_share, parse_size

MINUTE, HOUR, DAY = UNITS["m"], UNITS["h"], UNITS["d"]
NOW = 1000 * DAY
POLICY = Policy(every_write=DAY, tiers=(Tier(MINUTE, 3 * DAY), Tier(HOUR, 30 * DAY)), floor=DAY)


def timeline(days: int, *, every: int = HOUR // 6, files_a_day: int = 4) -> Facts:
    """A timeline of so many days up to now: a cut after each record, files of plain segments."""
    per_file = DAY // files_a_day // every
    count = days * files_a_day
    begin = NOW - days * DAY
    files = []
    for number in range(count):
        oldest = begin + number * DAY // files_a_day
        fixed = "it is in use" if number >= count - 2 else ""
        first = 1 + number * per_file
        files.append(
            FileFact(first, first + per_file, 1 << 20, oldest, oldest + DAY // files_a_day, fixed=fixed)
        )
    cuts = [CutFact(lsn, lsn, begin + lsn * every, "tick") for lsn in range(1, count * per_file + 1)]
    return Facts(tuple(files), tuple(cuts), frozenset())


def after(facts: Facts, jobs: list[Job]) -> Facts:
    """What the timeline holds when the jobs were done."""
    files = list(facts.files)
    gone: set[int] = set()
    for job in reversed(jobs):
        group = files[job.first : job.last]
        files[job.first : job.last] = [
            FileFact(job.first_lsn, job.next_lsn, sum(f.bytes for f in group) // 2 + 1, group[0].oldest,
                     group[-1].newest, job.ends)
        ]  # fmt: skip
        gone |= set(range(job.first_lsn, job.next_lsn)) - set(job.ends)
    dropped = {cut.number for cut in facts.cuts if cut.lsn in gone}
    covered = [(job.first_lsn, job.next_lsn, job.cuts) for job in jobs]
    cuts = tuple(
        cut
        for cut in facts.cuts
        if cut.number not in dropped
        and all(not a <= cut.lsn < b or cut.number in numbers for a, b, numbers in covered)
    )
    return Facts(tuple(files), cuts, facts.required)


def points(facts: Facts) -> set[int]:
    """The LSNs that are left as recovery points."""
    found: set[int] = set()
    for file in facts.files:
        found |= set(range(file.first_lsn, file.next_lsn) if file.ends is None else file.ends)
    return found


def settled(facts: Facts, policy: Policy, now: int = NOW) -> Facts:
    """Do what is due until nothing is."""
    for _ in range(30):
        jobs = plan(facts, policy, now)
        if not jobs:
            return facts
        facts = after(facts, jobs)
    raise AssertionError("the work does not come to an end")


def test_each_tier_keeps_one_cut_in_each_of_its_steps() -> None:
    facts = timeline(40)
    left = points(settled(facts, POLICY))
    times = {cut.lsn: cut.time for cut in facts.cuts}
    ages = sorted(NOW - times[lsn] for lsn in left if lsn in times)
    assert [age for age in ages if age < DAY] == [
        age for age in sorted(NOW - t for t in times.values()) if age < DAY
    ]
    hours = {(NOW - age) // HOUR for age in ages}
    assert set(range((NOW - 30 * DAY) // HOUR + 1, NOW // HOUR)) <= hours
    assert len([age for age in ages if age >= 31 * DAY]) <= 2
    assert len([age for age in ages if 4 * DAY < age < 30 * DAY]) <= 26 * 24 + 26 * 4


def test_what_a_coarser_tier_keeps_a_finer_one_kept_before() -> None:
    facts = timeline(60)
    before = kept(facts, POLICY, NOW).lsns
    for days in range(1, 40):
        later = kept(facts, POLICY, NOW + days * DAY).lsns
        assert later <= before
        before = later


def test_history_that_grows_is_thinned_bit_by_bit_and_written_again_seldom() -> None:
    whole = timeline(40)
    facts = Facts((), (), frozenset())
    written = 0
    for number, file in enumerate(whole.files):
        now = file.newest
        files = (*(replace(f, fixed="") for f in facts.files), replace(file, fixed=""))
        files = (*files[:-2], *(replace(f, fixed="it is in use") for f in files[-2:]))
        cuts = (*facts.cuts, *(c for c in whole.cuts if file.first_lsn <= c.lsn < file.next_lsn))
        facts = Facts(files, cuts, frozenset())
        jobs = plan(facts, POLICY, now)
        written += sum(job.bytes for job in jobs)
        facts = after(facts, jobs)
        assert number < 20 or len(facts.files) < number
    assert written < 8 * sum(file.bytes for file in whole.files)
    assert plan(facts, POLICY, NOW) == []


@settings(max_examples=150, deadline=None)
@given(
    required=st.frozensets(st.integers(1, 40 * 144), max_size=12),
    fixed=st.sets(st.integers(0, 79), max_size=6),
    marks=st.sets(st.integers(1, 40 * 144), max_size=6),
    kind=st.sampled_from(["bookmark", "appshot"]),
    later=st.integers(0, 60),
    every_write=st.sampled_from([0, HOUR, DAY, 10 * DAY]),
    minutes=st.sampled_from([1, 30]),
)
def test_every_promised_point_is_kept_and_nothing_that_must_stay_is_touched(
    required: frozenset[int],
    fixed: set[int],
    marks: set[int],
    kind: str,
    later: int,
    every_write: int,
    minutes: int,
) -> None:
    facts = timeline(20)
    tiers = (Tier(minutes * MINUTE, 12 * DAY), Tier(2 * HOUR, 30 * DAY))
    policy = Policy(every_write=every_write, tiers=tiers, floor=HOUR)
    files = tuple(
        replace(file, fixed="it is damaged") if index in fixed else file
        for index, file in enumerate(facts.files)
    )
    cuts = tuple(cut._replace(kind=kind) if cut.lsn in marks else cut for cut in facts.cuts)
    facts = Facts(files, cuts, required)
    done = facts
    for days in range(0, later + 1, 20):
        now = NOW + days * DAY
        promised = kept(done, policy, now).lsns & points(done)
        jobs = plan(done, policy, now)
        for job in jobs:
            group = done.files[job.first : job.last]
            assert not any(file.fixed for file in group)
            assert all(file.newest <= now - policy.every_write for file in group)
            assert list(job.ends) == sorted(job.ends) and job.ends[-1] == job.next_lsn - 1
            assert group[0].first_lsn == job.first_lsn and group[-1].next_lsn == job.next_lsn
        done = after(done, jobs)
        assert promised <= points(done)
        assert required & points(facts) <= points(done)
        assert {file for file in files if file.fixed} <= set(done.files)
        if kind == "bookmark" or now - NOW < 10 * DAY:
            assert marks & points(facts) <= points(done)
    settled(done, policy, NOW + later * DAY)


def test_neighbours_with_a_hole_between_them_are_never_joined() -> None:
    facts = timeline(10)
    holed = facts._replace(files=facts.files[:5] + facts.files[6:])
    for job in plan(holed, POLICY, NOW + 100 * DAY):
        assert not job.first_lsn < facts.files[5].first_lsn < job.next_lsn


def test_the_base_is_written_again_only_with_a_quarter_of_its_bytes() -> None:
    base = FileFact(1, 1001, 1000, 0, DAY, ends=(1000,))
    old = [
        FileFact(1001 + 10 * n, 1011 + 10 * n, 30, DAY, DAY, ends=(1005 + 10 * n, 1010 + 10 * n))
        for n in range(12)
    ]
    few = plan(Facts((base, *old[:4]), (), frozenset()), POLICY, NOW)
    assert few and all(job.first > 0 for job in few)
    many = plan(Facts((base, *old), (), frozenset()), POLICY, NOW)
    assert [(job.first, job.last, job.ends) for job in many] == [(0, 13, (1120,))]


def test_many_small_net_segments_become_one_though_no_point_goes() -> None:
    cuts = tuple(CutFact(n, n * 10, NOW - 10 * DAY + n * HOUR, "tick") for n in range(1, 10))
    files = tuple(FileFact(n * 10 - 9, n * 10 + 1, 100, DAY, DAY, ends=(n * 10,)) for n in range(1, 10))
    assert plan(Facts(files[:7], cuts, frozenset()), POLICY, NOW) == []
    (job,) = plan(Facts(files, cuts, frozenset()), POLICY, NOW)
    assert job.ends == tuple(n * 10 for n in range(1, 10))


def test_jobs_are_bounded() -> None:
    jobs = plan(timeline(40), POLICY, NOW, max_bytes=5 << 20)
    assert jobs and all(job.bytes <= 6 << 20 for job in jobs)


@pytest.mark.parametrize("policy", [POLICY, Policy(), Policy(every_write=10 * DAY, tiers=(), floor=DAY)])
def test_want_of_space_takes_the_oldest_first_and_never_below_the_floor(policy: Policy) -> None:
    before = policy
    steps = list(policy.shortened())
    for shorter in steps:
        assert policy.floor <= shorter.horizon < before.horizon
        for age in range(0, shorter.horizon, HOUR):
            assert shorter.step_at(age) == policy.step_at(age)
        before = shorter
    assert steps[-1].horizon == policy.floor


def test_a_promise_reads_back_as_it_was_written_and_nonsense_is_refused() -> None:
    policy = replace(POLICY, when_full="stop", reserve_bytes=5)
    assert from_meta(policy.to_meta()) == policy
    assert parse_tiers(tiers_text(policy.tiers)) == policy.tiers
    for bad in (
        {},
        None,
        {"tiers": 3},
        policy.to_meta() | {"floor": 400 * DAY},
        policy.to_meta() | {"tiers": [[1]]},
    ):
        with pytest.raises(BadPolicy):
            from_meta(bad)
    for tiers in ("1m", "1m:0", "1h:3d, 1m:30d", "1h:1h", "x:y"):
        with pytest.raises(BadPolicy):
            Policy(tiers=parse_tiers(tiers))
    with pytest.raises(BadPolicy):
        Policy(when_full="perhaps")


def test_lengths_of_time_and_sizes_are_read_as_people_write_them() -> None:
    for text in ("90s", "36h", "30d", "8w", "0", "2y"):
        assert parse_duration(duration_text(parse_duration(text))) == parse_duration(text)
    assert (parse_duration("1d"), parse_duration("24 h")) == (DAY, DAY)
    assert (parse_size("20GiB"), parse_size("2T"), parse_size("7")) == (20 << 30, 2 << 40, 7)
    assert (parse_share("5%", 1000), parse_share("1K", 1000)) == (50, 1024)
    for bad in ("d", "1", "-1d", "1.5h", ""):
        with pytest.raises(ValueError, match="is no length of time"):
            parse_duration(bad)
    for bad in ("x", "-5", "60%", "%"):
        with pytest.raises(ValueError, match="is no "):
            parse_share(bad, 100)
