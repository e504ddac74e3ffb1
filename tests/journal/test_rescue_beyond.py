"""A rescue says when newer history than what it wrote is there and damaged: nobody takes it for all there was."""

from __future__ import annotations

from pathlib import Path

from journal.offline.beyond import DamagedAfter
from journal.offline.rescue import rescue
from journal.reader import JournalReader
from journal.writer import JournalWriter
from tests.journal.tap import WALL, Tap
from tests.journal.test_damage import DISK, flip, frames_of

SECOND = 10**9


def make(folder: Path, writes: int = 12) -> Tap:
    """One write in each second, several in a segment; the first is LSN 2."""
    with JournalWriter.create(folder, "web01", segment_bytes=60_000) as writer:
        tap = Tap(writer, {0: DISK})
        tap.protect()
        more(tap, writes)
    return tap


def more(tap: Tap, writes: int) -> None:
    for number in range(writes):
        tap.mono += SECOND
        tap.write(0, number % 8 * 8, bytes([number + 65]) * 4096)


def files(folder: Path) -> list[Path]:
    return sorted((folder / "timelines/0001").glob("*.seg"))


def after(folder: Path, point: str = "latest", *, best_effort: bool = False) -> DamagedAfter | None:
    out = folder.parent / f"{point}-{best_effort}.raw"
    return rescue(folder, point, out, best_effort=best_effort).damaged_after


def hurt(folder: Path, lsn: int) -> None:
    """Damage the head of the frame of a record."""
    path = next(path for path in reversed(files(folder)) if int(path.stem) <= lsn)
    flip(path, next(offset for offset, _, first, records in frames_of(path) if first == lsn and records) + 20)


def time_of(folder: Path, lsn: int) -> int:
    return JournalReader(folder).record_time(lsn)


def test_a_whole_journal_has_nothing_damaged_after_any_point(tmp_path: Path) -> None:
    make(tmp_path / "j")
    assert after(tmp_path / "j") is None and after(tmp_path / "j", "5") is None


def test_a_damaged_head_is_told_with_the_time_up_to_which_history_is_lost(tmp_path: Path) -> None:
    make(tmp_path / "j")
    newest = JournalReader(tmp_path / "j").last_lsn()
    until = time_of(tmp_path / "j", newest)
    hurt(tmp_path / "j", 7)
    found = after(tmp_path / "j")
    assert found is not None and (found.first_lsn, found.last_lsn) == (7, newest)
    assert found.first_wall == time_of(tmp_path / "j", 6) < until == found.last_wall
    assert found.whole_from is None and until > WALL
    assert "checksum" in found.reasons[0] and found.torn_bytes == 0
    earlier = after(tmp_path / "j", "4")
    assert earlier is not None and (earlier.first_lsn, earlier.last_lsn) == (7, newest)
    assert after(tmp_path / "j", best_effort=True) is None  # that one takes all there is


def test_history_that_is_whole_again_after_the_damage_is_told_as_that(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    with JournalWriter.create(folder, "web01", segment_bytes=60_000) as writer:
        tap = Tap(writer, {0: DISK})
        tap.protect()
        more(tap, 8)
        last = writer.next_lsn - 1
        tap.gap()
        tap.begin("full")
        tap.write(0, 0, b"\2" * DISK, 2)
        tap.cut("sync-end")
        good = writer.next_lsn - 1
        more(tap, 3)
    hurt(folder, 6)
    found = after(folder, "3")
    assert found is not None and (found.first_lsn, found.last_lsn, found.whole_from) == (6, last, good)
    assert after(folder) is None


def test_a_newest_segment_that_is_gone_is_told_when_the_log_names_what_it_held(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    make(folder)
    with JournalWriter.open(folder) as writer:
        newest = writer.next_lsn - 1
        writer.bookmark(newest, "before the fire")
    files(folder)[-1].unlink()
    found = after(folder)
    assert found is not None and found.last_lsn == newest and found.last_wall is None
    assert found.first_lsn == JournalReader(folder).last_lsn() + 1
    assert "'before the fire'" in found.reasons[0] and "newest files are gone" in found.reasons[0]


def test_bytes_behind_the_newest_whole_frame_are_told(tmp_path: Path) -> None:
    make(tmp_path / "j")
    path = files(tmp_path / "j")[-1]
    path.write_bytes(path.read_bytes()[:-100])
    found = after(tmp_path / "j")
    assert found is not None and found.torn_bytes > 4096 and not found.reasons
