"""An index says what the heads say, and one that is wrong in any way is as if it were not there."""

from __future__ import annotations

import gc
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from journal import layout
from journal.index.indexfile import index_path
from journal.index.make import write_index
from journal.reader import JournalReader
from journal.scan import SegmentScan
from journal.writer import JournalWriter
from tests.journal.tap import Guest, Images, Tap

DISKS = {0: 16 * 4096, 3: 67 * 512}


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, Images]]:
    """A journal of several sealed segments, and the truth about it."""
    folder = tmp_path_factory.mktemp("story") / "j"
    with JournalWriter.create(folder, "web01", segment_bytes=150_000) as writer:
        guest = Guest(5, Tap(writer, DISKS))
        for valid in (True, False, True, True):
            guest.epoch(valid=valid)
            guest.tap.begin("bitmap")
            guest.tap.notes(
                guest.tap.cut_note("sync-end"), guest.tap.cut_note("tick", number=writer.next_cut + 1)
            )
            guest.tap.notes(guest.tap.cut_note("bookmark", "gold", coordinates={"wal": "0/1"}))
    return folder, guest.expected


@pytest.fixture
def indexed(story: tuple[Path, dict[int, Images]], tmp_path: Path) -> Path:
    folder = tmp_path / "j"
    shutil.copytree(story[0], folder)
    sealed = [write_index(path) for _, path in layout.segments(folder, 1)]
    assert sealed[:-1] == [True] * (len(sealed) - 1) and len(sealed) > 4 and not sealed[-1]
    return folder


def check_all(folder: Path, expected: dict[int, Images], every: int = 1) -> None:
    reader = JournalReader(folder)
    for lsn in list(expected)[::every]:
        for disk, image in expected[lsn].items():
            assert reader.resolve(lsn, disk).read(0, len(image)) == image, (lsn, disk)


def scans(folder: Path, cached: bool) -> list[SegmentScan]:
    found = []
    for first, path in layout.segments(folder, 1):
        scan = SegmentScan(path, first, cached=cached)
        scan.extend()
        found.append(scan)
    return found


def test_a_scan_with_an_index_says_what_one_without_says(indexed: Path) -> None:
    for fast, slow in zip(scans(indexed, True), scans(indexed, False), strict=True):
        for name in (
            *(
                "header",
                "footer",
                "first_lsn",
                "next_lsn",
                "epoch",
                "end",
                "limit",
                "frame_count",
                "record_count",
            ),
            *(
                "last_head_sum",
                "last_offset",
                "digest",
                "bad",
                "tail_reason",
                "suspect",
                "whole",
                "following_lsn",
            ),
        ):
            assert getattr(fast, name) == getattr(slow, name), name
        assert list(fast.notes) == list(slow.notes) and len(fast.notes) == len(slow.notes)
        for column in ("frames", "rows", "places"):
            assert np.array_equal(getattr(fast, column).array(), getattr(slow, column).array())


def test_every_point_comes_back_with_indexes(indexed: Path, story: tuple[Path, dict[int, Images]]) -> None:
    check_all(indexed, story[1])
    reader, plain = JournalReader(indexed), JournalReader(story[0])
    ours, theirs = reader.lineage().history, plain.lineage().history
    assert (ours.epochs, ours.cuts, ours.spans, ours.clocks) == (
        *(theirs.epochs, theirs.cuts, theirs.spans, theirs.clocks),
    )
    assert [reader.record_time(lsn) for lsn in story[1]] == [plain.record_time(lsn) for lsn in story[1]]


def test_an_index_that_is_right_is_not_written_again(indexed: Path) -> None:
    path = layout.segments(indexed, 1)[0][1]
    before = index_path(path).stat().st_ino
    assert not write_index(path)
    assert index_path(path).stat().st_ino == before
    assert not list(indexed.rglob("*.tmp"))


@pytest.mark.parametrize("seed", range(8))
def test_whatever_is_altered_in_indexes_every_point_comes_back(
    indexed: Path, story: tuple[Path, dict[int, Images]], seed: int
) -> None:
    choices = random.Random(seed)
    for path in indexed.rglob("*.idx"):
        data = bytearray(path.read_bytes())
        for _ in range(choices.choice([1, 1, 3])):
            data[choices.randrange(len(data))] ^= 1 << choices.randrange(8)
        path.write_bytes(data[: choices.randrange(len(data))] if choices.random() < 0.3 else data)
    check_all(indexed, story[1], every=3)


