"""The writing thread against a journal double: the order of append, commit and ack, and running out of space."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, cast

import pytest

from guesttap.channel import Frame
from guesttap.receiver.buffers import BufferPool
from guesttap.receiver.contents import read_contents
from guesttap.receiver.journal_thread import Durable, Entry, JournalStoppedError, JournalThread
from journal.errors import BadSequence, JournalFull, JournalWriteFailed
from journal.frame import CAPTURED, FrameBuilder, FrameHeader, parse_header
from journal.writer import JournalWriter


class JournalDouble:
    """Records what is done to it; `room` counts the frames that still find space. Ours, not the real one."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.room = 10**9
        self.fail_commits = 0
        self.error: Exception | None = None
        self.hold = threading.Event()
        self.hold.set()
        self.next_lsn, self.position, self.fence = 1, 0, cast("str | None", "new old")
        self.durable = (1, 0)
        self.next_cut, self.epoch, self.epoch_open, self.valid = 1, 1, True, True
        self.sync_cursor = None

    def append(self, header: FrameHeader, head: Any, payload: Any) -> None:
        if self.error:
            raise self.error
        if header.first_lsn != self.next_lsn:
            raise BadSequence(f"{header.first_lsn} is not {self.next_lsn}")
        if self.room <= 0:
            raise JournalFull("no space")
        self.room -= 1
        self.next_lsn, self.position = header.next_lsn, header.position
        self.done.append(f"append {header.first_lsn}")

    def append_all(self, frames: list[Any]) -> int:
        for count, frame in enumerate(frames):
            try:
                self.append(*frame)
            except JournalFull:
                if not count:
                    raise
                return count
        return len(frames)

    def commit(self) -> tuple[int, int]:
        self.hold.wait(10)
        if self.fail_commits:
            self.fail_commits -= 1
            self.next_lsn, self.position = self.durable
            raise JournalFull("no space at fdatasync")
        if self.durable != (self.next_lsn, self.position):
            self.done.append("commit")
        self.durable = (self.next_lsn, self.position)
        return self.durable

    def set_fence(self, token: str, instance: str) -> None:
        self.fence = token
        self.done.append(f"fence {token}")

    def close(self) -> None:
        self.done.append("close")


class Bench:
    """A thread under test with its journal double; collects what it reports."""

    def __init__(self) -> None:
        self.journal = JournalDouble()
        self.alarms: list[str | None] = []
        self.failures: list[Exception | None] = []
        self.acks: list[Durable] = []
        journal = cast(JournalWriter, self.journal)
        self.thread = JournalThread(journal, "machine", BufferPool(), self.durable, self.event, "test")
        self.next_lsn = 1

    def durable(self, durable: Durable) -> None:
        assert (durable.next_lsn, durable.position) == self.journal.durable, "acknowledged before durable"
        self.journal.done.append(f"ack {durable.next_lsn}")
        self.acks.append(durable)

    def event(self, alarm: str | None, failure: Exception | None) -> None:
        self.alarms.append(alarm)
        self.failures.append(failure)

    def submit(self, count: int = 1) -> None:
        for _ in range(count):
            builder = FrameBuilder(CAPTURED)
            builder.add_write(0, 0, bytes(4096), self.next_lsn)
            data = memoryview(builder.finish(first_lsn=self.next_lsn, epoch=1, position=self.next_lsn))
            header = parse_header(data)
            self.next_lsn += 1
            frame = Frame(header, data[: header.head_bytes], data[header.head_bytes :])
            self.thread.submit(Entry(frame, read_contents(frame.header, frame.head)))


@pytest.fixture
def bench() -> Any:
    made = Bench()
    yield made
    made.journal.hold.set()
    made.thread.stop()
    if made.thread.ident is not None:
        made.thread.join(10)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_frame_is_appended_then_committed_then_acknowledged(bench: Bench) -> None:
    bench.submit()
    bench.thread.start()
    until(lambda: len(bench.acks) == 1)
    assert bench.journal.done == ["fence new", "append 1", "commit", "ack 2"]


def test_what_queues_up_during_a_commit_shares_the_next_one(bench: Bench) -> None:
    bench.journal.hold.clear()
    bench.thread.start()
    bench.submit()
    until(lambda: "append 1" in bench.journal.done)
    bench.submit(20)
    bench.journal.hold.set()
    until(lambda: len(bench.acks) == 2)
    assert bench.thread.queued_bytes == 0
    assert bench.journal.done.count("commit") == 2
    assert [ack.next_lsn for ack in bench.acks] == [2, 22]


def test_the_queue_says_when_it_is_full(bench: Bench) -> None:
    assert bench.thread.has_room
    bench.submit(4096)
    assert not bench.thread.has_room
    bench.thread.start()
    until(lambda: bench.thread.has_room)


def test_without_space_nothing_more_is_acknowledged_and_it_goes_on_by_itself(bench: Bench) -> None:
    bench.journal.room = 3
    bench.submit(5)
    bench.thread.start()
    until(lambda: bool(bench.alarms))
    assert [ack.next_lsn for ack in bench.acks] == [4]
    assert bench.alarms == ["no space: no space"]
    bench.journal.room = 100
    until(lambda: bench.acks[-1].next_lsn == 6)
    until(lambda: bench.thread.queued_bytes == 0 and len(bench.alarms) == 2)
    assert bench.alarms == ["no space: no space", None]
    assert bench.failures == [None, None]


def test_a_commit_without_space_is_taken_back_and_tried_again(bench: Bench) -> None:
    bench.journal.fail_commits = 1
    bench.submit(3)
    bench.thread.start()
    until(lambda: bool(bench.acks) and len(bench.alarms) == 2)
    assert [ack.next_lsn for ack in bench.acks] == [4]
    assert bench.journal.done.count("append 1") == 2
    assert bench.alarms == ["no space: no space at fdatasync", None]


def test_stopping_writes_what_is_queued(bench: Bench) -> None:
    bench.submit(3)
    bench.thread.stop()
    bench.thread.start()
    bench.thread.join(10)
    assert bench.acks[-1].next_lsn == 4
    assert bench.journal.done[-1] == "close"


def test_stopping_without_space_does_not_wait_for_it(bench: Bench) -> None:
    bench.journal.room = 0
    bench.submit(3)
    bench.thread.start()
    until(lambda: bool(bench.alarms))
    bench.thread.stop()
    bench.thread.join(5)
    assert not bench.thread.is_alive()
    assert bench.acks == []


@pytest.mark.parametrize(
    ("error", "alarm"),
    [(JournalWriteFailed("disk died"), True), (OSError(5, "I/O"), True), (BadSequence("hole"), False)],
)
def test_any_other_failure_ends_the_session(bench: Bench, error: Exception, alarm: bool) -> None:
    bench.journal.error = error
    bench.submit()
    bench.thread.start()
    bench.thread.join(10)
    assert bench.failures == [error]
    assert (bench.alarms[0] is not None) == alarm
    assert bench.journal.done[-1] == "close"
    assert not bench.thread.wait_durable(1, time.monotonic() + 5)


def test_calls_are_done_between_commits_or_refused_at_the_end(bench: Bench) -> None:
    bench.thread.start()
    assert bench.thread.call(lambda journal: journal.next_lsn).result(10) == 1
    bench.thread.stop()
    bench.thread.join(10)
    with pytest.raises(JournalStoppedError):
        bench.thread.call(lambda journal: None).result(10)
