"""One tap's session, from its welcome to its end: the thread that owns the channel."""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import structlog

from guesttap.channel import Channel, ChannelClosed, Frame, Item
from guesttap.protocol import Message, ProtocolError
from guesttap.receiver.buffers import BufferPool
from guesttap.receiver.clock import ClockOffset
from guesttap.receiver.contents import read_contents
from guesttap.receiver.errors import TapNotConnectedError, TapRequestFailedError
from guesttap.receiver.hello import MAX_I64, number
from guesttap.receiver.journal_thread import Durable, Entry, JournalThread
from guesttap.receiver.reply import Reply, parse_reply
from guesttap.receiver.status import VmStatus
from journal import frame
from journal.errors import BadContent
from journal.notes import CutNote
from journal.writer import JournalWriter
from lastwrite.errors import LastwriteError

PING_SECONDS = 1.0
SILENCE_SECONDS = 20.0
"""A tap that answers no ping for so long is gone, whatever TCP believes."""
DRAIN_SECONDS = 15.0
CUTS_REMEMBERED = 1000

log = structlog.get_logger()


@dataclass
class _Asked:
    """A request to the tap and its reply; `after` counts the frames that came before the reply."""

    answered: threading.Event = field(default_factory=threading.Event)
    reply: Reply | None = None
    after: int = 0


