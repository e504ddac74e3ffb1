"""Where space, open files or strange files stand in the way: said, never silent, and the rest goes on."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

import pytest

from journal import layout, metalog, pins
from journal.metalog import Meta
from journal.pins import HoldNotTaken
from journal.reader import JournalReader
from journal.retention.errors import BadPolicy, FloorLowered, TimelineElsewhere
from journal.retention.policy import LONGEST, Policy, Tier
from journal.retention.run import promise_of, set_promise
from journal.retention.timelines import prune_timeline
from journal.space import Room
from journal.upkeep import upkeep
from journal.writer import JournalWriter
from tests.journal.test_thinning import simulated
from tests.journal.thinning import EVERYTHING_AT_ONCE, HOUR, metas


def test_a_hold_that_cannot_be_taken_is_no_silent_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "j"
    lsn = sorted(simulated(folder, 5).expected)[3]
    plain = os.open

    def fails(number: int) -> None:
        def opened(path: object, flags: int, *rest: int, **more: int) -> int:
            if layout.HOLDS in str(path):
                raise OSError(number, os.strerror(number), str(path))
            return plain(path, flags, *rest, **more)  # type: ignore[arg-type]

        monkeypatch.setattr("os.open", opened)

    for number in (28, 24, 5, 122):  # ENOSPC, EMFILE, EIO, EDQUOT
        fails(number)
        with pytest.raises(HoldNotTaken, match=os.strerror(number)):
            pins.Hold(folder, 1, lsn)
    for number in (30, 13, 1):  # EROFS, EACCES, EPERM: nothing is thinned there either
        fails(number)
        assert pins.take_hold(folder, 1, lsn) == -1


def test_a_process_at_its_limit_of_open_files_is_told_that_it_holds_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    lsn = sorted(simulated(folder, 5).expected)[3]
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
    try:
        with pytest.raises(HoldNotTaken, match="Too many open files"):
            pins.take_hold(folder, 1, lsn)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_what_there_is_no_room_for_is_a_problem_and_not_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "j"
    simulated(folder, 5)
    free = [1000]
    for module in ("run", "thin"):
        monkeypatch.setattr(f"journal.retention.{module}.room", lambda _: Room(free[0], 1 << 30))
    now = time.time_ns() + HOUR
    done = upkeep(folder, now, default=EVERYTHING_AT_ONCE)
    assert not done.retention.done
    assert [p for p in done.problems if "too little room" in p and "timeline 1" in p] == done.problems != []
    free[0] = 1 << 30
    again = upkeep(folder, now, default=EVERYTHING_AT_ONCE)
    assert again.retention.done and not again.problems


def test_what_cannot_be_deleted_is_named_and_the_rest_is_done(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    guest = simulated(folder, 5)
    with JournalWriter.open(folder, segment_bytes=40_000) as writer:
        writer.fork(sorted(guest.expected)[4], "drill")
    home = layout.timeline_folder(folder, 1)
    strange = [home / "00000000000000000003.idx", home / "x.tmp", home / "x.net.new"]
    for path in strange[:2]:
        path.mkdir()
        os.utime(path, (0, 0))
    fork, moved = layout.timeline_folder(folder, 2), tmp_path / "moved"
    fork.rename(moved)
    fork.symlink_to(moved)
    metalog.append(folder, {"meta": "pruned", "timeline": 2, "created": time.time_ns()})
    done = upkeep(folder, time.time_ns() + HOUR, default=EVERYTHING_AT_ONCE)
    assert done.retention.done and moved.is_dir()
    assert any("symbolic link" in problem for problem in done.problems)
    for path in strange[:2]:
        assert any(path.name in problem for problem in done.problems)


def test_a_timeline_behind_a_link_is_not_given_up(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    guest = simulated(folder, 5)
    with JournalWriter.open(folder, segment_bytes=40_000) as writer:
        writer.fork(sorted(guest.expected)[4], "drill")
    home, moved = layout.timeline_folder(folder, 2), tmp_path / "moved"
    home.rename(moved)
    home.symlink_to(moved)
    with pytest.raises(TimelineElsewhere, match="symbolic link"):
        prune_timeline(folder, 2)
    assert not metas(folder, "pruned") and moved.is_dir()
    home.unlink()
    moved.rename(home)
    prune_timeline(folder, 2)


def test_a_promise_of_another_version_can_be_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    JournalWriter.create(folder, "web01").close()
    other: Meta = Policy().to_meta() | {"when_full": "archive"}
    for chosen in (None, Policy(every_write=2 * HOUR)):
        metalog.append(folder, {"meta": "retention", "policy": other, "created": 1})
        with pytest.raises(BadPolicy):
            promise_of(JournalReader(folder), Policy(), 0)
        with pytest.raises(FloorLowered, match="not known"):
            set_promise(folder, chosen, Policy())
        set_promise(folder, chosen, Policy(), force=True)
        assert promise_of(JournalReader(folder), Policy(), 0).policy == (chosen or Policy())


def test_no_age_or_size_is_larger_than_the_log_can_hold(tmp_path: Path) -> None:
    for wrong in (
        {"floor": LONGEST + 1, "every_write": 1},
        {"every_write": LONGEST + 1, "tiers": ()},
        {"tiers": (Tier(HOUR, 10 * LONGEST),), "every_write": 0, "floor": 0},
        {"reserve_bytes": 1 << 70},
    ):
        with pytest.raises(BadPolicy):
            Policy(**wrong)
    folder = tmp_path / "j"
    JournalWriter.create(folder, "web01").close()
    largest = Policy(every_write=LONGEST, tiers=(), floor=LONGEST, reserve_bytes=1 << 62)
    set_promise(folder, largest, Policy())
    assert promise_of(JournalReader(folder), Policy(), 0).policy == largest
