"""Appending: past the page cache or through it, with few calls, and what is taken back when it fails."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from guesttap.receiver.buffers import BufferPool, Memory
from journal import storage
from journal.errors import JournalFull, JournalWriteFailed
from journal.frame import BLOCK, CAPTURED, FrameBuilder, FrameHeader, parse_header
from journal.storage import ActiveSegment
from journal.writer import JournalWriter
from lastwrite import failpoints
from tests.journal.tap import Tap

Whole = tuple[FrameHeader, memoryview, memoryview]


def frame(lsn: int, blocks: int = 1) -> Whole:
    builder = FrameBuilder(CAPTURED)
    for block in range(blocks):
        builder.add_write(0, 8 * block, os.urandom(BLOCK), lsn)
    data = memoryview(builder.finish(first_lsn=lsn, epoch=1, position=lsn))
    header = parse_header(data)
    return header, data[: header.head_bytes], data[header.head_bytes :]


def content(frames: list[Whole]) -> bytes:
    return b"".join(bytes(head) + bytes(payload) for _, head, payload in frames)


def aligned(found: Whole, pool: BufferPool) -> Whole:
    """Return the same frame in memory that O_DIRECT takes as it is."""
    header, head, payload = found
    memory = pool.take(header.frame_bytes)
    assert memory is not None
    memory[:] = bytes(head) + bytes(payload)
    return header, memory[: len(head)], memory[len(head) :]


@pytest.fixture
def segment(tmp_path: Path) -> Iterator[ActiveSegment]:
    made = ActiveSegment.create(tmp_path, bytes(16), 1, 1, bytes(16))
    yield made
    made.close()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many buffers each pwritev was given."""
    found: list[int] = []
    real = os.pwritev

    def counted(fd: int, buffers: list[memoryview], place: int) -> int:
        found.append(len(buffers))
        return real(fd, buffers, place)

    monkeypatch.setattr(os, "pwritev", counted)
    return found


