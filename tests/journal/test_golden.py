"""A journal of format version 1 that is kept: it reads back for ever, and is written the same for ever."""

from __future__ import annotations

import io
import tarfile
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest

from journal import layout
from journal.check import check
from journal.frame import CAPTURED, DISCARD, SYNC, ZERO, FrameBuilder
from journal.reader import JournalReader
from journal.writer import JournalWriter
from tests.journal.independent import IndependentReader
from tests.journal.tap import Tap, note

GOLDEN = Path(__file__).parent / "golden" / "v1.tar.xz"
DISKS = {0: 4 * 4096, 1: 4096 + 512}


def build(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kind of record and note, several segments, a gap, a fork; no clock and no chance in it."""
    identity = layout.Identity(uuid.UUID(int=7), "golden", datetime(2026, 1, 1, tzinfo=UTC).isoformat())
    with monkeypatch.context() as fixed:
        fixed.setattr(layout, "new_identity", lambda vm: identity)
        fixed.setattr(time, "time_ns", lambda: 1_800_000_000_000_000_000)
        with JournalWriter.create(folder, "golden", segment_bytes=36_000) as main:
            _main_timeline(Tap(main, DISKS))
        with JournalWriter.open(folder, 2) as fork:
            tap = Tap(fork, DISKS)
            tap.begin("bitmap")
            tap.cut("sync-end")
            tap.write(0, 1, b"fork" * 128)
    (folder / layout.LOCK).unlink()


def _main_timeline(tap: Tap) -> None:
    tap.writer.set_fence("a token", "an instance")
    tap.begin()
    tap.write(0, 0, b"s" * 8192, SYNC)
    tap.notes(note("sync", tap.mono, disk=0, sector=16))
    builder = FrameBuilder(CAPTURED)
    builder.add_write(0, 3, b"captured" * 128, tap.tick(), flags=3)
    builder.add_extent(DISCARD, 0, 16, 8, tap.tick())
    builder.add_extent(ZERO, 1, 1, 2, tap.tick())
    builder.add_write(1, 8, b"t" * 512, tap.tick())
    builder.notes.append(tap.cut_note("sync-end"))
    tap.send(builder)
    tap.notes(
        tap.cut_note(
            "appshot", "nightly", consistency="app", frozen=5, offset=-3, coordinates={"lsn": "0/16B"}
        )
    )
    for number in range(3):
        tap.write(0, 8 * number, bytes([number + 65]) * 4096)
    tap.writer.bookmark(6, "after the fact")
    assert tap.writer.fork(7, "drill") == 2
    tap.gap()
    tap.begin("full")
    tap.write(0, 0, b"f" * DISKS[0], SYNC)
    tap.write(1, 0, b"F" * DISKS[1], SYNC)
    tap.cut("sync-end")
    tap.cut("shutdown")


def pack(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz", format=tarfile.USTAR_FORMAT) as tar:
        for path in sorted(folder.rglob("*")):
            entry = tarfile.TarInfo(str(path.relative_to(folder)))
            entry.type, entry.mode = (tarfile.DIRTYPE, 0o755) if path.is_dir() else (tarfile.REGTYPE, 0o644)
            data = b"" if path.is_dir() else path.read_bytes()
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    with tarfile.open(GOLDEN) as tar:
        tar.extractall(tmp_path / "golden", filter="data")
    return tmp_path / "golden"


def test_the_golden_journal_reads_back(golden: Path) -> None:
    reader = JournalReader(golden)
    assert (reader.name, reader.journal_id) == ("golden", str(uuid.UUID(int=7)))
    assert [(t.number, t.name, t.fork_lsn, t.fork_epoch) for t in reader.timelines()] == [
        (1, "main", 0, 0),
        (2, "drill", 7, 1),
    ]
    first = b"s" * 1536 + b"captured" * 128 + b"s" * 5632 + bytes(8192)
    assert reader.resolve(5, "vda").read(0, DISKS[0]) == first
    assert reader.resolve(5, "vdb").read(0, DISKS[1]) == bytes(4096) + b"t" * 512
    assert reader.resolve(8, 0).read(0, DISKS[0]) == b"A" * 4096 + b"B" * 4096 + b"C" * 4096 + bytes(4096)
    assert reader.resolve(10, 1).read(0, DISKS[1]) == b"F" * DISKS[1]
    forked = b"A" * 512 + b"fork" * 128 + b"A" * 3072 + b"B" * 4096 + bytes(8192)
    assert reader.resolve(8, 0, timeline=2).read(0, DISKS[0]) == forked
    labels = [(c.number, c.lsn, c.kind, c.label) for c in reader.cuts() if c.label]
    assert labels == [(2, 5, "appshot", "nightly"), (0, 6, "bookmark", "after the fact")]
    assert check(golden).ok and len(reader.scans(1)) == 5


def test_the_independent_reader_reads_it_too(golden: Path) -> None:
    reader, second = JournalReader(golden), IndependentReader(golden)
    for timeline in (1, 2):
        for lsn in range(reader.last_lsn(timeline) + 1):
            for disk, size in DISKS.items():
                image = second.image(timeline, lsn, disk)
                assert reader.lineage(timeline).history.is_point(lsn) == (image is not None)
                if image is not None:
                    assert reader.resolve(lsn, disk, timeline).read(0, size) == image


def test_the_golden_journal_is_still_written_byte_for_byte(
    golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path / "now", monkeypatch)
    files = {str(p.relative_to(golden)) for p in golden.rglob("*")}
    assert files == {str(p.relative_to(tmp_path / "now")) for p in (tmp_path / "now").rglob("*")}
    for name in files:
        if (golden / name).is_file():
            assert (tmp_path / "now" / name).read_bytes() == (golden / name).read_bytes(), name
