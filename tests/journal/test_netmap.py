"""Net maps: made where they are worth it, used where they fit, harmless where they are wrong."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from journal import layout
from journal.index import netmap
from journal.index.chunks import BadCache
from journal.index.make import write_index
from journal.index.netmap import USELESS, Maps, NetMap, build
from journal.map.resolve import Layers
from journal.reader import JournalReader
from journal.writer import JournalWriter
from tests.journal.tap import Tap

BLOCKS = 64
DISK = BLOCKS * 4096
Truth = dict[int, bytes]


def write(folder: Path, segments: int, blocks: int, seed: int = 1) -> Truth:
    """A journal of so many sealed segments, of writes to the first `blocks` blocks, some not aligned."""
    choices = random.Random(seed)
    expected: Truth = {}
    image = bytearray(b"\1" * DISK)
    with JournalWriter.create(folder, "web01", segment_bytes=12 * 8192) as writer:
        tap = Tap(writer, {0: DISK})
        tap.protect()
        while len(layout.segments(folder, 1)) <= segments:
            length = choices.choice([4096, 4096, 512, 1536])
            place = choices.randrange(blocks) * 4096 + (choices.randrange(4) * 512 if length < 4096 else 0)
            data = choices.randbytes(length)
            tap.write(0, place // 512, data)
            image[place : place + length] = data
            expected[writer.next_lsn - 1] = bytes(image)
    for _, path in layout.segments(folder, 1):
        write_index(path)
    return expected


@pytest.fixture(scope="module")
def hot(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth]:
    """Writes to few blocks: what a map can spare is much."""
    folder = tmp_path_factory.mktemp("hot") / "j"
    expected = write(folder, 80, 12)
    assert len(build(folder, 1)) == 11
    return folder, expected


@pytest.fixture
def copy(hot: tuple[Path, Truth], tmp_path: Path) -> Path:
    shutil.copytree(hot[0], tmp_path / "j")
    return tmp_path / "j"


def check_all(folder: Path, expected: Truth, every: int = 7) -> None:
    reader = JournalReader(folder)
    for lsn in list(expected)[::every]:
        assert reader.resolve(lsn, 0).read(0, DISK) == expected[lsn], lsn


def units(folder: Path, lsn: int) -> list[tuple[int, int]]:
    reader = JournalReader(folder)
    sources = reader.lineage().sources
    blocks = reader.resolve(lsn, 0)
    return [(unit.first, unit.end) for unit in Layers(sources, [1], lsn, 0, blocks.space)._units]


def test_every_point_comes_back_through_maps(hot: tuple[Path, Truth]) -> None:
    check_all(*hot, every=1)
    found = units(hot[0], max(hot[1]))
    assert (0, 64) in found and (64, 72) in found and len(found) <= 2 + 10
    middle = JournalReader(hot[0]).scans(1)[21].first_lsn + 1
    assert units(hot[0], middle) == [(0, 8), (8, 16), *[(n, n + 1) for n in range(16, 22)]]


def test_maps_that_are_there_are_not_made_again(copy: Path) -> None:
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in copy.rglob("*.map")}
    assert len(before) == 11 and build(copy, 1) == []
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in copy.rglob("*.map")} == before
    min(before).unlink()
    assert build(copy, 1) == [min(before)]


def test_a_map_that_would_save_less_than_half_is_remembered_and_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "j"
    monkeypatch.setattr(netmap, "_WORTH", 1000)
    expected = write(folder, 70, 40)
    assert len(build(folder, 1)) == 9
    for path in folder.rglob("*.map"):
        found = NetMap(path)
        assert found.header.flags & USELESS and not len(found.directory)
    assert build(folder, 1) == []
    check_all(folder, expected)
    assert all(end - first == 1 for first, end in units(folder, max(expected)))


def test_maps_refer_to_the_files_that_they_cover_and_to_no_others(
    copy: Path, hot: tuple[Path, Truth]
) -> None:
    scans = [data.scan for data in (source.data for source in JournalReader(copy).lineage().sources)]
    for path in copy.rglob("*.map"):
        found = NetMap(path)
        fitting = [n for n in range(len(scans)) if found.fits(scans[n:])]
        assert [scans[n].first_lsn for n in fitting] == [found.header.first_lsn]


def test_maps_whose_files_are_gone_are_deleted(copy: Path) -> None:
    gone = JournalReader(copy).scans(1)[3]
    gone.path.unlink()
    build(copy, 1)
    left = [NetMap(path).header for path in copy.rglob("*.map")]
    assert all(header.first_lsn > gone.first_lsn or header.next_lsn <= gone.first_lsn for header in left)
    assert len([header for header in left if header.level == 1]) >= 8


@pytest.mark.parametrize("seed", range(6))
def test_whatever_is_altered_in_maps_every_point_comes_back(
    copy: Path, hot: tuple[Path, Truth], seed: int
) -> None:
    choices = random.Random(seed)
    for path in [*copy.rglob("*.map"), *choices.sample(sorted(copy.rglob("*.idx")), 10)]:
        data = bytearray(path.read_bytes())
        data[choices.randrange(len(data))] ^= 1 << choices.randrange(8)
        path.write_bytes(data[: choices.randrange(len(data))] if choices.random() < 0.2 else data)
    check_all(copy, hot[1], every=29)
    build(copy, 1)
    check_all(copy, hot[1], every=29)


def test_a_map_under_anothers_name_is_ignored(copy: Path, hot: tuple[Path, Truth]) -> None:
    paths = sorted(copy.rglob("*.map"))
    data = [path.read_bytes() for path in paths]
    for path, other in zip(paths, [*data[1:], data[0]], strict=True):
        path.write_bytes(other)
    check_all(copy, hot[1], every=29)
    (copy / "timelines" / "0001" / "nonsense.map").write_bytes(b"x" * 5000)
    with pytest.raises(BadCache):
        NetMap(copy / "timelines" / "0001" / "nonsense.map")
    check_all(copy, hot[1], every=97)
    assert Maps().paths(copy / "timelines" / "0001", 0, 1 << 60) == []


def test_a_fork_uses_the_maps_of_its_ancestor_up_to_the_fork(copy: Path, hot: tuple[Path, Truth]) -> None:
    scans = JournalReader(copy).scans(1)
    fork = scans[70].first_lsn + 2
    with JournalWriter.open(copy) as writer:
        assert writer.fork(fork, "test") == 2
    reader = JournalReader(copy)
    assert reader.resolve(fork, 0, 2).read(0, DISK) == hot[1][fork]
    found = [
        (u.first, u.end)
        for u in Layers(reader.lineage(2).sources, [1], fork, 0, reader.resolve(fork, 0).space)._units
    ]
    assert found[0] == (0, 64)