def test_a_bit_anywhere_in_one_index_changes_no_point(
    indexed: Path, story: tuple[Path, dict[int, Images]]
) -> None:
    path = sorted(indexed.rglob("*.idx"))[1]
    whole = path.read_bytes()
    expected = {lsn: story[1][lsn] for lsn in list(story[1])[len(story[1]) // 2 :: 40]}
    for place in range(0, len(whole), 61):
        data = bytearray(whole)
        data[place] ^= 0x10
        path.write_bytes(data)
        check_all(indexed, expected)


def test_an_index_of_another_file_is_ignored(indexed: Path, story: tuple[Path, dict[int, Images]]) -> None:
    paths = sorted(indexed.rglob("*.idx"))
    first = paths[0].read_bytes()
    for one, other in zip(paths, [*paths[1:], paths[0]], strict=True):
        one.write_bytes(other.read_bytes() if other != paths[0] else first)
    check_all(indexed, story[1], every=5)


def test_a_damaged_file_gets_no_index(indexed: Path) -> None:
    path = layout.segments(indexed, 1)[1][1]
    index_path(path).unlink()
    with open(path, "r+b") as file:
        file.seek(4096 + 40)
        file.write(b"\xff")
    assert not write_index(path) and not index_path(path).exists()


def test_a_map_stays_readable_when_files_and_indexes_are_deleted(
    indexed: Path, story: tuple[Path, dict[int, Images]]
) -> None:
    expected = story[1]
    reader = JournalReader(indexed)
    maps = [(lsn, disk, reader.resolve(lsn, disk)) for lsn in list(expected)[::9] for disk in DISKS]
    for path in (indexed / "timelines" / "0001").iterdir():
        path.unlink()
    for lsn, disk, blocks in maps:
        assert blocks.read(0, blocks.disk_bytes) == expected[lsn][disk]


def test_a_reader_gives_up_what_an_index_has_come_to_hold(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    with JournalWriter.create(folder, "web01", segment_bytes=60_000) as writer:
        guest = Guest(1, Tap(writer, DISKS))
        guest.epoch(valid=True)
        reader = JournalReader(folder)
        guest.epoch(valid=True)
        reader.refresh()
        before = [np.array(scan.rows.array()) for scan in reader.scans(1)]
        for _, path in layout.segments(folder, 1):
            write_index(path)
        reader.refresh()
        assert all(
            np.array_equal(a, scan.rows.array()) for a, scan in zip(before, reader.scans(1), strict=True)
        )
        guest.epoch(valid=True)
        reader.refresh()
    for lsn, images in guest.expected.items():
        assert reader.resolve(lsn, 0).read(0, len(images[0])) == images[0]


def test_no_file_stays_open_when_reader_and_maps_are_gone(indexed: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    reader = JournalReader(indexed)
    blocks = reader.resolve(reader.latest() or 0, 0)
    blocks.read(0, 4096)
    assert len(list(Path("/proc/self/fd").iterdir())) > before
    del blocks, reader
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def live(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Guest, JournalWriter]:
    """A journal in one segment that is in use, and the index of its first frames."""
    monkeypatch.setattr("journal.index.make.NEW_FRAMES", 1)
    writer = JournalWriter.create(folder, "web01")
    guest = Guest(3, Tap(writer, DISKS))
    guest.epoch(valid=True)
    writer.commit()
    (path,) = (path for _, path in layout.segments(folder, 1))
    assert write_index(path) and not write_index(path)
    return guest, writer


def check_live(folder: Path, expected: dict[int, Images]) -> None:
    check_all(folder, expected, every=4)
    (fast,), (slow,) = scans(folder, True), scans(folder, False)
    assert fast._indexed is not None
    for name in ("next_lsn", "epoch", "end", "limit", "frame_count", "record_count", "digest", "last_times"):
        assert getattr(fast, name) == getattr(slow, name), name
    assert list(fast.notes) == list(slow.notes) and np.array_equal(fast.places.array(), slow.places.array())
    assert np.array_equal(fast.frames.array(), slow.frames.array())


def test_a_segment_in_use_is_read_from_where_its_index_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest, writer = live(tmp_path / "j", monkeypatch)
    check_live(tmp_path / "j", guest.expected)
    early = JournalReader(tmp_path / "j")
    guest.epoch(valid=True)
    writer.commit()
    check_live(tmp_path / "j", guest.expected)
    (path,) = (path for _, path in layout.segments(tmp_path / "j", 1))
    assert write_index(path)
    check_live(tmp_path / "j", guest.expected)
    writer.close()
    with JournalWriter.open(tmp_path / "j", segment_bytes=4096) as writer:
        guest.tap.writer = writer
        guest.epoch(valid=True)
    early.refresh()
    for lsn, images in guest.expected.items():
        assert early.resolve(lsn, 0).read(0, len(images[0])) == images[0]
    check_all(tmp_path / "j", guest.expected)
    assert all(scan.whole for scan in scans(tmp_path / "j", False)[:-1])
    assert write_index(path) and scans(tmp_path / "j", True)[0].whole
    early.refresh()
    check_all(tmp_path / "j", guest.expected, every=5)


def test_an_index_of_frames_that_were_taken_back_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "j"
    _, writer = live(folder, monkeypatch)
    writer.close()
    (path,) = (path for _, path in layout.segments(folder, 1))
    slow = scans(folder, False)[0].frames.array()
    os.truncate(path, int(slow["offset"][-3]))
    (fast,) = scans(folder, True)
    assert fast._indexed is None and fast.frame_count == len(slow) - 3
    with JournalWriter.open(folder) as writer:
        tap = Tap(writer, DISKS)
        tap.protect(b"7")
        lsn = writer.next_lsn - 1
    assert JournalReader(folder).resolve(lsn, 0).read(0, DISKS[0]) == b"7" * DISKS[0]


def test_a_bit_in_the_index_of_a_segment_in_use_changes_no_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "j"
    guest, writer = live(folder, monkeypatch)
    guest.epoch(valid=True)
    writer.close()
    (path,) = folder.rglob("*.idx")
    whole = path.read_bytes()
    expected = {lsn: guest.expected[lsn] for lsn in list(guest.expected)[::9]}
    for place in range(0, len(whole), 97):
        data = bytearray(whole)
        data[place] ^= 0x04
        path.write_bytes(data)
        check_all(folder, expected)