@contextmanager
def largest_file(length: int) -> Iterator[None]:
    """Let no file grow beyond `length` bytes: writes end short there, then fail with EFBIG."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (length, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_many_frames_are_written_with_one_call_in_order(segment: ActiveSegment, calls: list[int]) -> None:
    pool = BufferPool(Memory())
    frames = [aligned(frame(lsn, 1 + lsn % 3), pool) for lsn in range(1, 101)]
    assert segment.append_all(frames) == 100
    assert calls == [200]
    assert segment.path.read_bytes()[BLOCK:] == content(frames)
    assert segment.length == BLOCK + len(content(frames)) and segment.frames == 100


def test_memory_that_is_not_aligned_is_written_all_the_same(segment: ActiveSegment) -> None:
    pool = BufferPool(Memory())
    frames = [frame(1, 3), aligned(frame(4, 2), pool), frame(6, 700), frame(706, 1)]
    assert segment.append_all(frames) == 4
    assert segment.path.read_bytes()[BLOCK:] == content(frames)


def test_more_buffers_than_one_call_takes(segment: ActiveSegment, calls: list[int]) -> None:
    pool = BufferPool(Memory())
    frames = [aligned(frame(lsn), pool) for lsn in range(1, 701)]
    assert segment.append_all(frames) == 700
    assert calls == [1024, 376]
    assert segment.path.read_bytes()[BLOCK:] == content(frames)


def test_short_writes_are_gone_on_with(segment: ActiveSegment, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwritev

    def short(fd: int, buffers: list[memoryview], place: int) -> int:
        return real(fd, [buffers[0][: max(BLOCK, len(buffers[0]) // 2 // BLOCK * BLOCK)]], place)

    monkeypatch.setattr(os, "pwritev", short)
    pool = BufferPool(Memory())
    frames = [aligned(frame(1, 5), pool), aligned(frame(6, 2), pool), frame(8, 9)]
    assert segment.append_all(frames) == 3
    assert segment.path.read_bytes()[BLOCK:] == content(frames)


def test_a_file_system_that_refuses_direct_writes_after_all_is_written_through_the_cache(
    segment: ActiveSegment, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, refusals = os.pwritev, [errno.EINVAL]

    def refusing(fd: int, buffers: list[memoryview], place: int) -> int:
        if refusals and segment.direct:
            raise OSError(refusals.pop(), "refused")
        return real(fd, buffers, place)

    was_direct = segment.direct
    monkeypatch.setattr(os, "pwritev", refusing)
    frames = [frame(1), frame(2)]
    assert segment.append_all(frames) == 2
    assert not segment.direct
    assert segment.path.read_bytes()[BLOCK:] == content(frames)
    assert was_direct == (not refusals)


@pytest.mark.parametrize("room", [0, 1, 7, 8, 9])
def test_when_space_ends_in_the_middle_the_whole_frames_stay(segment: ActiveSegment, room: int) -> None:
    pool = BufferPool(Memory())
    frames = [aligned(frame(lsn, 7), pool) for lsn in (1, 8, 15)]
    size = frames[0][0].frame_bytes
    with largest_file(BLOCK + size + room * BLOCK):
        kept = segment.append_all(frames)
        assert kept == 1 + room // 8
        with pytest.raises(JournalFull):
            segment.append_all(frames[kept:])
    assert segment.path.read_bytes()[BLOCK:] == content(frames[:kept])
    assert (segment.frames, segment.records) == (kept, 7 * kept)
    assert segment.append_all(frames[kept:]) == 3 - kept
    assert segment.path.read_bytes()[BLOCK:] == content(frames)
    segment.sync()


@pytest.mark.parametrize(
    ("point", "error"),
    [
        ("append-half=error:ENOSPC", JournalFull),
        ("append-written=error:EIO", JournalWriteFailed),
    ],
)
def test_a_failed_append_leaves_nothing(segment: ActiveSegment, point: str, error: type[Exception]) -> None:
    first, second = frame(1, 3), frame(4, 5)
    segment.append_all([first])
    with failpoints.armed(point), pytest.raises(error):
        segment.append_all([second])
    assert segment.path.read_bytes()[BLOCK:] == content([first])
    assert segment.append_all([second]) == 1
    assert segment.path.read_bytes()[BLOCK:] == content([first, second])


def test_a_failed_sync_takes_back_what_was_not_durable(segment: ActiveSegment) -> None:
    durable, lost = frame(1, 3), frame(4, 5)
    segment.append_all([durable])
    segment.sync()
    digest = segment.digest
    segment.append_all([lost])
    with failpoints.armed("sync-done=error:EIO"), pytest.raises(JournalWriteFailed):
        segment.sync()
    assert segment.path.read_bytes()[BLOCK:] == content([durable])
    assert (segment.frames, segment.records, segment.digest) == (1, 3, digest)


def test_a_failed_seal_takes_its_footer_back(segment: ActiveSegment) -> None:
    segment.append_all([frame(1)])
    segment.sync()
    before = segment.path.read_bytes()
    with failpoints.armed("footer-written=error:ENOSPC"), pytest.raises(JournalFull):
        segment.seal(2)
    assert segment.path.read_bytes() == before
    segment.seal(2)
    assert len(segment.path.read_bytes()) == len(before) + BLOCK


@pytest.mark.parametrize("point", ["append-half", "append-written"])
def test_a_process_killed_while_it_appends_leaves_that_much(segment: ActiveSegment, point: str) -> None:
    whole = frame(1, 7)
    if (pid := os.fork()) == 0:
        failpoints.arm(point)
        segment.append_all([whole])
        os._exit(1)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    there = segment.path.read_bytes()[BLOCK:]
    due = content([whole])
    assert there == (due[: len(due) // 2] if point == "append-half" else due)


def test_whether_a_journal_is_written_past_the_cache_is_said_without_writing(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    with JournalWriter.create(folder, "web01") as writer:
        Tap(writer, {0: 1 << 20}).protect()
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}
    said = storage.direct_io(folder)
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")} == before
    made = ActiveSegment.create(tmp_path / "other", bytes(16), 1, 1, bytes(16))
    assert said == made.direct
    made.close()


def test_without_o_direct_everything_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refusing(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "no O_DIRECT here")
        return real(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", refusing)
    folder = tmp_path / "j"
    with JournalWriter.create(folder, "web01") as writer:
        tap = Tap(writer, {0: 1 << 20})
        tap.protect()
        tap.write(0, 0, b"x" * BLOCK)
        writer.commit()
    assert not storage.direct_io(folder)
    with JournalWriter.open(folder) as writer:
        assert writer.epoch_open
    segment = ActiveSegment.create(tmp_path / "other", bytes(16), 1, 1, bytes(16))
    frames = [frame(1, 3), frame(4, 600)]
    assert segment.append_all(frames) == 2 and not segment.direct
    assert segment.path.read_bytes()[BLOCK:] == content(frames)
    segment.close()


def test_frames_in_pooled_memory_need_no_copy() -> None:
    pool = BufferPool(Memory())
    _, head, payload = aligned(frame(1, 3), pool)
    assert all(np.frombuffer(part, np.uint8).ctypes.data % BLOCK == 0 for part in (head, payload))
