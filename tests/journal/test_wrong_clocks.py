"""A clock that is wrong for a while takes no history: not the appliance's, and not while retention looks."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from journal.reader import JournalReader
from journal.retention.dating import cut_time, spans
from journal.retention.errors import ClockDoubted
from journal.retention.looks import Looks, believe, newest_likely, read, require_likely
from journal.retention.policy import Policy
from journal.upkeep import upkeep
from journal.writer import JournalWriter
from lastwrite.durations import UNITS
from tests.journal.tap import WALL, Tap

HOUR, DAY = UNITS["h"], UNITS["d"]


def points(folder: Path) -> set[int]:
    """The recovery points of the main timeline."""
    reader = JournalReader(folder)
    last = reader.latest() or 0
    return {lsn for lsn in range(1, last + 1) if reader.lineage().history.is_point(lsn)}


def history(folder: Path, monkeypatch: pytest.MonkeyPatch, hours: int, bad: range) -> dict[int, int]:
    """A cut every six minutes, while the appliance's clock says 1970 in some of them; each cut's true time."""
    true = [WALL]
    shown = [WALL]
    monkeypatch.setattr("time.time_ns", lambda: shown[0])
    cuts = {}
    choices = random.Random(1)
    with JournalWriter.create(folder, "web01", segment_bytes=120_000) as writer:
        tap = Tap(writer, {0: 16 * 4096})
        tap.protect()
        for number in range(hours * 10):
            true[0] += HOUR // 10
            tap.mono += HOUR // 10
            shown[0] = true[0] - WALL + HOUR if number in bad else true[0]
            tap.write(0, choices.randrange(16) * 8, choices.randbytes(4096))
            tap.notes(tap.cut_note(offset=WALL + tap.mono - shown[0]))
            cuts[writer.next_lsn - 1] = true[0]
    shown[0] = true[0]
    return cuts


@pytest.mark.parametrize("bad", [range(200, 260), range(535, 585)])
def test_an_appliance_clock_that_was_behind_makes_nothing_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: range
) -> None:
    folder = tmp_path / "j"
    cuts = history(folder, monkeypatch, 60, bad)
    now = max(cuts.values())
    done = upkeep(folder, now, default=Policy())
    assert done.retention.done and not done.problems
    assert cuts.keys() <= points(folder)  # one a minute is promised, up to three days
    assert {lsn for lsn in range(min(cuts), max(cuts)) if now - cuts.get(lsn, 0) < DAY} <= points(folder)


def test_files_end_with_the_next_time_that_can_be_right() -> None:
    t = WALL
    created = [t, t + HOUR, 5 * HOUR, 6 * HOUR, t + 9 * HOUR, None, t + 99 * DAY]
    oldest = [t, t + HOUR, t + HOUR, t + HOUR, t + 9 * HOUR, t + 9 * HOUR, t + 9 * HOUR]
    newest = [t + HOUR, t + 9 * HOUR, t + 9 * HOUR, t + 9 * HOUR, t + DAY, t + DAY, t + DAY]
    assert spans(created, t + DAY) == list(zip(oldest, newest, strict=True))
    assert spans([HOUR, t], t + DAY) == [(0, t), (t, t + DAY)]
    assert cut_time(t + 5, (t, t + HOUR)) == (t + 5, True)
    assert cut_time(t - 5, (t, t + HOUR)) == (t, True)
    for wrong in (5 * HOUR, t - HOUR, t + 3 * HOUR):
        assert cut_time(wrong, (t, t + HOUR)) == (t + HOUR, False)
    assert cut_time(5 * HOUR, (0, t)) == (t, False)


def test_one_look_while_the_clock_is_ahead_gives_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "j"
    now = max(history(folder, monkeypatch, 30, range(0)).values())
    before = points(folder)
    for look in (now + 730 * DAY, now, now + 730 * DAY, now + 732 * DAY):
        done = upkeep(folder, look, default=Policy(every_write=40 * HOUR, tiers=(), floor=0))
        assert bool(done.problems) == (look > now) and not done.retention.done
        assert all("the clock says" in problem for problem in done.problems)
    assert points(folder) == before


def test_a_time_that_lasts_for_a_day_or_that_a_person_vouches_for_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "j"
    now = max(history(folder, monkeypatch, 3, range(0)).values()) + 90 * DAY
    reader = JournalReader(folder)
    for hours in range(0, 24, 6):
        with pytest.raises(ClockDoubted):
            require_likely(reader, now + hours * HOUR)
    require_likely(reader, now + 24 * HOUR)
    assert read(folder) == Looks(now + 24 * HOUR)
    with pytest.raises(ClockDoubted):
        require_likely(reader, now + 90 * DAY)
    believe(folder, now + 90 * DAY)
    require_likely(reader, now + 91 * DAY)
    assert newest_likely(WALL, [WALL + 3 * DAY, WALL, WALL + HOUR]) == WALL + HOUR