class Session:
    """Takes one tap's frames into its journal. `run` is called by the connection's thread."""

    def __init__(
        self,
        vm_id: str,
        instance: str,
        channel: Channel,
        pool: BufferPool,
        journal: JournalWriter,
        status: VmStatus,
    ) -> None:
        self.vm_id = vm_id
        self.finished = threading.Event()
        self.distrust: str | None = None
        self._channel = channel
        self._status = status
        self._pool = pool
        self._clock = ClockOffset()
        self._asked: dict[int, _Asked] = {}
        self._ids = itertools.count(1)
        self._cuts: dict[int, int] = {}
        self._stop_reason: str | None = None
        self._failure: Exception | None = None
        self._received_before = status.received_bytes
        self._next_ping = 0.0
        self._pings: dict[int, int] = {}
        self._answered_ping = 0
        self._answered = threading.Condition()
        self._writer = JournalThread(journal, instance, pool, self._durable, self._event, vm_id)

    # --- for other threads

    def stop(self, reason: str) -> None:
        """End the session soon: what was received is written first. `finished` is set when it is over."""
        self._stop_reason = self._stop_reason or reason
        self._channel.wake()

    def is_alive(self, seconds: float) -> bool:
        """Ask the tap for a sign of life, now; False when none comes within `seconds`."""
        sent = time.monotonic_ns()
        self._channel.post({"type": "ping", "sent": sent, "offset": self._clock.value})
        deadline = time.monotonic() + seconds
        with self._answered:
            while self._answered_ping < sent and not self.finished.is_set():
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._answered.wait(min(left, 0.2))
            return self._answered_ping >= sent

    def request(self, do: str, label: str | None, kind: str | None, seconds: float) -> dict[str, Any]:
        """Have the tap do something; return its result once that is durable here.

        Raises TapRequestFailedError, TapNotConnectedError.
        """
        deadline = time.monotonic() + seconds
        number_, asked = next(self._ids), _Asked()
        self._asked[number_] = asked
        message = {"type": "request", "id": number_, "do": do, "label": label, "kind": kind}
        self._channel.post(message | {"deadline": int(seconds * 1e9)})
        try:
            while not asked.answered.wait(0.2):
                if self.finished.is_set():
                    raise TapNotConnectedError(f"the tap of {self.vm_id} went away before it answered")
                if time.monotonic() > deadline:
                    raise TapRequestFailedError(f"the tap did not answer {do} within {seconds:g} s")
        finally:
            self._asked.pop(number_, None)
        return self._result(do, asked, deadline)

    def bookmark(self, lsn: int, name: str) -> None:
        """Give a name to a point of the past, durably."""
        self._writer.call(lambda journal: journal.bookmark(lsn, name)).result(timeout=30)

    def _result(self, do: str, asked: _Asked, deadline: float) -> dict[str, Any]:
        reply = asked.reply
        if reply is None or not reply.ok:
            raise TapRequestFailedError(f"the tap could not do {do}: {reply.error if reply else 'no answer'}")
        result = reply.result
        if do == "detach":
            return result
        if not self._writer.wait_durable(asked.after, deadline):
            raise TapRequestFailedError(f"the {do} came, but did not become durable in time")
        if self._cuts.get(result.get("number") or -1) != result.get("lsn", -2):
            raise TapRequestFailedError(f"the tap says that it did {do}, but its cut is not in the stream")
        return result

    # --- the connection's thread

    def run(self) -> None:
        """Serve the tap until the connection, the tap or `stop` ends it. Raises nothing."""
        farewell: LastwriteError | None = None
        try:
            self._writer.start()
        except RuntimeError as error:  # no more threads
            log.error("no thread for the journal", vm=self.vm_id, reason=str(error))
            self._writer.finish()
        try:
            while not self._step():
                pass
        except ChannelClosed as error:
            log.info("the tap is away", vm=self.vm_id, reason=error.message)
        except LastwriteError as error:
            farewell = error
            log.warning("session refused", vm=self.vm_id, code=error.code, reason=error.message)
            if isinstance(error, BadContent):
                self.distrust = error.message
        except Exception:  # the journal's thread failed, or a defect
            log.exception("session failed", vm=self.vm_id)
        finally:
            self._end(farewell)

    def _step(self) -> bool:
        """One round of the channel; True when the session is to end."""
        if self._failure is not None:
            raise self._failure
        if self._writer.closed.is_set():
            raise TapNotConnectedError("the journal of this session is closed")
        if self._stop_reason is not None:
            raise TapNotConnectedError(self._stop_reason)
        self._channel.reading = self._writer.has_room
        self._ping()
        for item in self._channel.pump(max(0.0, self._next_ping - time.monotonic())):
            self._take(item)
        self._status.received_bytes = self._received_before + self._channel.received_bytes
        silent = time.monotonic() - self._channel.last_received
        if silent > SILENCE_SECONDS and self._channel.reading:
            raise ChannelClosed(f"the tap was silent for {silent:.0f} s")
        return False

    def _take(self, item: Item) -> None:
        if isinstance(item, Frame):
            frame.verify(*item)
            contents = read_contents(item.header, item.head)
            for note in contents.notes:
                if isinstance(note, CutNote):
                    self._cuts[note.number] = contents.notes_lsn
                    self._cuts.pop(note.number - CUTS_REMEMBERED, None)
            self._writer.submit(Entry(item, contents))
        elif item["type"] == "pong":
            self._pong(item)
        elif item["type"] == "reply":
            self._reply(item)
        elif item["type"] == "error":
            raise ChannelClosed(f"the tap ended it: {str(item.get('message'))[:300]}")
        else:
            raise ProtocolError(f"a tap may not send {item['type'][:40]!r} in a session")

    def _ping(self) -> None:
        now = time.monotonic()
        if now < self._next_ping:
            return
        self._next_ping = now + PING_SECONDS
        sent = time.monotonic_ns()
        self._pings[sent] = time.time_ns()
        while len(self._pings) > SILENCE_SECONDS:
            self._pings.pop(next(iter(self._pings)))
        self._channel.send_message({"type": "ping", "sent": sent, "offset": self._clock.value})

    def _pong(self, message: Message) -> None:
        received = time.monotonic_ns()
        sent, wall = number(message, "sent", MAX_I64), number(message, "wall", MAX_I64)
        number(message, "mono", MAX_I64)
        sent_wall = self._pings.pop(sent, None)
        if sent_wall is not None:
            self._clock.add(sent_wall, sent, received, wall)
        self._status.pong(message, self._clock.value)
        with self._answered:
            self._answered_ping = max(self._answered_ping, min(sent, received))
            self._answered.notify_all()

    def _reply(self, message: Message) -> None:
        reply = parse_reply(message)
        asked = self._asked.get(reply.id)
        if asked is not None:
            asked.reply = reply
            asked.after = self._writer.submitted
            asked.answered.set()

    def _end(self, farewell: LastwriteError | None) -> None:
        self._status.end_session()
        try:
            if farewell is not None:
                self._channel.send_message(error_message(farewell))
            self._channel.close(flush_seconds=1.0 if farewell is not None else 0.0)
        except (LastwriteError, OSError) as error:
            log.warning("closing the connection failed", vm=self.vm_id, reason=str(error))
        self._writer.stop()
        if not self._writer.closed.wait(DRAIN_SECONDS):
            log.error("the journal is still being written", vm=self.vm_id, seconds=DRAIN_SECONDS)
            self._writer.closed.wait()
        self.finished.set()

    # --- the writer's thread

    def _durable(self, durable: Durable) -> None:
        self._status.durable(durable.next_lsn, durable.batch)
        self._channel.post({"type": "ack", "lsn": durable.next_lsn, "position": durable.position})

    def _event(self, alarm: str | None, failure: Exception | None) -> None:
        self._status.alarm = alarm
        if alarm:
            log.error("alarm", vm=self.vm_id, alarm=alarm)
        elif failure is None:
            log.info("the alarm is over", vm=self.vm_id)
        self._failure = failure
        self._channel.wake()


def error_message(error: LastwriteError) -> Message:
    """Return the `error` message that tells the tap why the connection ends."""
    return {"type": "error", "code": error.code, "message": error.message}
