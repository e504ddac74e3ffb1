"""From what a timeline holds and what is promised to the jobs to do. Pure: no file, no clock."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from journal.retention.policy import Policy

MAX_JOB_BYTES = 4 << 30
MAX_JOB_FILES = 256
MERGE_FILES = 8
"""So many neighbouring net segments are made one even when no point goes away."""
FOLD_SHARE = 4
"""A file is written again only together with others that hold at least a quarter of its bytes."""


@dataclass(frozen=True, slots=True)
class FileFact:
    """A file of a timeline. Times in ns of the appliance's clock: what it holds came between `oldest` and `newest`.

    `ends`: the last LSNs of a net segment's intervals, None for a segment; `largest`: bytes of the largest interval.
    `fixed`: why it must stay as it is, or "".
    """

    first_lsn: int
    next_lsn: int
    bytes: int
    oldest: int
    newest: int
    ends: tuple[int, ...] | None = None
    fixed: str = ""
    largest: int = 0


class CutFact(NamedTuple):
    """A cut that is a recovery point; `time` in ns of the appliance's clock. `known`: False when that is a guess."""

    number: int
    lsn: int
    time: int
    kind: str
    known: bool = True


class Facts(NamedTuple):
    """What a timeline holds: files in order, cuts by LSN, and LSNs that are kept whatever is promised."""

    files: tuple[FileFact, ...]
    cuts: tuple[CutFact, ...]
    required: frozenset[int]


class Kept(NamedTuple):
    """What a promise keeps: LSNs that stay points, and the numbers of the cuts whose notes stay."""

    lsns: frozenset[int]
    cuts: frozenset[int]


@dataclass(frozen=True, slots=True)
class Job:
    """Files (indexes `first` up to before `last` of the facts) that become one net segment with these interval ends.

    `bytes`: of the files, an upper bound of what is written. What it covers came between `oldest` (0: not known) and
    `newest` (ns, appliance's clock).
    """

    first: int
    last: int
    first_lsn: int
    next_lsn: int
    ends: tuple[int, ...]
    cuts: frozenset[int]
    bytes: int
    oldest: int = 0
    newest: int = 0


def kept(facts: Facts, policy: Policy, now: int) -> Kept:
    """Return what the promise keeps at `now` (ns, appliance's clock).

    Of each step the *first* cut is kept: so what a coarser tier keeps is among what a finer one kept before.
    """
    lsns, numbers = set(facts.required), set()
    filled: set[tuple[int, int]] = set()
    for cut in facts.cuts:
        if _is_kept(cut, policy, now, filled):
            lsns.add(cut.lsn)
            numbers.add(cut.number)
    # What is needed for another reason keeps its first cut too: some taps are exact at cuts only.
    named = {cut.lsn: cut.number for cut in reversed(facts.cuts) if cut.lsn in facts.required}
    return Kept(frozenset(lsns), frozenset(numbers | set(named.values())))


def promised(facts: Facts) -> frozenset[int]:
    """Return the LSNs that are kept whatever is promised, bookmarks that stand in the stream among them."""
    return facts.required | {cut.lsn for cut in facts.cuts if cut.kind == "bookmark"}


