"""Journals of every version of the format, kept: they read back for ever, and are written the same for ever."""

from __future__ import annotations

import io
import tarfile
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from journal import layout, metalog, pins
from journal.frame import CAPTURED, DISCARD, SYNC, ZERO, FrameBuilder
from journal.offline.check import check
from journal.reader import JournalReader
from journal.retention.policy import from_meta
from journal.writer import JournalWriter
from tests.journal.tap import Tap, note
from tests.journal.test_independent import compare
from tests.journal.thinning import thin_all

GOLDEN = Path(__file__).parent / "golden"
POLICY = {
    "every_write": 10**9,
    "tiers": [[10**9, 10**10]],
    "floor": 10**9,
    "when_full": "stop",
    "reserve_bytes": 4096,
}
DISKS = {0: 4 * 4096, 1: 4096 + 512}


def build(folder: Path, monkeypatch: pytest.MonkeyPatch, version: int = 1) -> None:
    """Every kind of record and note, several segments, a gap, a fork; no clock and no chance in it.

    Version 2 has pins, a promise, and of timeline 1 only some points are left.
    """
    identity = layout.Identity(
        uuid.UUID(int=7), "golden", datetime(2026, 1, 1, tzinfo=UTC).isoformat(), version
    )
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
        if version == 2:
            fixed.setattr(pins, "uuid", SimpleNamespace(uuid4=lambda: uuid.UUID(int=9)))
            _thin(folder)
    (folder / layout.LOCK).unlink()


def _thin(folder: Path) -> None:
    pins.pin(folder, 1, 8, reason="an audit", holder="somebody")
    pins.pin(folder, 1, 5, reason="given up", holder="nobody")
    pins.unpin(folder, str(uuid.UUID(int=9)))
    pins.pin(folder, 1, 8, reason="an audit", holder="somebody")
    metalog.append(folder, {"meta": "retention", "policy": POLICY, "created": time.time_ns()})
    thin_all(folder, 1, {8})


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


def unpack(tmp_path: Path, version: int) -> Path:
    with tarfile.open(GOLDEN / f"v{version}.tar.xz") as tar:
        tar.extractall(tmp_path / "golden", filter="data")
    return tmp_path / "golden"


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    return unpack(tmp_path, 1)


@pytest.fixture
def golden2(tmp_path: Path) -> Path:
    return unpack(tmp_path, 2)


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


def test_the_golden_journal_of_version_2_reads_back(golden2: Path) -> None:
    reader = JournalReader(golden2)
    assert (reader.name, reader.identity.format) == ("golden", 2)
    (net, *_) = reader.scans(1)
    assert net.is_net and (net.first_lsn, net.intervals.tolist()) == (1, [7, 8, 9])
    history = reader.lineage(1).history
    # 6 is a bookmark, from 7 a timeline forks, 8 is pinned; 5 was given up.
    assert [lsn for lsn in range(9) if history.is_point(lsn)] == [6, 7, 8]
    assert reader.resolve(8, 0).read(0, DISKS[0]) == b"A" * 4096 + b"B" * 4096 + b"C" * 4096 + bytes(4096)
    assert reader.resolve(6, 1).read(0, DISKS[1]) == bytes(4096) + b"t" * 512
    forked = b"A" * 512 + b"fork" * 128 + b"A" * 3072 + b"B" * 4096 + bytes(8192)
    assert reader.resolve(8, 0, timeline=2).read(0, DISKS[0]) == forked
    (kept,) = pins.pins(reader.meta.records, time.time_ns())
    assert (kept.lsn, kept.reason, kept.until) == (8, "an audit", None)
    (said,) = [meta for meta in reader.meta.records if meta["meta"] == "retention"]
    assert from_meta(said["policy"]).to_meta() == POLICY
    assert check(golden2).ok


@pytest.mark.parametrize("version", [1, 2])
def test_the_independent_reader_reads_them_too(tmp_path: Path, version: int) -> None:
    points, thinned = compare(unpack(tmp_path, version))
    assert points > 5 and bool(thinned) == (version == 2)


@pytest.mark.parametrize("version", [1, 2])
def test_a_golden_journal_is_still_written_byte_for_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    kept = unpack(tmp_path, version)
    build(tmp_path / "now", monkeypatch, version)
    files = {str(p.relative_to(kept)) for p in kept.rglob("*")}
    assert files == {str(p.relative_to(tmp_path / "now")) for p in (tmp_path / "now").rglob("*")}
    for name in files:
        if (kept / name).is_file():
            assert (tmp_path / "now" / name).read_bytes() == (kept / name).read_bytes(), name
