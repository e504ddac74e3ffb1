"""The thread that owns a session's JournalWriter: append everything queued, commit once, acknowledge.

With no space left (JournalFull) it keeps what is queued, acknowledges nothing, and tries again every second;
the bounded queue then holds the tap back, whose ring overflows as the protocol describes. Any other failure
ends the session: the journal's own recovery on the next open decides what is kept.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

import structlog

from guesttap.channel import Frame
from guesttap.receiver.buffers import BufferPool
from guesttap.receiver.contents import Contents
from guesttap.receiver.decide import fence_settled
from journal.errors import JournalFull
from journal.writer import JournalWriter
from lastwrite.errors import LastwriteError, RefusedError, UnavailableError

QUEUE_BYTES = 16 << 20
RETRY_SECONDS = 1.0

log = structlog.get_logger()


class JournalStoppedError(UnavailableError):
    """The session ended before this was done."""

    code = "session-ended"
    hint = "Try again: the tap connects again by itself."


class Entry(NamedTuple):
    """A frame on its way into the journal, its checksums and contents found right."""

    frame: Frame
    contents: Contents


class Durable(NamedTuple):
    """What one commit made durable: the journal's next LSN, the tap's position, and the frames."""

    next_lsn: int
    position: int
    batch: list[Contents]


class JournalThread(threading.Thread):
    """Writes one session's frames. `on_durable` and `on_event` are called on this thread.

    `on_event(alarm, failure)`: an alarm began (a text) or ended (None); `failure` when the session must end.
    """

    def __init__(
        self,
        journal: JournalWriter,
        instance: str,
        pool: BufferPool,
        on_durable: Callable[[Durable], None],
        on_event: Callable[[str | None, Exception | None], None],
        name: str,
    ) -> None:
        super().__init__(name=f"journal-{name}", daemon=True)
        self._journal = journal
        self._instance = instance
        self._pool = pool
        self._on_durable = on_durable
        self._on_event = on_event
        self._changed = threading.Condition()
        self._queue: deque[Entry] = deque()
        self._calls: deque[tuple[Callable[[JournalWriter], Any], Future[Any]]] = deque()
        self._stopping = False
        self._full = False
        self.queued_bytes = 0
        self.submitted = 0
        self.closed = threading.Event()
        self._done = 0

    @property
    def has_room(self) -> bool:
        """Whether the queue is below its bound: the channel is read only then."""
        return self.queued_bytes < QUEUE_BYTES

    def submit(self, entry: Entry) -> None:
        """Queue one frame."""
        with self._changed:
            self._queue.append(entry)
            self.queued_bytes += entry.frame.header.frame_bytes
            self.submitted += 1
            self._changed.notify_all()

    def call(self, work: Callable[[JournalWriter], Any]) -> Future[Any]:
        """Have `work` done with the writer between two commits; the future has its result."""
        future: Future[Any] = Future()
        with self._changed:
            if self._stopping:
                future.set_exception(JournalStoppedError("the session is ending"))
            else:
                self._calls.append((work, future))
                self._changed.notify_all()
        return future

    def wait_durable(self, count: int, deadline: float) -> bool:
        """Wait until the first `count` frames are durable; False at `deadline` (time.monotonic())."""
        with self._changed:
            while self._done < count and not self.closed.is_set() and time.monotonic() < deadline:
                self._changed.wait(max(0.0, min(1.0, deadline - time.monotonic())))
            return self._done >= count

    def stop(self) -> None:
        """End after what is queued is written (or at once when there is no space). Returns immediately."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def run(self) -> None:
        """Work until stopped or failed; closes the journal, whatever happened."""
        try:
            while self._step():
                pass
        except RefusedError as error:  # the frame's fault (BadSequence, BadContent), not the journal's
            self._on_event(None, error)
        except (LastwriteError, OSError) as error:
            self._on_event(f"the journal cannot be written: {error}", error)
        except Exception as error:  # a defect ends the session too: it must not go on without a writer
            log.exception("defect in the journal's thread")
            self._on_event(f"the journal cannot be written: {error!r}", error)
        finally:
            self.finish()

    def finish(self) -> None:
        """Close the journal and let everybody go who waits: the end of `run`, or instead of it."""
        with self._changed:
            self._stopping = True
            calls = list(self._calls)
            self._calls.clear()
            self._changed.notify_all()
        for _, future in calls:
            future.set_exception(JournalStoppedError("the session is ending"))
        try:
            self._journal.close()
        except (LastwriteError, OSError) as error:
            log.error("closing the journal failed", error=str(error))
        self.closed.set()

    def _step(self) -> bool:
        """Write one batch and do one round of calls; False when it is time to end."""
        with self._changed:
            while not (self._queue or self._calls or self._stopping):
                self._changed.wait()
            if self._stopping and (self._full or not (self._queue or self._calls)):
                return False
            batch = list(self._queue)
            calls = list(self._calls)
            self._calls.clear()
        if batch:
            self._write(batch)
        for work, future in calls:
            _call(work, self._journal, future)
        if self._full:
            with self._changed:
                self._changed.wait(RETRY_SECONDS)
        return True

    def _write(self, batch: list[Entry]) -> None:
        """Append what there is space for, commit, and acknowledge what the journal then holds."""
        frames = [entry.frame for entry in batch]
        marks = [(0, _mark(self._journal))]
        full: JournalFull | None = None
        try:
            while (done := marks[-1][0]) < len(frames):
                self._settle_fence()
                done += self._journal.append_all(frames[done:])
                marks.append((done, _mark(self._journal)))
        except JournalFull as error:
            full = error
        try:
            self._journal.commit()
        except JournalFull as error:
            full = error
        # What found no space was taken back by the journal: where it stands says which frames it kept.
        stands = _mark(self._journal)
        kept = max(count for count, mark in marks if mark == stands)
        if kept:
            self._acknowledge(batch[:kept])
        self._note_space(full)

    def _settle_fence(self) -> None:
        """Before the first frame under a new fence: only that fence counts from here on."""
        settled = fence_settled(self._journal.fence)
        if settled is not None:
            self._journal.set_fence(settled, self._instance)

    def _acknowledge(self, written: list[Entry]) -> None:
        contents = [entry.contents for entry in written]
        with self._changed:
            for entry in written:
                self._queue.popleft()
                self.queued_bytes -= entry.frame.header.frame_bytes
                self._pool.give_back(entry.frame.head)
        # After that: it wakes the channel, which looks whether there is room.
        self._on_durable(Durable(self._journal.next_lsn, self._journal.position, contents))
        with self._changed:
            self._done += len(written)
            self._changed.notify_all()

    def _note_space(self, full: JournalFull | None) -> None:
        """Begin or end the alarm when space ran out or came back."""
        if bool(full) == self._full:
            return
        self._full = full is not None
        self._on_event(f"no space: {full.message}" if full else None, None)


def _mark(journal: JournalWriter) -> tuple[object, ...]:
    """Return where a journal stands; no two frames that say anything new leave the same mark."""
    return (journal.next_lsn, journal.next_cut, journal.epoch, journal.epoch_open, journal.valid,
            journal.position, journal.sync_cursor)  # fmt: skip


def _call(work: Callable[[JournalWriter], Any], journal: JournalWriter, future: Future[Any]) -> None:
    try:
        future.set_result(work(journal))
    except Exception as error:  # the caller gets whatever it was
        future.set_exception(error)
