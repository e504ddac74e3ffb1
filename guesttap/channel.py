"""The item stream of the tap protocol over one socket, used at both ends (docs/protocol.md, "Items").

Owns the bytes between two processes: partial sends, TLS's own wishes to read or write, limits before
memory is taken. Knows nothing of what messages mean, and verifies no checksum. One thread owns a Channel
(a TLS object is not safe for two); other threads may only call `post` and `wake`.
Runs inside guests: Python 3.8, standard library, msgpack and xxhash.
"""

from __future__ import annotations

import collections
import os
import select
import socket
import ssl
import threading
import time
from typing import Callable, Deque, Iterable, List, NamedTuple, Optional, Protocol, Union

from guesttap import protocol
from guesttap.protocol import Message, ProtocolError
from journal import frame
from journal.frame import Buffer, FrameHeader
from lastwrite.errors import LastwriteError, UnavailableError

STAGING_BYTES = 256 << 10
SEND_SLICE = 256 << 10
SHORT_STAGING = 4096
"""Read ahead after a large frame: the next one is then received where it will stay, not copied there."""
RECEIVE_BUDGET = 4 << 20
"""Bytes that one `pump` takes at most, so that a fast peer cannot keep the owner from its other work."""

_BLOCKED = (BlockingIOError, InterruptedError)


class ChannelClosed(UnavailableError):
    """The connection ended; the message says how."""

    code = "channel-closed"
    hint = "Nothing acknowledged is lost: the agent connects again by itself and goes on where it was."


class Frame(NamedTuple):
    """A frame as it came: head and payload are views of one buffer, their checksums not yet verified."""

    header: FrameHeader
    head: memoryview
    payload: memoryview


Item = Union[Message, Frame]
Allocate = Callable[[int], Optional[memoryview]]


class ByteStream(Protocol):
    """What a channel needs of a socket: socket.socket, ssl.SSLSocket, or something that behaves as they do."""

    def fileno(self) -> int:
        """Return the descriptor to poll."""

    def setblocking(self, flag: bool) -> None:
        """Choose whether to wait."""

    def settimeout(self, seconds: float) -> None:
        """Choose how long to wait."""

    def send(self, data: memoryview) -> int:
        """Send; return how much was taken."""

    def recv_into(self, target: memoryview) -> int:
        """Receive; return how much, 0 at the end."""

    def recv(self, length: int) -> bytes:
        """Receive."""

    def shutdown(self, how: int) -> None:
        """End one direction."""

    def close(self) -> None:
        """Close."""


def _allocate(length: int) -> memoryview:
    return memoryview(bytearray(length))


class _Unfinished:
    """The item that is being received: `target` is filled up to `filled`."""

    def __init__(self, target: memoryview, header: Optional[FrameHeader]) -> None:  # noqa: UP045
        self.target = target
        self.header = header
        self.filled = 0

    def finish(self) -> Item:
        if self.header is None:
            return protocol.decode(bytes(self.target))
        size = self.header.head_bytes
        return Frame(self.header, self.target[:size], self.target[size:])


