"""A kill at any moment of thinning leaves a good journal; what cannot be done changes nothing."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from journal import layout, metalog, pins
from journal.errors import JournalFull, JournalWriteFailed
from journal.offline.check import check
from journal.reader import JournalReader
from journal.retention.errors import NetSegmentBad, NoRoomToThin, NotThinned
from journal.retention.facts import facts_of
from journal.retention.netfile import NEW_SUFFIX
from journal.retention.thin import Thinner
from journal.retention.timelines import prune_timeline
from journal.upkeep import clean
from journal.writer import JournalWriter
from lastwrite import failpoints
from tests.journal.tap import Guest, Tap
from tests.journal.test_thinning import DISKS, simulated
from tests.journal.thinning import (
    NOW,
    check_what_is_left,
    free_runs,
    interval_ends,
    job_over,
    metas,
    names,
    thin_all,
)

POINTS = ("net-half", "net-half:5", "net-written", "net-synced", "meta-half", "meta-written", "net-renamed",
          "meta-synced", "net-logged", "net-old-deleted", "net-old-deleted:2")  # fmt: skip


def killed(work: Callable[[], object], fail: str) -> int:
    """Do something in a child that ends itself at a fail point; return the signal that ended it, 0 for none."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            failpoints.arm(fail)
            work()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


