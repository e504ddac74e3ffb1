"""An instant finds its record: by the records' times, through the notes' clocks."""

from __future__ import annotations

from pathlib import Path

import pytest

from journal.errors import NoSuchDisk, NotRecoverable
from journal.frame import CAPTURED, ZERO, FrameBuilder
from journal.offline.info import info
from journal.reader import JournalReader
from journal.writer import JournalWriter
from tests.journal.tap import WALL, Guest, Tap, note

SECOND = 1_000_000_000


def record(tap: Tap, mono: int) -> int:
    builder = FrameBuilder(CAPTURED)
    builder.add_extent(ZERO, 0, 0, 1, mono)
    tap.mono = mono
    tap.send(builder)
    return tap.writer.next_lsn - 1


def build(folder: Path, order: str = "total") -> dict[str, int]:
    """Two epochs: the second one after a reboot, its monotonic clock began again."""
    lsns = {}
    with JournalWriter.create(folder, "web01") as writer:
        tap = Tap(writer, {0: 4096}, order)
        tap.mono = 100 * SECOND
        tap.begin()
        tap.cut("sync-end")
        lsns["a"] = record(tap, 101 * SECOND)
        lsns["b"] = record(tap, 103 * SECOND)
        # The wall clock was set forward by 50 s: from this cut on it counts.
        tap.notes(tap.cut_note() | note("cut", 104 * SECOND) | {"wall": WALL + 154 * SECOND})
        lsns["c"] = record(tap, 105 * SECOND)
        tap.notes(note("gap", 106 * SECOND, reason="reboot") | {"wall": WALL + 156 * SECOND})
        tap.mono = 5 * SECOND
        tap.notes(tap.epoch_note(2, "bitmap", wall=WALL + 200 * SECOND), epoch=2)
        tap.notes(tap.cut_note("sync-end") | {"wall": WALL + 200 * SECOND})
        lsns["d"] = record(tap, 7 * SECOND)
    return lsns


def test_a_wall_time_means_every_record_up_to_it_and_none_after(tmp_path: Path) -> None:
    lsns = build(tmp_path / "j")
    reader = JournalReader(tmp_path / "j")
    for seconds, name, covered in [
        (101, "a", True),
        (102.9, "a", True),
        (103, "b", True),
        (130, "b", True),
        (154.5, "b", True),
        (155, "c", True),
        (156, "c", False),  # the gap's note: what was lost before it is not known
        (180, "c", False),
        (201, "c", True),
        (202, "d", True),
        (202.1, "d", False),
    ]:
        found = reader.lsn_at(WALL + int(seconds * SECOND))
        assert (found.lsn, found.covered) == (lsns[name], covered), seconds
        assert bool(found.reason) != covered
    assert reader.lsn_at(WALL).covered is False
    assert reader.last_time() == WALL + 202 * SECOND
    for name, seconds in {"a": 101, "b": 103, "c": 155, "d": 202}.items():
        assert reader.record_time(lsns[name]) == WALL + seconds * SECOND
    with pytest.raises(NotRecoverable):
        reader.record_time(99)


def test_an_epoch_is_known_until_its_last_mark_and_before_a_gap_until_its_last_record(tmp_path: Path) -> None:
    build(tmp_path / "j")
    reader = JournalReader(tmp_path / "j")
    before_the_gap, newest = reader.epochs()
    assert reader.known_until(before_the_gap) == WALL + 155 * SECOND
    assert reader.known_until(newest) == WALL + 202 * SECOND
    with JournalWriter.open(tmp_path / "j") as writer:
        tap = Tap(writer, {0: 4096})
        tap.mono = 12 * SECOND
        tap.notes(tap.cut_note() | note("cut", 12 * SECOND) | {"wall": WALL + 207 * SECOND}, epoch=2)
        writer.commit()
    reader.refresh()
    idle = reader.epochs()[-1]
    assert reader.known_until(idle) == WALL + 207 * SECOND
    assert reader.lsn_at(reader.known_until(idle)).covered


