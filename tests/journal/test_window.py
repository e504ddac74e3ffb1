"""Windows of any disk: what is laid last stays, memory is bounded, and the largest disk can be read."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from journal.errors import OutsideDisk
from journal.frame import CAPTURED, DISCARD, FrameBuilder
from journal.index.chunks import CHUNK, Key, MemoryUnit
from journal.layout import raise_file_limit
from journal.map import blockmap
from journal.map.net import PER_BLOCK, net_of
from journal.map.window import Filling, Window
from journal.reader import JournalReader
from journal.writer import JournalWriter
from tests.journal.tap import Tap
from tests.journal.test_net import MIXED, Listed, by_sector, columns

LARGEST = 64 << 40


def sectors_of(window: Window) -> dict[int, int]:
    """Every sector of a window with its place, those of zeros left out."""
    found: dict[int, int] = {}
    table = np.zeros(window.blocks, np.int64) if window.table is None else window.table
    for number, code in enumerate(table.tolist()):
        places = (
            window.patches[-1 - code].tolist() if code < 0 else [code + s if code else 0 for s in range(8)]
        )
        for step, place in enumerate(places):
            if place:
                found[(window.first + number) * PER_BLOCK + step] = place
    return found


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@settings(max_examples=150, deadline=None)
@given(
    layers=st.lists(st.lists(MIXED, max_size=12), max_size=4),
    first=st.integers(0, 20),
    blocks=st.integers(1, 60),
)
def test_a_window_holds_the_newest_of_every_sector(
    dtype: type, layers: list[Listed], first: int, blocks: int
) -> None:
    filling, expected = Filling(first, blocks, dtype), {}
    for number, extents in enumerate(layers):
        given_ = columns(extents)
        unit = MemoryUnit([(Key(1, 1, 0), net_of(*given_))])
        for at in range(len(unit.directory)):
            filling.lay(unit.read(at), number * 100_000)
        for sector, place in by_sector(given_).items():
            expected[sector] = place + number * 100_000 if place else 0
    window = filling.window()
    low, high = first * PER_BLOCK, (first + blocks) * PER_BLOCK
    assert sectors_of(window) == {s: p for s, p in expected.items() if p and low <= s < high}
    if window.table is not None:  # no row of patches that no block has
        assert len(window.patches) == int((window.table < 0).sum())


def test_blocks_far_apart_are_kept_in_chunks_that_can_name_them() -> None:
    start = np.array([0, 8, LARGEST // 512 - 8], np.int64)
    unit = MemoryUnit([(Key(1, 1, 0), net_of(start, np.full(3, 8), np.array([800, 16, 24])))])
    assert unit.directory.dtype == CHUNK and unit.directory["first"].tolist() == [0, LARGEST // 512 - 8]
    window = Filling((LARGEST >> 12) - 10, 10, np.int32)
    window.lay(unit.read(1), 0)
    assert sectors_of(window.window()) == {LARGEST // 512 - 8 + step: 24 + step for step in range(8)}


def largest(folder: Path) -> JournalReader:
    with JournalWriter.create(folder, "web01") as writer:
        tap = Tap(writer, {0: LARGEST})
        tap.begin()
        builder = FrameBuilder(CAPTURED)
        builder.add_write(0, 0, b"a" * 4096, tap.tick())
        builder.add_extent(DISCARD, 0, 0, (1 << 32) - 1, tap.tick())
        builder.add_write(0, (40 << 40) // 512 + 3, b"b" * 8192, tap.tick())
        builder.add_write(0, LARGEST // 512 - 8, b"z" * 4096, tap.tick())
        tap.send(builder)
        tap.cut("sync-end")
    return JournalReader(folder)


def test_the_largest_disk_is_mapped_window_by_window(tmp_path: Path) -> None:
    blocks = largest(tmp_path / "j").resolve(4, 0)
    assert blocks.disk_bytes == LARGEST
    assert blocks.read(0, 8192) == bytes(8192)
    assert blocks.read(LARGEST - 8192, 8192) == bytes(4096) + b"z" * 4096
    assert blocks.read((40 << 40) + 1024, 10240) == bytes(512) + b"b" * 8192 + bytes(1536)
    assert list(blocks.extents((40 << 40) - (1 << 40), 2 << 40)) == [
        (39 << 40, 1 << 40, False),
        (40 << 40, 12288, True),
        ((40 << 40) + 12288, (1 << 40) - 12288, False),
    ]
    with pytest.raises(OutsideDisk):
        blocks.read(LARGEST - 1, 2)


def test_windows_that_are_not_used_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blockmap, "WINDOW_BLOCKS", 16)
    monkeypatch.setattr(blockmap, "_ROOM", 200)
    monkeypatch.setattr(blockmap, "_ROOM_PER_100G", 0)
    with JournalWriter.create(tmp_path / "j", "web01") as writer:
        tap = Tap(writer, {0: 256 * 4096})
        tap.protect(b"1")
        tap.write(0, 8 * 100 + 5, b"x" * 4096)
    blocks = JournalReader(tmp_path / "j").resolve(2, 0)
    image = b"1" * ((8 * 100 + 5) * 512) + b"x" * 4096
    image += b"1" * (256 * 4096 - len(image))
    for _ in range(2):
        assert blocks.read(0, 256 * 4096) == image
        assert list(blocks.extents()) == [(0, 256 * 4096, True)]
        assert sum(window.room for window in blocks._windows.values()) <= 200 + 64
    assert blocks.needs(0, 0, 1 << 20) and not blocks.needs(0, 1 << 30, 4096)


MEMORY = """
import sys
from journal.reader import JournalReader
blocks = JournalReader(sys.argv[1]).resolve(int(sys.argv[2]), 0)
for window in blocks.windows():
    pass
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak.split()[1]) // 1024)
"""


def test_a_disk_of_100_gib_that_was_written_everywhere_takes_less_than_240_mb(tmp_path: Path) -> None:
    with JournalWriter.create(tmp_path / "j", "web01") as writer:
        tap = Tap(writer, {0: 100 << 30})
        tap.begin()
        for part in range(40):
            builder = FrameBuilder(CAPTURED)
            for number in range(600):
                builder.add_write(0, (part * 600 + number) * 8 * 1092, b"x" * 4096, tap.tick())
            tap.send(builder)
        tap.cut("sync-end")
        lsn = writer.next_lsn - 1
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "j"), str(lsn)]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert int(found.stdout) < 240


def test_the_limit_of_open_files_can_be_raised() -> None:
    hard = raise_file_limit()
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
