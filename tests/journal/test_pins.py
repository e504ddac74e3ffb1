"""What is kept whatever is promised: pins, holds, bookmarks, forks; and giving up a timeline that nothing needs."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from journal import layout, pins
from journal.errors import NoSuchPin, NoSuchTimeline, NotRecoverable
from journal.offline.check import check
from journal.reader import JournalReader
from journal.retention.errors import TimelineInUse
from journal.retention.timelines import prune_timeline
from journal.writer import JournalWriter
from lastwrite.durations import UNITS
from tests.journal.tap import Guest, Tap
from tests.journal.test_thinning import DISKS, simulated
from tests.journal.thinning import check_what_is_left, thin_all

HOUR = UNITS["h"]


@pytest.mark.parametrize("seed", range(6))
def test_timelines_keep_what_forks_and_names_of_them_need(tmp_path: Path, seed: int) -> None:
    folder, choices = tmp_path / "j", random.Random(seed)
    guest = simulated(folder, seed)
    fork, named = choices.sample(sorted(guest.expected), 2)
    with JournalWriter.open(folder, segment_bytes=40_000) as writer:
        assert writer.fork(fork, "test") == 2
        writer.bookmark(named, "a name")
    with JournalWriter.open(folder, 2, segment_bytes=40_000) as writer:
        branch = Guest(seed + 70, Tap(writer, DISKS), guest.expected[fork])
        for valid in (True, False, True):
            branch.epoch(valid=valid)
        pin = choices.choice(sorted(branch.expected))
        assert writer.fork(pin, "of the test") == 3
    shared = sorted(lsn for lsn in guest.expected if lsn <= fork)
    pinned = pins.pin(folder, 2, choices.choice(shared), reason="case", holder="x")
    with JournalWriter.open(folder, 3, segment_bytes=40_000) as writer:
        twig = Guest(seed + 90, Tap(writer, DISKS), branch.expected[pin])
        twig.epoch(valid=True)
    for timeline in (1, 2, 3):
        thin_all(folder, timeline, set())
    check_what_is_left(folder, 1, guest.expected, guest.refused, {fork, named, pinned.lsn})
    on_branch = {lsn: guest.expected[lsn] for lsn in shared} | branch.expected
    check_what_is_left(folder, 2, on_branch, set(), {fork, pin, pinned.lsn})
    on_twig = {lsn: images for lsn, images in on_branch.items() if lsn <= pin} | twig.expected
    check_what_is_left(folder, 3, on_twig, set(), {pin})
    assert check(folder).ok


def test_pins_end_when_they_are_released_and_when_their_time_has_come(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    guest = simulated(folder, 5)
    first, second = sorted(guest.expected)[3:5]
    mine = pins.pin(folder, 1, first, reason="case 4711", holder="me")
    other = pins.pin(folder, 1, second, reason="drill", holder="me", until_ns=mine.created + HOUR)
    records = JournalReader(folder).meta.records
    assert pins.pins(records, mine.created) == [mine, other]
    assert pins.pins(records, mine.created + 2 * HOUR) == [mine]
    assert {r.lsn for r in pins.required(folder, records, mine.created)} == {first, second}
    pins.unpin(folder, mine.pin)
    assert pins.pins(JournalReader(folder).meta.records, mine.created) == [other]
    for gone in (mine.pin, "no such"):
        with pytest.raises(NoSuchPin):
            pins.unpin(folder, gone)
    thin_all(folder, 1, set())
    assert JournalReader(folder).point(second)
    with pytest.raises(NotRecoverable) as refusal:
        pins.pin(folder, 1, first, reason="too late", holder="me")
    assert refusal.value.details["after"] == second
    with pytest.raises(NotRecoverable), JournalWriter.open(folder) as writer:
        writer.bookmark(first, "too late")
    with pytest.raises(NoSuchTimeline):
        pins.pin(folder, 9, second, reason="nowhere", holder="me")


def test_a_list_of_pins_shows_none_that_have_ended(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    first, second = sorted(simulated(folder, 5).expected)[3:5]
    lasting = pins.pin(folder, 1, first, reason="case", holder="me")
    ended = pins.pin(folder, 1, second, reason="drill", holder="me", until_ns=lasting.created)
    with pytest.raises(NoSuchPin) as refusal:
        pins.unpin(folder, "no such")
    assert lasting.pin in refusal.value.message and ended.pin not in refusal.value.message
    pins.unpin(folder, ended.pin)


def test_what_is_no_hold_stops_nobody(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    lsn = sorted(simulated(folder, 5).expected)[3]
    (folder / layout.HOLDS).mkdir()
    os.mkfifo(folder / layout.HOLDS / f"1-{lsn}.pipe")
    (folder / layout.HOLDS / f"1-{lsn}.folder").mkdir()
    with pins.hold(folder, 1, lsn):
        assert [held.lsn for held in pins.holds(folder, sweep=True)] == [lsn]
    assert pins.holds(folder) == []


def test_a_hold_ends_with_its_process(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    guest = simulated(folder, 5)
    lsn = sorted(guest.expected)[3]
    child = os.fork()
    if child == 0:
        pins.take_hold(folder, 1, lsn)
        os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    assert len(list((folder / layout.HOLDS).iterdir())) == 1
    assert pins.holds(folder) == []
    with pins.hold(folder, 1, lsn):
        assert [held.lsn for held in pins.holds(folder, sweep=True)] == [lsn]
        assert len(list((folder / layout.HOLDS).iterdir())) == 1
    assert not list((folder / layout.HOLDS).iterdir())


def test_a_timeline_is_given_up_only_when_nothing_needs_it(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    guest = simulated(folder, 5)
    fork = sorted(guest.expected)[4]
    with JournalWriter.open(folder, segment_bytes=40_000) as writer:
        assert (writer.fork(fork, "a"), writer.fork(fork, "b")) == (2, 3)
        for timeline, match in ((1, "the main one"),):
            with pytest.raises(TimelineInUse, match=match):
                prune_timeline(folder, timeline)
    with JournalWriter.open(folder, 2, segment_bytes=40_000) as writer:
        Guest(3, Tap(writer, DISKS), guest.expected[fork]).epoch(valid=True)
        with pytest.raises(TimelineInUse, match="is being written"):
            prune_timeline(folder, 2)
        latest = JournalReader(folder).latest(2)
        assert latest is not None and writer.fork(latest, "c") == 4
    with pytest.raises(TimelineInUse, match="c begins on it"):
        prune_timeline(folder, 2)
    prune_timeline(folder, 4)
    pin = pins.pin(folder, 2, latest, reason="case", holder="me")
    with pytest.raises(TimelineInUse, match="pin: case"):
        prune_timeline(folder, 2)
    pins.unpin(folder, pin.pin)
    prune_timeline(folder, 2)
    with pytest.raises(NoSuchTimeline):
        prune_timeline(folder, 2)
    reader = JournalReader(folder)
    assert [line.number for line in reader.timelines()] == [1, 3] and check(folder).ok
    with pytest.raises(NoSuchTimeline):
        JournalWriter.open(folder, 2)
    with JournalWriter.open(folder, segment_bytes=40_000) as writer:
        assert writer.fork(fork, "d") == 5