def _is_kept(cut: CutFact, policy: Policy, now: int, filled: set[tuple[int, int]]) -> bool:
    age = now - cut.time
    step = policy.step_at(age)
    # Cuts without a known time cannot be told apart by their step: all of them stay as long as anything does.
    long_kept = cut.kind == "appshot" or not cut.known
    if cut.kind == "bookmark" or (long_kept and age < policy.horizon) or step == 0:
        return True
    coarsest = policy.tiers[-1].step if policy.tiers else 1
    bucket = (step or coarsest, cut.time // (step or coarsest))
    first = bucket not in filled
    filled.add(bucket)
    return first and step is not None


def plan(
    facts: Facts,
    policy: Policy,
    now: int,
    *,
    max_bytes: int = MAX_JOB_BYTES,
    room: int | None = None,
    merge_files: int = MERGE_FILES,
) -> list[Job]:
    """Return the jobs that bring a timeline to what is promised at `now` (ns), the oldest files first.

    A job reads at most `max_bytes` beside the base, and none writes more than `room` bytes (None: any number).
    """
    bounds = _Bounds(max_bytes, room, merge_files)
    keep = kept(facts, policy, now)
    ordered = sorted(keep.lsns)
    shares = [_Share.of(file, ordered) for file in facts.files]
    jobs: list[Job] = []
    for first, last in _runs(facts.files, now - policy.every_write):
        index = first
        while index < last:
            end = _best_end(shares, index, last, bounds)
            if end:
                jobs.append(_job(shares[index:end], index, end, keep.cuts))
            index = end or index + 1
    return jobs


def _runs(files: Sequence[FileFact], older_than: int) -> Iterator[tuple[int, int]]:
    """Yield (first, last) of neighbouring files that may be thinned."""
    first = 0
    for index, file in enumerate(files):
        if file.fixed or file.newest > older_than:
            if index > first:
                yield first, index
            first = index + 1
        elif index > first and files[index - 1].next_lsn != file.first_lsn:
            yield first, index
            first = index
    if len(files) > first:
        yield first, len(files)


@dataclass(frozen=True, slots=True)
class _Share:
    """What of a file is kept: `inner` LSNs before its last one, and whether the last one is."""

    file: FileFact
    inner: tuple[int, ...]
    last: bool

    @classmethod
    def of(cls, file: FileFact, keep: Sequence[int]) -> _Share:
        """`keep`: all LSNs that are kept, ascending."""
        low, high = bisect_left(keep, file.first_lsn), bisect_left(keep, file.next_lsn)
        left = keep[low:high]
        if file.ends is not None:
            ends = frozenset(file.ends)
            left = [lsn for lsn in left if lsn in ends]
        last = bool(left) and left[-1] == file.next_lsn - 1
        return cls(file, tuple(left[:-1] if last else left), last)

    def heavy(self, at_end: bool) -> bool:
        """Return whether writing a net segment again does not pay by itself: it does when half of its points go away.

        The end of a group stays a point anyway. One interval, such as the base, hardly shrinks.
        """
        if self.file.ends is None:
            return False
        left = len(self.inner) + (self.last or at_end)
        alone = len(self.file.ends) < 2 or self.file.largest * 2 > self.file.bytes
        return alone or left * 2 > len(self.file.ends)


class _Bounds(NamedTuple):
    max_bytes: int
    room: int | None
    merge_files: int

    def allow(self, total: int, base: int, first: bool) -> bool:
        """Return whether a group of so many bytes, so many of them the base's, may be one job."""
        if self.room is not None and total > self.room:
            return False
        return first or total - base <= self.max_bytes


def _best_end(shares: Sequence[_Share], first: int, last: int, bounds: _Bounds) -> int:
    """Return where the largest group from `first` on ends that is worth the work, 0 when none is.

    It is, when a segment becomes a net segment, when half of the points go away, or when files are many; and every
    net segment in it that keeps most of its points is written together with others that hold at least a
    quarter of its bytes. The first file of a timeline is its base and may be as large as the disks.
    """
    best = total = ends_before = ends_after = heavy = 0
    segments = False
    for index in range(first, min(last, first + MAX_JOB_FILES)):
        share = shares[index]
        total += share.file.bytes
        if not bounds.allow(total, shares[0].file.bytes if first == 0 else 0, index == first):
            break
        segments = segments or share.file.ends is None
        ends_before += len(share.file.ends or ())
        ends_after += len(share.inner)
        heaviest = max(heavy, share.file.bytes * share.heavy(at_end=True))
        fewer = (ends_after + 1) * 2 <= ends_before or index + 1 - first >= bounds.merge_files
        if (segments or fewer) and (total - heaviest) * FOLD_SHARE >= heaviest:
            best = index + 1
        ends_after += share.last
        heavy = max(heavy, share.file.bytes * share.heavy(at_end=False))
    return best


def _job(shares: Sequence[_Share], first: int, last: int, cuts: frozenset[int]) -> Job:
    low, high = shares[0].file.first_lsn, shares[-1].file.next_lsn
    ends = [lsn for share in shares for lsn in (*share.inner, *([share.file.next_lsn - 1] * share.last))]
    if not ends or ends[-1] != high - 1:
        ends.append(high - 1)
    total, times = sum(share.file.bytes for share in shares), (shares[0].file.oldest, shares[-1].file.newest)
    return Job(first, last, low, high, tuple(ends), cuts, total, *times)
