"""The writer: one at a time, only what follows is taken, a full disk breaks nothing."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from journal import layout, metalog
from journal.errors import (
    BadContent,
    BadSequence,
    JournalBusy,
    JournalExists,
    JournalFull,
    JournalWriteFailed,
    NoSuchTimeline,
    NotAJournal,
    NotRecoverable,
    WrongFormat,
)
from journal.frame import CAPTURED, SYNC, ZERO, FrameBuilder
from journal.reader import JournalReader
from journal.writer import JournalWriter
from lastwrite.errors import LastwriteError
from tests.journal.tap import Tap, append, note

DISK = 16 * 4096


@pytest.fixture
def tap(tmp_path: Path) -> Iterator[Tap]:
    with JournalWriter.create(tmp_path / "j", "web01", segment_bytes=300_000) as writer:
        yield Tap(writer, {0: DISK})


def folder_bytes(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_state_is_the_same_after_reopening(tap: Tap) -> None:
    tap.protect()
    tap.write(0, 3, b"x" * 1024)
    tap.cut("bookmark", "before the upgrade")
    tap.writer.set_fence("token", "instance")
    before = tap.writer._state
    tap.writer.close()
    with JournalWriter.open(tap.writer.folder) as again:
        assert again._state == before
        assert again.fence == "token" and again.valid and again.valid_base and again.epoch_open
        assert again.last_cut and again.last_cut.label == "before the upgrade"
        assert (again.next_lsn, again.next_cut, again.position, again.generation) == (3, 3, 5, 7)


def test_the_sync_cursor_survives_until_the_sync_has_ended(tap: Tap) -> None:
    tap.begin()
    assert tap.writer.sync_cursor is None and not tap.writer.valid
    tap.notes(note("sync", tap.mono, disk=0, sector=64))
    assert tap.writer.sync_cursor == {"disk": 0, "sector": 64}
    tap.writer.close()
    with JournalWriter.open(tap.writer.folder) as again:
        assert again.sync_cursor == {"disk": 0, "sector": 64} and again.epoch_open and not again.valid_base
        tap.writer = again
        tap.cut("sync-end")
        assert again.sync_cursor is None and again.valid


def test_segments_roll_are_sealed_and_chained(tap: Tap) -> None:
    tap.protect()
    for number in range(30):
        tap.write(0, 0, bytes([number]) * DISK)
    tap.writer.close()
    with JournalWriter.open(tap.writer.folder, segment_bytes=300_000) as again:
        tap.writer = again
        for number in range(10):
            tap.write(0, 0, bytes([number]) * DISK)
    scans = JournalReader(tap.writer.folder).scans(1)
    assert len(scans) > 5 and all(scan.sealed for scan in scans[:-1])
    for before, after in pairwise(scans):
        assert (
            after.header and before.footer and after.header.previous == before.footer.digest == before.digest
        )
        assert after.first_lsn == before.footer.next_lsn
        assert before.path.stat().st_size <= 300_000 + 4096


def test_a_second_writer_is_told_who_holds_the_journal(tap: Tap) -> None:
    with pytest.raises(JournalBusy, match=str(os.getpid())) as busy:
        JournalWriter.open(tap.writer.folder)
    assert busy.value.details["pid"] == os.getpid()
    tap.writer.close()
    JournalWriter.open(tap.writer.folder).close()


def test_what_is_no_journal_is_refused(tmp_path: Path, tap: Tap) -> None:
    with pytest.raises(NotAJournal):
        JournalWriter.open(tmp_path / "nothing")
    with pytest.raises(NotAJournal):
        JournalReader(tmp_path)
    tap.writer.close()
    with pytest.raises(JournalExists):
        JournalWriter.create(tap.writer.folder, "web02")
    with pytest.raises(NoSuchTimeline):
        JournalWriter.open(tap.writer.folder, 9)
    identity = tap.writer.folder / layout.IDENTITY
    identity.write_text(identity.read_text().replace('"format": 2', '"format": 3'))
    for opener in (JournalWriter.open, JournalReader):
        with pytest.raises(WrongFormat, match=r"format 3.*knows 1 and 2"):
            opener(tap.writer.folder)


def frame_of(tap: Tap, *notes: dict[str, Any], kind: int = CAPTURED, **fields: Any) -> bytes:
    builder = FrameBuilder(kind)
    builder.notes += notes
    sector = fields.pop("sector", None)
    if sector is not None:
        builder.add_extent(
            fields.pop("record", ZERO), fields.pop("disk", 0), sector, fields.pop("sectors", 1), tap.mono
        )
    due = {"first_lsn": tap.writer.next_lsn, "epoch": tap.writer.epoch, "position": 0}
    return bytes(builder.finish(**(due | fields)))


HOSTILE: dict[str, tuple[type[LastwriteError], Callable[[Tap], bytes]]] = {
    "LSN too high": (BadSequence, lambda t: frame_of(t, first_lsn=9, sector=0)),
    "LSN again": (BadSequence, lambda t: frame_of(t, first_lsn=1, sector=0)),
    "epoch without note": (BadSequence, lambda t: frame_of(t, epoch=2, sector=0)),
    "old epoch": (BadSequence, lambda t: frame_of(t, epoch=0, sector=0)),
    "epoch two on": (BadSequence, lambda t: frame_of(t, t.epoch_note(3), epoch=3)),
    "epoch with records": (BadSequence, lambda t: frame_of(t, t.epoch_note(2), epoch=2, sector=0)),
    "note of another epoch": (BadSequence, lambda t: frame_of(t, t.epoch_note(3), epoch=2)),
    "epoch note second": (BadSequence, lambda t: frame_of(t, t.cut_note(), t.epoch_note(2))),
    "sync after its end": (BadSequence, lambda t: frame_of(t, kind=SYNC, sector=0)),
    "second sync-end": (BadSequence, lambda t: frame_of(t, t.cut_note("sync-end"))),
    "cursor after sync": (BadSequence, lambda t: frame_of(t, note("sync", 0, disk=0, sector=1))),
    "cut number": (BadSequence, lambda t: frame_of(t, t.cut_note(number=7))),
    "unknown disk": (BadContent, lambda t: frame_of(t, sector=0, disk=5)),
    "beyond the disk": (BadContent, lambda t: frame_of(t, sector=DISK // 512)),
    "over the end": (BadContent, lambda t: frame_of(t, sector=DISK // 512 - 1, sectors=2)),
    "far beyond": (BadContent, lambda t: frame_of(t, sector=2**48 - 1, sectors=2**32 - 1)),
    "no length": (BadContent, lambda t: frame_of(t, sector=0, sectors=0)),
    "unknown record": (BadContent, lambda t: frame_of(t, sector=0, record=9)),
    "write without data": (BadContent, lambda t: frame_of(t, sector=0, record=1)),
    "unknown note": (BadContent, lambda t: frame_of(t, note("party", 0))),
    "negative wall": (BadContent, lambda t: frame_of(t, t.cut_note(wall=-1))),
    "wall a text": (BadContent, lambda t: frame_of(t, t.cut_note(wall="now"))),
    "wall true": (BadContent, lambda t: frame_of(t, t.cut_note(wall=True))),
    "huge mono": (BadContent, lambda t: frame_of(t, t.cut_note(mono=2**63))),
    "escape in label": (BadContent, lambda t: frame_of(t, t.cut_note(label="\x1b[2J"))),
    "long label": (BadContent, lambda t: frame_of(t, t.cut_note(label="x" * 300))),
    "cut kind": (BadContent, lambda t: frame_of(t, t.cut_note(kind="party"))),
    "cut kind a list": (BadContent, lambda t: frame_of(t, t.cut_note() | {"kind": []})),
    "note a number": (BadContent, lambda t: frame_of(t, {"note": 7})),
    "note a list": (BadContent, lambda t: frame_of(t, {"note": []})),
    "disks a number": (BadContent, lambda t: frame_of(t, t.epoch_note(2) | {"disks": 7}, epoch=2)),
    "disk of odd size": (BadContent, lambda t: frame_of(t, disk_note(t, bytes=513), epoch=2)),
    "disk of a million TiB": (BadContent, lambda t: frame_of(t, disk_note(t, bytes=2**60), epoch=2)),
    "disk without name": (BadContent, lambda t: frame_of(t, disk_note(t, name=""), epoch=2)),
    "disk twice": (BadContent, lambda t: frame_of(t, disk_note(t, twice=True), epoch=2)),
    "time beyond all": (BadContent, lambda t: frame_of(t, base_time=2**63)),
}


def disk_note(tap: Tap, twice: bool = False, **keys: Any) -> dict[str, Any]:
    found = tap.epoch_note(2)
    disk = found["disks"][0] | keys
    return found | {"disks": [disk, disk] if twice else [disk]}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_frame_that_may_not_follow_changes_nothing(tap: Tap, what: str) -> None:
    tap.protect()
    tap.writer.commit()
    error, make = HOSTILE[what]
    state, stored = tap.writer._state, folder_bytes(tap.writer.folder)
    with pytest.raises(error):
        append(tap.writer, make(tap))
    assert tap.writer._state == state and folder_bytes(tap.writer.folder) == stored
    tap.write(0, 0, b"g" * 512)
    assert tap.writer.commit() == (3, 4)


def test_nothing_of_an_epoch_follows_its_gap_and_bitmap_and_delta_need_a_base(tap: Tap) -> None:
    tap.begin()
    tap.gap()
    with pytest.raises(BadSequence):
        tap.write(0, 0, bytes(512))
    for adding in ("bitmap", "delta"):
        with pytest.raises(BadSequence, match=f"syncs a {adding}, but there is no valid epoch"):
            tap.begin(adding)
    tap.begin("full")
    assert tap.writer.epoch == 2 and tap.writer.epoch_open


def test_a_frame_of_another_length_than_its_header_says_is_refused(tap: Tap) -> None:
    tap.begin()
    data = frame_of(tap, sector=0)
    from journal import frame

    with pytest.raises(BadContent, match="not as long"):
        tap.writer.append(frame.parse_header(data), data + bytes(4096), b"")


def test_bookmarks_and_forks_only_of_what_is_there(tap: Tap) -> None:
    tap.protect()
    tap.writer.commit()
    tap.writer.bookmark(1, "gut")
    for lsn, name, error in ((2, "x", NotRecoverable), (-1, "x", NotRecoverable), (1, "a\nb", BadContent)):
        with pytest.raises(error):
            tap.writer.bookmark(lsn, name)
    with pytest.raises(NotRecoverable):
        tap.writer.fork(0, "before the sync ended")
    assert [m["meta"] for m in metalog.read(tap.writer.folder / "meta.log").records] == [
        "timeline",
        "bookmark",
    ]
    reader = JournalReader(tap.writer.folder)
    assert [(c.number, c.lsn, c.label) for c in reader.cuts()] == [(1, 1, None), (0, 1, "gut")]


def test_a_torn_or_damaged_metadata_log_is_stepped_over(tap: Tap) -> None:
    tap.protect()
    tap.writer.commit()
    for name in ("one", "two", "three"):
        tap.writer.bookmark(1, name)
    tap.writer.close()
    path = tap.writer.folder / "meta.log"
    data = bytearray(path.read_bytes())
    data[data.index(b"two")] ^= 1
    path.write_bytes(data[:-9])
    names = [cut.label for cut in JournalReader(tap.writer.folder).cuts() if not cut.number]
    assert names == ["one"]
    with JournalWriter.open(tap.writer.folder) as again:
        again.bookmark(1, "four")
    names = [cut.label for cut in JournalReader(tap.writer.folder).cuts() if not cut.number]
    assert names == ["one", "four"]


def test_no_space_while_writing_takes_the_frame_back(tap: Tap, monkeypatch: pytest.MonkeyPatch) -> None:
    tap.protect()
    acknowledged = tap.writer.commit()
    stored, real = folder_bytes(tap.writer.folder), os.pwritev

    def half(fd: int, buffers: list[memoryview], offset: int) -> int:
        monkeypatch.setattr(os, "pwritev", full)
        return real(fd, [buffers[0][:100]], offset)

    def full(fd: int, buffers: list[memoryview], offset: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwritev", half)
    with pytest.raises(JournalFull):
        tap.write(0, 0, b"x" * 4096)
    assert folder_bytes(tap.writer.folder) == stored and tap.writer.commit() == acknowledged
    monkeypatch.setattr(os, "pwritev", real)
    tap.write(0, 0, b"x" * 4096)
    tap.writer.commit()
    assert JournalReader(tap.writer.folder).resolve(2, 0).read(0, 2) == b"xx"


@pytest.mark.parametrize(("number", "error"), [(errno.ENOSPC, JournalFull), (errno.EIO, JournalWriteFailed)])
def test_a_failing_fdatasync_takes_back_what_was_not_durable(
    tap: Tap, monkeypatch: pytest.MonkeyPatch, number: int, error: type[LastwriteError]
) -> None:
    tap.protect()
    tap.writer.commit()
    state, stored, real = tap.writer._state, folder_bytes(tap.writer.folder), os.fdatasync
    tap.write(0, 0, b"x" * 4096)
    tap.cut()

    def fail(fd: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(error):
        tap.writer.commit()
    assert folder_bytes(tap.writer.folder) == stored and tap.writer._state == state
    with pytest.raises(error):
        tap.writer.bookmark(1, "x")
    assert folder_bytes(tap.writer.folder) == stored
    monkeypatch.setattr(os, "fdatasync", real)
    tap.write(0, 0, b"y" * 4096)
    tap.writer.commit()
    tap.writer.close()
    with JournalWriter.open(tap.writer.folder) as again:
        assert again.recovery.cut_bytes == 0 and again.next_lsn == 3


@pytest.mark.parametrize("call", ["fdatasync", "fsync", "open", "pwritev"])
def test_an_error_at_any_call_of_a_roll_leaves_a_journal_that_goes_on(
    tap: Tap, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    real = getattr(os, call)
    tap.protect()
    tap.writer.commit()
    for nth in range(1, 6):
        count = 0

        def fail(*args: Any, nth: int = nth, **keys: Any) -> Any:
            nonlocal count
            count += 1
            if count == nth:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args, **keys)

        done = 0
        while done < 8:  # at least one roll: a segment takes four of these frames
            monkeypatch.setattr(os, call, fail)
            try:
                tap.write(0, 0, bytes([nth]) * DISK)
                tap.writer.commit()
                done += 1
            except JournalFull:
                pass
            finally:
                monkeypatch.setattr(os, call, real)
    last = tap.writer.commit()[0] - 1
    tap.writer.close()
    reader = JournalReader(tap.writer.folder)
    assert reader.latest() == last and not reader.damage() and not list(tap.writer.folder.rglob("*.new"))
    assert reader.resolve(last, 0).read(0, DISK) == bytes([5]) * DISK


LIMITED = """
import resource, signal, sys
from itertools import pairwise
from pathlib import Path
from journal.errors import JournalFull
from journal.writer import JournalWriter
from tests.journal.tap import Tap
tap = Tap(JournalWriter.create(Path(sys.argv[1]), "web01"), {0: 65536})
tap.protect()
done = 0
resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, resource.RLIM_INFINITY))
try:
    while True:
        tap.write(0, 0, bytes([done]) * 65536)
        done = tap.writer.commit()[0] - 1
except JournalFull:
    print(done)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
tap.write(0, 0, b"z" * 65536)
print(tap.writer.commit()[0] - 1)
"""


def test_a_limit_on_the_size_of_files_is_met_like_a_full_disk(tmp_path: Path) -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    assert soft == resource.RLIM_INFINITY
    argv = [sys.executable, "-c", LIMITED, str(tmp_path / "j")]
    root = Path(__file__).parents[2]
    run = subprocess.run(argv, capture_output=True, text=True, timeout=60, cwd=root, check=False)
    assert run.returncode == 0, run.stderr
    full, after = map(int, run.stdout.split())
    assert after == full + 1 > 5
    assert JournalReader(tmp_path / "j").resolve(after, 0).read(0, 1) == b"z"