class Channel:
    """A stream of items over `sock`, which is connected and (with TLS) has finished its handshake.

    `allocate(length)` returns the writable memory of one frame that is being received, or None while there is
    none: nothing is received then, and each `pump` asks again. Attributes that the owner may set at any time:
    `reading` (False: take nothing from the peer, which is how it is slowed down), `allow_frames` (False: a frame
    is a ProtocolError), `message_limit` (bytes of one message's body). `received_bytes`, `sent_bytes` and
    `last_received` (time.monotonic()) tell what happened.
    """

    def __init__(
        self,
        sock: ByteStream,
        allocate: Allocate = _allocate,
        allow_frames: bool = True,
        message_limit: int = protocol.MAX_BODY_BYTES,
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._allocate = allocate
        self.allow_frames = allow_frames
        self.message_limit = message_limit
        self.reading = True
        self.received_bytes = 0
        self.sent_bytes = 0
        self.last_received = time.monotonic()
        self._staging = memoryview(bytearray(STAGING_BYTES))
        self._start = self._end = 0
        self._ahead = STAGING_BYTES
        self._starved = False
        self._more = False
        self._item: Optional[_Unfinished] = None  # noqa: UP045
        self._outgoing: Deque[memoryview] = collections.deque()  # noqa: UP006
        self._posted: Deque[Message] = collections.deque()  # noqa: UP006
        self._pending = 0
        self._send_wants = select.POLLOUT
        self._receive_wants = select.POLLIN
        self._failure: Optional[LastwriteError] = None  # noqa: UP045
        self._wake_lock = threading.Lock()
        self._wake_out, self._wake_in = os.pipe()
        os.set_blocking(self._wake_out, False)
        os.set_blocking(self._wake_in, False)
        self._closed = False

    def fileno(self) -> int:
        """Return the socket's descriptor (-1 once closed)."""
        return self._sock.fileno()

    @property
    def pending_bytes(self) -> int:
        """Bytes queued by send_message and send_frame that the kernel has not taken yet."""
        return self._pending

    def send_message(self, message: Message) -> None:
        """Queue one message; `pump` sends it. Raises ProtocolError when it is too long."""
        self._queue(memoryview(protocol.encode(message)))

    def send_frame(self, buffer: Buffer) -> None:
        """Queue the bytes of a whole frame; they are not copied, so leave them alone until they are sent."""
        self._queue(memoryview(buffer).cast("B"))

    def post(self, message: Message) -> None:
        """Have the owner's `pump` send a message, from any thread. Nothing happens once closed."""
        self._posted.append(message)
        self.wake()

    def wake(self) -> None:
        """Make the owner's `pump` return soon, from any thread."""
        with self._wake_lock:
            if not self._closed:
                try:
                    os.write(self._wake_in, b"w")
                except _BLOCKED:
                    pass  # the pipe is full of wake-ups already

    def pump(self, timeout: float, extra_fds: Iterable[int] = ()) -> List[Item]:  # noqa: UP006
        """Send and receive what is possible, waiting up to `timeout` seconds only while nothing moves.

        Returns the items received, possibly none. Returns early on a wake-up or when one of `extra_fds`
        is readable (look at your own descriptors after each call). Raises ChannelClosed when the connection
        has ended, ProtocolError or FrameError when the peer sent what cannot be read; items that came whole
        before the failure are returned first, and the failure is raised by the next call.
        """
        if self._closed:
            raise ChannelClosed("the connection is closed")
        items = self._move()
        # What is left after a full budget may lie in TLS's memory, where no poll sees it.
        more = self._more and self.reading
        if not items and not more and self._failure is None and timeout > 0:
            self._wait(timeout, extra_fds)
            items = self._move()
        if self._failure is not None and not items:
            raise self._failure
        return items

    def close(self, flush_seconds: float = 0.0) -> None:
        """Close the connection; with `flush_seconds`, send what is queued first, waiting no longer."""
        if self._closed:
            return
        if flush_seconds > 0:
            self._flush_and_drain(time.monotonic() + flush_seconds)
        with self._wake_lock:
            self._closed = True
            os.close(self._wake_in)
            os.close(self._wake_out)
        self._sock.close()
        self._outgoing.clear()
        self._pending = 0
        self._item = None
        self._staging = memoryview(b"")  # whoever still holds the channel shall not hold its memory

    def _queue(self, data: memoryview) -> None:
        self._outgoing.append(data)
        self._pending += len(data)

    def _move(self) -> List[Item]:  # noqa: UP006
        while self._posted:
            self.send_message(self._posted.popleft())
        items: List[Item] = []  # noqa: UP006
        self._attempt(self._send)
        if self.reading:
            # Even after a failed send: the peer's `error` message may still lie in our socket.
            self._attempt(lambda: self._receive(items))
        return items

    def _attempt(self, work: Callable[[], None]) -> None:
        try:
            work()
        except LastwriteError as error:
            self._failure = self._failure or error
        except OSError as error:
            self._failure = self._failure or ChannelClosed(f"the connection broke: {error}")

    def _wait(self, timeout: float, extra_fds: Iterable[int]) -> None:
        poll = select.poll()
        taking = self.reading and not self._starved
        events = self._receive_wants if taking else 0
        if self._outgoing:
            events |= self._send_wants
        poll.register(self._sock.fileno(), events)
        poll.register(self._wake_out, select.POLLIN)
        for descriptor in extra_fds:
            poll.register(descriptor, select.POLLIN)
        for descriptor, found in poll.poll(max(1, int(timeout * 1000))):
            if descriptor == self._wake_out:
                os.read(self._wake_out, 4096)
            elif descriptor == self._sock.fileno() and not taking and found & ~events:
                self._failure = ChannelClosed("the connection broke while the peer was held back")

    # --- sending

    def _send(self) -> None:
        while self._outgoing and not self._send_failed():
            # After "want" TLS insists on the same bytes again: the slice depends on what was taken alone.
            try:
                taken = self._sock.send(self._outgoing[0][:SEND_SLICE])
            except ssl.SSLWantReadError:
                self._send_wants = select.POLLIN
                return
            except (ssl.SSLWantWriteError, *_BLOCKED):
                self._send_wants = select.POLLOUT
                return
            self._send_wants = select.POLLOUT
            self._taken(taken)

    def _send_failed(self) -> bool:
        return self._failure is not None

    def _taken(self, count: int) -> None:
        self._pending -= count
        self.sent_bytes += count
        if count == len(self._outgoing[0]):
            self._outgoing.popleft()
        else:
            self._outgoing[0] = self._outgoing[0][count:]

    # --- receiving

    def _receive(self, items: List[Item]) -> None:  # noqa: UP006
        budget = RECEIVE_BUDGET
        self._starved = self._more = False
        while budget > 0:
            self._take_items(items)
            if self._starved:
                return
            count = self._receive_some()
            if count is None:
                return
            if count == 0:
                # A frame that came whole in the last bytes was taken above.
                raise ChannelClosed("the peer closed the connection" + self._torn())
            budget -= count
            self.received_bytes += count
            self.last_received = time.monotonic()
        self._more = True
        self._take_items(items)

    def _torn(self) -> str:
        return " in the middle of an item" if self._item is not None or self._start < self._end else ""

    def _receive_some(self) -> Optional[int]:  # noqa: UP045
        """Receive once, into the item or the staging memory; None when there is nothing now."""
        direct = self._item is not None
        if self._item is not None:
            target = self._item.target[self._item.filled :]
        else:
            self._make_room()
            target = self._staging[self._end : self._end + self._ahead]
        try:
            count = self._sock.recv_into(target)
        except ssl.SSLWantWriteError:
            self._receive_wants = select.POLLOUT
            return None
        except (ssl.SSLWantReadError, *_BLOCKED):
            self._receive_wants = select.POLLIN
            return None
        self._receive_wants = select.POLLIN
        if direct and self._item is not None:
            self._item.filled += count
        else:
            self._end += count
        return count

    def _make_room(self) -> None:
        """Move the start of a prefix (under 64 bytes) to the front, so that the rest fits behind it."""
        held = self._end - self._start
        if self._start:
            self._staging[:held] = bytes(self._staging[self._start : self._end])
            self._start, self._end = 0, held

    def _take_items(self, items: List[Item]) -> None:  # noqa: UP006
        """Take every whole item out of the staging memory, and the beginning of the next."""
        while True:
            if self._item is None and not self._begin_item():
                return
            item = self._item
            if item is None:
                return
            count = min(len(item.target) - item.filled, self._end - self._start)
            item.target[item.filled : item.filled + count] = self._staging[self._start : self._start + count]
            item.filled += count
            self._start += count
            if item.filled < len(item.target):
                return
            self._item = None
            self._ahead = SHORT_STAGING if item.filled > STAGING_BYTES else STAGING_BYTES
            items.append(item.finish())

    def _begin_item(self) -> bool:
        """Look at the next prefix; return whether an item began. Raises ProtocolError or FrameError."""
        held = self._end - self._start
        if held < protocol.PREFIX_BYTES:
            return False
        prefix = bytes(self._staging[self._start : self._start + frame.HEADER_BYTES])
        if prefix[:4] != frame.MAGIC:
            length = protocol.body_bytes(prefix[: protocol.PREFIX_BYTES])
            if length > self.message_limit:
                raise ProtocolError(f"a message of {length} bytes is too long here ({self.message_limit})")
            self._start += protocol.PREFIX_BYTES
            self._item = _Unfinished(memoryview(bytearray(length)), None)
            return True
        if not self.allow_frames:
            raise ProtocolError("a frame came where none is allowed")
        if held < frame.HEADER_BYTES:
            return False
        header = frame.parse_header(prefix)
        if header.kind not in frame.FROM_TAPS:
            raise ProtocolError(f"a frame of kind {header.kind} came, which no tap sends")
        memory = self._allocate(header.frame_bytes)
        self._starved = memory is None
        if memory is None:
            return False
        self._item = _Unfinished(memory, header)
        return True

    # --- closing

    def _flush_and_drain(self, deadline: float) -> None:
        """Send the rest, then swallow what the peer still sends: closing over it would reset the connection
        and take our last message from the peer."""
        self.reading = False
        while self._outgoing and self._failure is None and time.monotonic() < deadline:
            self._attempt(self._send)
            if self._outgoing and self._failure is None:
                self._wait(min(0.2, max(0.0, deadline - time.monotonic())), ())
        try:
            self._sock.shutdown(socket.SHUT_WR)
            while time.monotonic() < deadline:
                self._sock.settimeout(max(0.01, deadline - time.monotonic()))
                if not self._sock.recv(STAGING_BYTES):
                    return
        except OSError:
            return