@pytest.mark.parametrize("fail", POINTS)
def test_a_kill_at_any_moment_of_thinning_leaves_a_good_journal(tmp_path: Path, fail: str) -> None:
    folder = tmp_path / "j"
    guest = simulated(folder, seed=len(fail))
    kept = set(random.Random(3).sample(sorted(guest.expected), len(guest.expected) // 3))
    thin_first_half(folder, set(guest.expected))
    assert killed(lambda: thin_all(folder, 1, kept), fail) == 9
    assert check(folder).ok
    check_what_is_left(folder, 1, guest.expected, guest.refused, kept)
    with JournalWriter.open(folder, segment_bytes=40_000) as writer:
        guest.tap = Tap(writer, DISKS)
        guest.epoch(valid=True)
    clean(folder)
    assert not [name for name in names(folder) if name.endswith(NEW_SUFFIX)]
    every = layout.all_files(folder, 1)
    assert every == layout.without_left_overs(every)
    thin_all(folder, 1, kept)
    inside, ends = interval_ends(folder, 1)
    assert {lsn for lsn in guest.expected if lsn in inside} & kept <= ends
    check_what_is_left(folder, 1, guest.expected, guest.refused, kept)
    assert check(folder).ok


@pytest.mark.parametrize("fail", ["net-half", "net-written", "net-renamed", "meta-half"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_an_error_of_the_file_system_changes_nothing(tmp_path: Path, fail: str, number: int) -> None:
    folder = tmp_path / "j"
    guest = simulated(folder, seed=5)
    log = (folder / layout.META_LOG).read_bytes()
    with (
        failpoints.armed(f"{fail}=error:{errno.errorcode[number]}"),
        pytest.raises((OSError, JournalFull, JournalWriteFailed)),
    ):
        thin_all(folder, 1, set())
    assert (folder / layout.META_LOG).read_bytes() == log or fail == "net-renamed"
    assert not [name for name in names(folder) if name.endswith(NEW_SUFFIX)]
    if fail.startswith("net-half") or fail == "net-written":
        assert not [name for name in names(folder) if name.endswith(".net")]
        check_what_is_left(folder, 1, guest.expected, guest.refused, set(guest.expected))
    assert check(folder).ok


def thin_first_half(folder: Path, keep: set[int]) -> None:
    reader = JournalReader(folder)
    facts = facts_of(reader, 1, NOW)
    first, last = free_runs(facts)[0]
    Thinner(folder, 1, reader.lineage().history).do(job_over(facts, first, (first + last + 1) // 2, keep))


def one_job(folder: Path, keep: set[int]) -> tuple[Thinner, object]:
    reader = JournalReader(folder)
    facts = facts_of(reader, 1, NOW)
    first, last = free_runs(facts)[0]
    return Thinner(folder, 1, reader.lineage().history), job_over(facts, first, last, keep)


@pytest.mark.parametrize("how", ["pin", "bookmark", "fork", "hold"])
def test_a_point_that_is_needed_by_the_last_moment_is_not_given_up(tmp_path: Path, how: str) -> None:
    folder = tmp_path / "j"
    guest = simulated(folder, seed=5)
    thinner, job = one_job(folder, set())
    lsn = next(lsn for lsn in sorted(guest.expected) if job.first_lsn < lsn < job.next_lsn - 1)  # type: ignore[attr-defined]
    holding = None
    if how == "pin":
        pins.pin(folder, 1, lsn, reason="a case", holder="somebody")
    elif how == "hold":
        holding = pins.Hold(folder, 1, lsn)
    else:
        with JournalWriter.open(folder, segment_bytes=40_000) as writer:
            (writer.bookmark if how == "bookmark" else writer.fork)(lsn, "kept")
    with pytest.raises(NotThinned, match=f"LSN {lsn} is needed"):
        thinner.do(job)  # type: ignore[arg-type]
    check_what_is_left(folder, 1, guest.expected, guest.refused, set(guest.expected))
    thin_all(folder, 1, set())
    check_what_is_left(folder, 1, guest.expected, guest.refused, {lsn})
    if holding:
        holding.release()
        assert pins.holds(folder) == [] and not list((folder / layout.HOLDS).iterdir())


def test_a_net_segment_that_does_not_read_back_never_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "j"
    guest = simulated(folder, seed=5)
    verify = Thinner._verify

    def bitten(self: Thinner, job: object, new: Path, footer: layout.Footer) -> None:
        data = bytearray(new.read_bytes())
        data[len(data) // 2] ^= 1
        new.write_bytes(data)
        verify(self, job, new, footer)  # type: ignore[arg-type]

    monkeypatch.setattr(Thinner, "_verify", bitten)
    with pytest.raises(NetSegmentBad):
        thin_all(folder, 1, set())
    assert not [name for name in names(folder) if name.endswith((".net", NEW_SUFFIX))]
    check_what_is_left(folder, 1, guest.expected, guest.refused, set(guest.expected))


def test_a_job_without_room_is_not_begun(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    simulated(folder, seed=5)
    reader = JournalReader(folder)
    facts = facts_of(reader, 1, NOW)
    thinner = Thinner(folder, 1, reader.lineage().history, keep_free=1 << 60)
    with pytest.raises(NoRoomToThin):
        thinner.do(job_over(facts, *free_runs(facts)[0], set()))


@pytest.mark.parametrize("fail", ["meta-half", "meta-synced", "timeline-pruned"])
def test_a_kill_while_a_timeline_is_given_up_leaves_it_whole_or_gone(tmp_path: Path, fail: str) -> None:
    folder = tmp_path / "j"
    guest = simulated(folder, seed=7)
    fork = sorted(guest.expected)[5]
    with JournalWriter.open(folder, segment_bytes=40_000) as writer:
        assert writer.fork(fork, "test") == 2
    with JournalWriter.open(folder, 2, segment_bytes=40_000) as writer:
        branch = Guest(9, Tap(writer, DISKS), guest.expected[fork])
        branch.epoch(valid=True)
    assert killed(lambda: prune_timeline(folder, 2), fail) == 9
    reader = JournalReader(folder)
    gone = [line.number for line in reader.timelines()] == [1]
    assert gone == (fail != "meta-half")
    clean(folder)
    assert layout.timeline_folder(folder, 2).exists() != gone
    if not gone:
        check_what_is_left(folder, 2, branch.expected, set(), set(branch.expected))
    check_what_is_left(folder, 1, guest.expected, guest.refused, set(guest.expected))
    with JournalWriter.open(folder, segment_bytes=40_000) as writer:
        assert writer.fork(fork, "another") == 3
    assert len(metas(folder, "pruned")) == gone and metalog.read(folder / layout.META_LOG).damaged == []
