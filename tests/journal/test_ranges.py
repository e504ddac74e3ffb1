"""The honest timeline: every stretch says what can be recovered to, and the stretches leave nothing out."""

from __future__ import annotations

from pathlib import Path

import pytest

from journal.history import History
from journal.ranges import APPROXIMATE, CUTS, DAMAGED, EXACT, GAP, KINDS, SYNCING, Range, ranges
from journal.reader import JournalReader
from journal.writer import JournalWriter
from tests.journal.tap import WALL, Tap
from tests.journal.test_damage import DISK, flip, frames_of, make, segment
from tests.journal.test_thinning import simulated
from tests.journal.thinning import thin_all

SECOND = 10**9


def of(folder: Path, timeline: int = 1) -> list[Range]:
    lineage = JournalReader(folder).lineage(timeline)
    return ranges(lineage.history, lineage.times.known_until)


def tell(found: list[Range]) -> list[tuple[str, int, int, int]]:
    return [(r.kind, r.first_lsn, r.last_lsn, r.points) for r in found]


def test_sync_exact_gap_and_a_sync_that_goes_on(tmp_path: Path) -> None:
    with JournalWriter.create(tmp_path / "j", "web01") as writer:
        tap = Tap(writer, {0: DISK})
        tap.begin()
        tap.mono += SECOND
        tap.write(0, 0, b"s" * DISK, kind=2)
        tap.cut("sync-end")
        for _ in range(3):
            tap.mono += SECOND
            tap.write(0, 0, b"w" * 512)
        last = tap.mono
        tap.mono += SECOND
        tap.gap("the ring was full")
        tap.mono += SECOND
        tap.begin("full")
        begun = tap.mono
        tap.write(0, 0, b"s" * 512, kind=2)
    found = of(tmp_path / "j")
    # The sync ends with its last record: that is the first point, and no LSN belongs to the sync alone.
    assert tell(found) == [(SYNCING, 1, 0, 0), (EXACT, 1, 4, 4), (GAP, 5, 4, 0), (SYNCING, 5, 5, 0)]
    first, exact, gap, sync = found
    assert (first.first_wall, first.last_wall) == (WALL + 1_000_000, exact.first_wall)
    assert (exact.first_wall, exact.last_wall) == (WALL + SECOND + 1_001_000, WALL + last)
    assert (gap.first_wall, gap.last_wall, gap.reason) == (WALL + last, WALL + begun, "the ring was full")
    assert "goes on" in sync.reason and (sync.first_wall, sync.epoch) == (WALL + begun, 2)


def test_an_ended_history_ends_with_a_gap_up_to_now(tmp_path: Path) -> None:
    with JournalWriter.create(tmp_path / "j", "web01") as writer:
        tap = Tap(writer, {0: DISK})
        tap.protect()
        tap.write(0, 0, b"w" * 512)
        tap.gap("the VM was shut down")
    found = of(tmp_path / "j")
    assert tell(found)[-1] == (GAP, 3, 2, 0)
    assert (found[-1].last_wall, found[-1].reason) == (None, "the VM was shut down")


@pytest.mark.parametrize(("order", "disks", "kind", "points"), [
    ("total", 2, EXACT, 5), ("per-disk", 1, EXACT, 5), ("per-disk", 2, APPROXIMATE, 6), ("cycle", 1, APPROXIMATE, 2),
])  # fmt: skip
def test_what_the_tap_sees_decides_how_exact_a_stretch_is(
    tmp_path: Path, order: str, disks: int, kind: str, points: int
) -> None:
    with JournalWriter.create(tmp_path / "j", "web01") as writer:
        tap = Tap(writer, dict.fromkeys(range(disks), DISK), order)
        tap.protect()
        for _ in range(3):
            tap.write(0, 0, b"w" * 512)
        tap.cut()
        tap.write(0, 0, b"w" * 512)
        count = writer.next_lsn - disks
    (found,) = [r for r in of(tmp_path / "j") if r.points]
    history = JournalReader(tmp_path / "j").lineage(1).history
    assert found.kind == kind and found.points == sum(map(history.is_point, range(20)))
    assert found.points == (2 if order == "cycle" else count)
    assert bool(found.reason) == (kind == APPROXIMATE)


def test_damage_ends_what_can_be_had_and_is_told(tmp_path: Path) -> None:
    make(tmp_path / "j")
    path = segment(tmp_path / "j")
    flip(path, next(f for f in frames_of(path) if f[2] == 7 and f[3])[0] + 30)
    assert tell(of(tmp_path / "j")) == [(SYNCING, 1, 0, 0), (EXACT, 1, 6, 6), (DAMAGED, 7, 13, 0)]
    assert "LSN 7 to 7" in of(tmp_path / "j")[2].reason
    flip(path, frames_of(path)[2][0] + 20)  # the end of the sync, too
    assert tell(of(tmp_path / "j")) == [(DAMAGED, 1, 13, 0)]


def test_damage_that_took_the_notes_of_its_epoch_is_told_too(tmp_path: Path) -> None:
    with JournalWriter.create(tmp_path / "j", "web01", segment_bytes=40_000) as writer:
        tap = Tap(writer, {0: DISK})
        tap.protect()
        for _ in range(4):
            tap.write(0, 0, b"w" * DISK)
    first, *_ = sorted((tmp_path / "j/timelines/0001").glob("*.seg"))
    first.unlink()
    found = of(tmp_path / "j")
    assert found and all(r.kind == DAMAGED for r in found)


@pytest.mark.parametrize("seed", range(6))
def test_the_points_of_all_stretches_are_just_the_points_of_the_history(tmp_path: Path, seed: int) -> None:
    folder = tmp_path / "j"
    guest = simulated(folder, seed)
    for thinned in (False, True):
        if thinned:
            thin_all(folder, 1, set(sorted(guest.expected)[::5]))
        history = JournalReader(folder).lineage(1).history
        found = of(folder)
        every = {lsn for lsn in range(history.last_lsn + 1) if history.is_point(lsn)}
        told: set[int] = set()
        for one in found:
            assert one.kind in KINDS and (not one.points or one.kind not in (SYNCING, GAP, DAMAGED))
            assert one.points or one.kind in (SYNCING, GAP, DAMAGED) or "none of its points" in one.reason
            inside = {lsn for lsn in every if one.first_lsn <= lsn <= one.last_lsn}
            assert not one.points or len(inside) == one.points
            told |= inside if one.points else set()
        assert told == every
        assert any(one.kind == CUTS for one in found) == thinned
        covered = {lsn for one in found for lsn in range(one.first_lsn, one.last_lsn + 1)}
        assert covered >= set(range(1, history.last_lsn + 1))
        assert [one.first_lsn for one in found] == sorted(one.first_lsn for one in found)


def test_a_fork_tells_its_ancestors_stretches_up_to_the_fork(tmp_path: Path) -> None:
    make(tmp_path / "j")
    with JournalWriter.open(tmp_path / "j") as writer:
        writer.fork(5, "drill")
    with JournalWriter.open(tmp_path / "j", 2) as writer:
        tap = Tap(writer, {0: DISK})
        tap.mono = 10 * SECOND
        tap.begin("bitmap")
        tap.cut("sync-end")
        tap.write(0, 0, b"f" * 512)
    assert tell(of(tmp_path / "j", 2)) == [
        (SYNCING, 1, 0, 0), (EXACT, 1, 5, 5), (EXACT, 5, 6, 2), (GAP, 6, 5, 0)
    ]  # fmt: skip


def test_nothing_was_written_yet() -> None:
    assert ranges(History([], 0, [])) == []
