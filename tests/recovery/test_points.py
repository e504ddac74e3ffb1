"""One journal with two epochs and a gap; every form of a point, and what is said where there is none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from journal.frame import SYNC
from journal.reader import JournalReader
from lastwrite.errors import LastwriteError
from recovery.errors import AmbiguousPoint, ClockSetBack, PointInGap, PointNotFound
from recovery.points import RecoveryPoint, find, format_time, parse
from tests.recovery.journals import OFFSET, SECOND, START, JournalMaker, block


@dataclass
class Story:
    """Times (ns) and LSNs of what happened.

    10:00:00 epoch 1, sync (LSN 1), 10:00:01 sync-end (cut 1); 10:00:11 write LSN 2; 10:00:21 AppShot `nightly` (cut 2);
    10:00:31 write LSN 3; 10:00:41 tick (cut 3); 10:00:51 gap noted; 10:01:51 epoch 2,
    a tick (cut 4) and then sync (LSN 4, 5); 10:01:52 sync-end (cut 5); 10:02:02 write LSN 6;
    10:02:12 bookmark `upgrade` (cut 6); 10:02:22 LSN 7; 10:02:32 bookmark `upgrade` again (cut 7);
    10:02:42 tick (cut 8).
    """

    reader: JournalReader
    maker: JournalMaker

    def find(self, text: str, now: int | None = None) -> RecoveryPoint:
        return find(self.reader, parse(text), now)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    maker = JournalMaker(tmp_path_factory.mktemp("story") / "journal")

    def later(seconds: int) -> None:
        maker.clock = START + seconds * SECOND

    maker.begin()
    maker.writes([(0, 0, block(1))], SYNC)
    later(1)
    maker.cut("sync-end")
    later(11)
    maker.writes([(0, 8, block(2))], step=0)
    later(21)
    maker.cut("appshot", "nightly", "app")
    later(31)
    maker.writes([(0, 16, block(3))], step=0)
    later(41)
    maker.cut()
    later(51)
    maker.note("gap", reason="the ring was full")
    later(111)
    maker.begin("bitmap")
    maker.cut()
    maker.writes([(0, 24, block(4)), (0, 32, block(5))], SYNC)
    later(112)
    maker.cut("sync-end")
    later(122)
    maker.writes([(0, 40, block(6))], step=0)
    later(132)
    maker.cut("bookmark", "upgrade")
    later(142)
    maker.writes([(0, 48, block(7))], step=0)
    later(152)
    maker.cut("bookmark", "upgrade")
    later(162)
    maker.cut()
    maker.meta("bookmark", timeline=1, lsn=2, name="seen later", created=START)
    return Story(JournalReader(maker.folder), maker)


@pytest.mark.parametrize(
    ("text", "lsn", "consistency", "cut"),
    [
        ("latest", 7, "crash", 7),
        ("2026-11-22T10:00:01Z", 1, "crash", 1),
        ("2026-11-22T10:00:10.999999999Z", 1, "crash", 1),
        ("2026-11-22T10:00:11Z", 2, "app", 2),
        ("2026-11-22 10:00:21", 2, "app", 2),
        ("2026-11-22T11:00:31+01:00", 3, "crash", 3),
        ("2026-11-22T10:00:41", 3, "crash", 3),
        ("2026-11-22T10:01:52", 5, "crash", 5),
        ("2026-11-22T10:02:02", 6, "crash", 6),
        ("2026-11-22T10:02:42", 7, "crash", 7),
        ("cut:1", 1, "crash", 1),
        ("cut:2", 2, "app", 2),
        ("cut:8", 7, "crash", 7),
        ("lsn:2", 2, "app", 2),
        ("lsn:5", 5, "crash", 5),
        ("lsn:6", 6, "crash", 6),
        ("nightly", 2, "app", 2),
        ("app:nightly", 2, "app", 2),
        ("seen later", 2, "app", 2),
    ],
)
def test_each_form_finds_its_point_and_says_its_consistency(
    story: Story, text: str, lsn: int, consistency: str, cut: int
) -> None:
    point = story.find(text)
    assert (point.lsn, point.consistency, point.pinned) == (lsn, consistency, f"lsn:{lsn}")
    assert point.cut is not None
    assert point.cut.number == cut
    assert consistency in point.description
    assert format_time(point.wall) in point.description
    assert story.find(point.pinned).lsn == lsn


@pytest.mark.parametrize(
    ("text", "error", "before", "after"),
    [
        ("2026-11-22T09:00:00", PointNotFound, None, 1),
        ("2026-11-22T10:00:00.5", PointNotFound, None, 1),
        ("2026-11-22T10:00:42", PointInGap, 3, 5),  # after the last cut: what was lost then is not known
        ("2026-11-22T10:00:51", PointInGap, 3, 5),
        ("2026-11-22T10:01:00", PointInGap, 3, 5),
        ("2026-11-22T10:01:51", PointInGap, 3, 5),  # epoch 2 has begun, and its newest LSN is still 3
        ("2026-11-22T10:01:51.5", PointInGap, 3, 5),
        ("2026-11-22T10:02:43", PointNotFound, 7, None),
        ("2027-01-01T00:00", PointNotFound, 7, None),
        ("lsn:0", PointNotFound, None, 1),
        ("lsn:4", PointInGap, 3, 5),
        ("lsn:8", PointNotFound, 7, None),
        ("lsn:9999999999999999999", PointNotFound, 7, None),
        ("cut:4", PointInGap, 3, 5),
    ],
)
def test_where_there_is_no_point_the_nearest_on_both_sides_are_named(
    story: Story, text: str, error: type[LastwriteError], before: int | None, after: int | None
) -> None:
    with pytest.raises(error) as caught:
        story.find(text)
    details = caught.value.details
    assert [near and near["lsn"] for near in (details["before"], details["after"])] == [before, after]
    for near in filter(None, details.values()):
        assert near["time"] in caught.value.hint
        assert near["consistency"] in caught.value.hint
        assert story.find(f"lsn:{near['lsn']}").lsn == near["lsn"]
    assert "web01" in caught.value.message


def test_a_gap_is_told_with_its_reason(story: Story) -> None:
    with pytest.raises(PointInGap, match="the ring was full"):
        story.find("2026-11-22T10:01:00")


def test_every_instant_gives_the_state_of_that_instant_or_an_error(story: Story) -> None:
    expected = {
        range(1, 11): 1,
        range(11, 31): 2,
        range(31, 42): 3,
        range(112, 122): 5,
        range(122, 142): 6,
        range(142, 163): 7,
    }
    for second in range(-2, 170):
        lsn = next((lsn for when, lsn in expected.items() if second in when), None)
        text = format_time(START + second * SECOND)
        if lsn is None:
            with pytest.raises((PointInGap, PointNotFound)):
                story.find(text)
        else:
            assert story.find(text).lsn == lsn, text


def test_ago_counts_back_from_now_on_the_source_clock(story: Story) -> None:
    now = START + 162 * SECOND
    assert story.find("-1s", now).lsn == 7
    assert story.find("-40s", now).lsn == 6
    assert story.find("-130s", now).lsn == 3
    with pytest.raises(PointInGap, match=r"-90s \(2026-11-22T10:01:12Z\)"):
        story.find("-90s", now)
    with pytest.raises(PointNotFound):
        story.find("-1d", now)


def test_now_is_this_machines_clock_corrected_by_the_last_known_offset(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time_ns", lambda: START + 162 * SECOND - OFFSET)
    assert story.find("-20s").lsn == 7
    assert story.find("-21s").lsn == 6


def test_a_name_that_several_points_carry_is_not_guessed(story: Story) -> None:
    with pytest.raises(AmbiguousPoint) as caught:
        story.find("upgrade")
    assert caught.value.details["choices"] == ["cut:6", "cut:7"]
    assert "cut:6" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "offered"), [("nightyl", "nightly"), ("app:upgrad", "upgrade"), ("cut:12", "cut:7 and cut:8")]
)
def test_an_unknown_name_or_number_is_answered_with_the_nearest(
    story: Story, text: str, offered: str
) -> None:
    with pytest.raises(PointNotFound) as caught:
        story.find(text)
    assert offered in caught.value.hint


def test_a_journal_in_its_first_sync_has_no_point_and_says_so(tmp_path: Path) -> None:
    maker = JournalMaker(tmp_path / "journal")
    maker.begin()
    maker.writes([(0, 0, block(1))], SYNC)
    maker.cut()
    reader = JournalReader(maker.folder)
    for text in ("latest", "lsn:1", "cut:1", "-1s", "x", "2026-11-22T10:00"):
        with pytest.raises(PointNotFound, match="no recovery point yet"):
            find(reader, parse(text))


@pytest.mark.parametrize(
    ("order", "disks", "expected"),
    [
        ("total", 1, "crash"),
        ("total", 2, "crash"),
        ("per-disk", 1, "crash"),
        ("per-disk", 2, "approximate"),
    ],
)
def test_between_cuts_the_order_of_the_tap_decides_the_consistency(
    tmp_path: Path, order: str, disks: int, expected: str
) -> None:
    names = [("vda", 1 << 20), ("vdb", 1 << 20)][:disks]
    maker = JournalMaker(tmp_path / "journal", disks=names, order=order)
    maker.synced()
    maker.writes([(0, 0, block(2)), (0, 8, block(3))])
    maker.cut()
    reader = JournalReader(maker.folder)
    last = maker.next_lsn - 1
    assert find(reader, parse(f"lsn:{last - 1}")).consistency == expected
    assert find(reader, parse(f"lsn:{last}")).consistency == "crash"


def test_a_tap_that_is_exact_at_cuts_only_has_no_points_between_them(tmp_path: Path) -> None:
    maker = JournalMaker(tmp_path / "journal", order="cycle")
    maker.synced()
    first = maker.next_lsn - 1
    maker.writes([(0, 0, block(2)), (0, 8, block(3))])
    maker.clock += SECOND
    maker.cut(consistency="approximate")
    reader = JournalReader(maker.folder)
    with pytest.raises(PointInGap) as caught:
        find(reader, parse(f"lsn:{first + 1}"))
    assert caught.value.details["before"]["lsn"] == first
    assert caught.value.details["after"]["lsn"] == first + 2
    assert find(reader, parse("latest")).consistency == "approximate"


def test_latest_moves_with_a_journal_that_grows(tmp_path: Path) -> None:
    maker = JournalMaker(tmp_path / "journal")
    maker.synced()
    reader = JournalReader(maker.folder)
    for number in range(3):
        before = find(reader, parse("latest")).lsn
        maker.write(8 * number, block(9))
        assert find(reader, parse("latest")).lsn == before
        reader.refresh()
        assert find(reader, parse("latest")).lsn == before + 1 == reader.latest()


def test_a_name_on_the_last_record_before_an_epoch_that_needed_none_is_found(tmp_path: Path) -> None:
    maker = JournalMaker(tmp_path / "journal")
    maker.synced()
    lsn = maker.next_lsn - 1
    maker.clock += SECOND
    number = maker.cut("bookmark", "good")
    maker.note("gap", reason="the agent ended")
    maker.clock += SECOND
    maker.begin("bitmap")
    maker.cut()
    maker.cut("sync-end")
    reader = JournalReader(maker.folder)
    for text in ("good", f"cut:{number}", format_time(START + 2 * SECOND)):
        assert find(reader, parse(text)).lsn == lsn, text


def test_a_name_is_refused_where_the_next_epoch_has_other_disks(tmp_path: Path) -> None:
    maker = JournalMaker(tmp_path / "journal")
    maker.synced()
    maker.cut("bookmark", "good")
    maker.note("gap", reason="the agent ended")
    maker.disks = [("vda", 2 << 20)]
    maker.begin("bitmap")
    maker.cut("sync-end")
    with pytest.raises(LastwriteError):
        find(JournalReader(maker.folder), parse("good"))


@pytest.fixture
def set_back(tmp_path: Path) -> JournalMaker:
    """Epoch 1 from 10:00:00, writes at :11 and :21, cut at :31; a reboot 10 s later, the clock an hour behind."""
    maker = JournalMaker(tmp_path / "journal")
    maker.synced()
    for second in (11, 21):
        maker.clock = START + second * SECOND
        maker.writes([(0, 8, block(second))], step=0)
    maker.clock = START + 31 * SECOND
    maker.cut()
    maker.note("gap", reason="a reboot")
    return maker


def begin_an_hour_behind(maker: JournalMaker, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    maker.clock = START + (after - 3600) * SECOND
    monkeypatch.setattr("tests.recovery.journals.OFFSET", OFFSET - 3600 * SECOND)
    maker.begin("bitmap")
    maker.writes([(0, 16, block(9))], SYNC, step=0)
    maker.clock += SECOND
    maker.cut("sync-end")
    maker.clock += 9 * SECOND
    maker.writes([(0, 24, block(10))], step=0)
    maker.cut()


def test_times_that_occurred_once_are_found_after_the_clock_was_set_back(
    set_back: JournalMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin_an_hour_behind(set_back, monkeypatch, after=41)
    reader = JournalReader(set_back.folder)
    for text, lsn in {
        "2026-11-22T10:00:11": 2,
        "2026-11-22T10:00:20": 2,
        "2026-11-22T10:00:31": 3,
        "2026-11-22T09:00:42": 4,
        "2026-11-22T09:00:51": 5,
    }.items():
        assert find(reader, parse(text)).lsn == lsn, text


def test_ago_counts_over_the_place_where_the_clock_was_set_back(
    set_back: JournalMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin_an_hour_behind(set_back, monkeypatch, after=41)
    reader = JournalReader(set_back.folder)
    now = START + (51 - 3600) * SECOND  # 51 seconds after the beginning
    for text, lsn in {"-0s": 5, "-1s": 4, "-9s": 4, "-20s": 3, "-31s": 2, "-40s": 2, "-49s": 1}.items():
        point = find(reader, parse(text), now)
        assert point.lsn == lsn, text
    for text, before, after in (("-11s", 3, 4), ("-15s", 3, 4)):
        with pytest.raises(PointInGap) as caught:
            find(reader, parse(text), now)
        near = caught.value.details
        assert (near["before"]["lsn"], near["after"]["lsn"]) == (before, after)


def test_a_time_that_occurred_last_without_a_point_is_refused_with_the_cuts(tmp_path: Path) -> None:
    maker = JournalMaker(tmp_path / "journal")
    maker.synced()
    maker.clock = START + 60 * SECOND
    maker.writes([(0, 8, block(2))], step=0)
    maker.cut()
    maker.note("gap", reason="a reboot")
    maker.clock = START + 10 * SECOND  # set back by less than what was recorded
    maker.begin("bitmap")
    maker.clock = START + 40 * SECOND
    maker.cut("sync-end")
    reader = JournalReader(maker.folder)
    with pytest.raises(ClockSetBack, match="was set back") as caught:
        find(reader, parse("2026-11-22T10:00:30"))  # a point the first time, in a sync the second time
    assert "cut:1" in caught.value.hint and "cut:2" in caught.value.hint
    assert caught.value.details["choices"] == ["cut:1", "cut:2", "cut:3"]