def test_a_reader_that_was_refreshed_knows_what_a_new_one_knows(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    with JournalWriter.create(folder, "web01", segment_bytes=60_000) as writer:
        guest = Guest(3, Tap(writer, {0: 8 * 4096}))
        reader = JournalReader(folder)
        fork = 0
        for step in range(12):
            guest.epoch(valid=step % 3 != 1)
            if step == 4:
                fork = writer.fork(reader.latest() or 0, "fork")
            for _ in range(2):
                reader.refresh()
                fresh = JournalReader(folder)
                for timeline in (1, fork) if fork else (1,):
                    ours, theirs = reader.lineage(timeline).history, fresh.lineage(timeline).history
                    assert (ours.epochs, ours.cuts, ours.spans) == (theirs.epochs, theirs.cuts, theirs.spans)
                    assert (ours.clocks, ours.cursors) == (theirs.clocks, theirs.cursors)
                assert reader.last_time() == fresh.last_time() and reader.cuts() == fresh.cuts()
                assert reader.lsn_at(WALL + guest.tap.mono - 9000) == fresh.lsn_at(
                    WALL + guest.tap.mono - 9000
                )


def test_a_tap_that_polls_is_exact_at_cuts_only(tmp_path: Path) -> None:
    lsns = build(tmp_path / "j", "cycle")
    reader = JournalReader(tmp_path / "j")
    assert reader.lsn_at(WALL + 155 * SECOND).lsn == lsns["b"]
    assert reader.latest() == lsns["c"]
    for lsn, good in {lsns["a"]: False, lsns["b"]: True, lsns["d"]: False}.items():
        assert reader.lineage().history.is_point(lsn) == good
    with pytest.raises(NotRecoverable, match="cuts only") as refusal:
        reader.resolve(lsns["a"], 0)
    assert refusal.value.details["before"] == 0 and refusal.value.details["after"] == lsns["b"]


def test_disks_are_found_by_name_and_number_and_info_shows_all(tmp_path: Path) -> None:
    build(tmp_path / "j")
    reader = JournalReader(tmp_path / "j")
    assert reader.resolve(2, "vda").disk_bytes == reader.resolve(2, 0).disk_bytes == 4096
    with pytest.raises(NoSuchDisk, match="vda"):
        reader.resolve(2, "vdb")
    shown = info(tmp_path / "j")
    (line,) = shown["timelines"]
    assert (shown["name"], shown["format"], shown["damage"]) == ("web01", 2, [])
    assert (line["name"], line["last_lsn"], line["latest"], line["cuts"]) == ("main", 4, 4, 3)
    assert [e["gap_reason"] for e in line["epochs"]] == ["reboot", None]
    assert shown["bytes"] > 4096 and line["first_time"] == WALL + 100 * SECOND


def test_a_time_before_the_clock_was_set_back_is_found_where_it_occurred_last(tmp_path: Path) -> None:
    lsns = {}
    with JournalWriter.create(tmp_path / "j", "web01") as writer:
        tap = Tap(writer, {0: 4096})
        tap.mono = 100 * SECOND
        tap.begin()
        tap.cut("sync-end")
        for second in (110, 120, 130):
            lsns[second] = record(tap, second * SECOND)
        # At 140 it was set back to 115.
        tap.notes(tap.cut_note() | note("cut", 140 * SECOND) | {"wall": WALL + 115 * SECOND})
        for second in (150, 160):
            lsns[second] = record(tap, second * SECOND)
        tap.notes(note("gap", 160 * SECOND, reason="reboot") | {"wall": WALL + 135 * SECOND})
        tap.mono = 5 * SECOND  # and once more, by a reboot
        tap.notes(tap.epoch_note(2, "bitmap", wall=WALL + 50 * SECOND), epoch=2)
        tap.notes(tap.cut_note("sync-end") | {"wall": WALL + 50 * SECOND})
        lsns[7] = record(tap, 7 * SECOND)
    reader = JournalReader(tmp_path / "j")
    once = {110: 110, 114: 110, 136: 130, 139.5: 130, 51: 160, 52: 7}
    twice = {116: 140, 125: 150, 130: 150, 135: 160}
    for seconds, when in (once | twice).items():
        found = reader.lsn_at(WALL + int(seconds * SECOND))
        assert found.covered, seconds
        assert found.lsn == lsns[130 if when == 140 else when], seconds
    older = [i.lsn for i in reader.lineage().times.occurrences(WALL + 125 * SECOND)]
    assert older == [lsns[150], lsns[120]]
    for seconds in (49, 53, 90, 141):
        assert not reader.lsn_at(WALL + seconds * SECOND).covered, seconds
