"""What differs between two points lies in their diff, and what nobody wrote since does not."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from journal import layout
from journal.index.make import write_index
from journal.map.diff import Extent, amount, diff, differing
from journal.reader import JournalReader
from journal.writer import JournalWriter
from tests.journal.tap import Guest, Tap

DISKS = {0: 16 * 4096, 3: 67 * 512}


def flags(extents: list[Extent], size: int) -> bytearray:
    found = bytearray(size)
    before = -1
    for offset, length in extents:
        assert offset > before and length > 0
        found[offset : offset + length] = b"\1" * length
        before = offset + length
    return found


@pytest.mark.parametrize("seed", range(4))
def test_every_byte_that_differs_is_in_the_diff_also_between_timelines(tmp_path: Path, seed: int) -> None:
    choices, folder = random.Random(seed), tmp_path / "j"
    with JournalWriter.create(folder, "web01", segment_bytes=100_000) as writer:
        guest = Guest(seed, Tap(writer, DISKS))
        guest.epoch(valid=True)
        guest.epoch(valid=True)
        fork = choices.choice(sorted(guest.expected))
        assert writer.fork(fork, "test") == 2
        guest.epoch(valid=True)
    with JournalWriter.open(folder, 2, segment_bytes=100_000) as writer:
        branch = Guest(seed + 100, Tap(writer, DISKS), guest.expected[fork])
        branch.epoch(valid=True)
    for _, path in layout.segments(folder, 1)[::2]:
        write_index(path)
    points = [(1, lsn) for lsn in guest.expected] + [(2, lsn) for lsn in branch.expected] + [(2, fork)]
    expected = {1: guest.expected, 2: branch.expected | {fork: guest.expected[fork]}}
    reader, other_reader = JournalReader(folder), JournalReader(folder)
    for _ in range(60):
        first, second = choices.choices(points, k=2)
        disk = choices.choice(list(DISKS))
        ours, theirs = expected[first[0]][first[1]][disk], expected[second[0]][second[1]][disk]
        found = list(differing(reader, first, second, disk))
        inside = flags(found, DISKS[disk])
        assert all(inside[i] for i in range(len(ours)) if ours[i] != theirs[i]), (first, second)
        across = diff(
            reader.resolve(first[1], disk, first[0]), other_reader.resolve(second[1], disk, second[0])
        )
        assert list(across) == found == list(differing(reader, second, first, disk))
    same = list(differing(reader, (1, fork), (2, fork), 0))
    assert same == [] and amount(same) == (0, 0)


def test_only_blocks_that_were_written_since_the_fork_are_in_the_diff(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    with JournalWriter.create(folder, "web01") as writer:
        tap = Tap(writer, {0: 64 * 4096})
        tap.protect()
        tap.write(0, 3, b"p" * 512)
        assert writer.fork(2, "fork") == 2
        tap.write(0, 80, b"a" * 4096)
        tap.write(0, 19, b"b" * 512)
    with JournalWriter.open(folder, 2) as writer:
        tap = Tap(writer, {0: 64 * 4096})
        tap.begin("bitmap")
        tap.cut("sync-end")
        tap.write(0, 8 * 40, b"c" * 8192)
    reader = JournalReader(folder)
    found = list(differing(reader, (1, 4), (2, 3), "vda"))
    assert found == [(2 * 4096, 4096), (10 * 4096, 4096), (40 * 4096, 8192)]
    assert amount(found) == (4, 4 * 4096)
    assert list(differing(reader, (1, 2), (2, 2), 0)) == []


def test_where_one_disk_ends_the_rest_of_the_other_differs(tmp_path: Path) -> None:
    with JournalWriter.create(tmp_path / "j", "web01") as writer:
        tap = Tap(writer, {0: 4 * 4096 + 512})
        tap.protect()
        tap.write(0, 16, b"y" * 512)
        tap.disks = {0: 8 * 4096 + 1024}
        tap.begin("bitmap")
        tap.cut("sync-end")
        tap.write(0, 8, b"x" * 512)
    reader = JournalReader(tmp_path / "j")
    assert list(differing(reader, (1, 1), (1, 3), 0)) == [(4096, 8192), (4 * 4096, 4 * 4096 + 1024)]
    assert amount(differing(reader, (1, 3), (1, 1), 0)) == (7, 6 * 4096 + 1024)
