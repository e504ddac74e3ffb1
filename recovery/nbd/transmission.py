"""The transmission phase of one connection: requests in, replies out.

Owns the promise that a client gets the right bytes or an error: every buffer of a reply is fetched, and so
verified, before its first byte is sent.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import structlog

from lastwrite.errors import LastwriteError
from recovery.nbd import wire
from recovery.nbd.link import Buffer, Link, LinkClosed
from recovery.nbd.negotiation import Session
from recovery.nbd.wire import Chunk, Command, CommandFlag

# A hole smaller than this is sent as zeros: a chunk of its own costs more than it saves.
MIN_HOLE_BYTES = 32 << 10
MAX_STATUS_EXTENTS = 4096
MAX_STATUS_BYTES = 1 << 30  # of the disk at once: a server may answer for less than it was asked
MAX_BATCH_BUFFERS = 2048
MAX_BATCH_BYTES = 4 << 20
MAX_LOGGED = 100

log = structlog.get_logger("recovery.nbd")

Extent = tuple[int, int, bool]


class _Failed(Exception):
    """One request fails with an NBD error number; the connection goes on."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number


class Transmission:
    """Serves the requests of one connection until it ends."""

    def __init__(self, link: Link, session: Session, peer: str = "") -> None:
        self._link = link
        self._export = session.export
        self._view = session.export.view
        self._structured = session.structured
        self._allocation = session.allocation
        self._peer = peer
        self._logged: set[str] = set()
        self._out: list[Buffer] = []
        self._out_bytes = 0

    def run(self) -> None:
        """Answer until the client disconnects. Raises LinkClosed when it does so without a word."""
        while self._one_request():
            waiting = self._link.buffered >= wire.REQUEST.size
            if not waiting or len(self._out) > MAX_BATCH_BUFFERS or self._out_bytes > MAX_BATCH_BYTES:
                self._flush()
        self._flush()

    def _flush(self) -> None:
        self._link.send(self._out)
        self._out = []
        self._out_bytes = 0

    def _one_request(self) -> bool:
        """Take one request and queue its reply; False when it asks for the end."""
        fields = wire.REQUEST.unpack(self._link.take(wire.REQUEST.size))
        magic, flags, kind, cookie, offset, length = fields
        if magic != wire.REQUEST_MAGIC:
            raise LinkClosed("no request begins here")
        if kind == Command.DISC:
            return False
        if kind == Command.WRITE:
            self._skip_data(length)
        try:
            self._answer(flags, kind, cookie, offset, length)
        except _Failed as failed:
            self._error(cookie, failed.number, str(failed))
        except LastwriteError as error:
            self._refused(error.code, error.message, offset, length)
            self._error(cookie, wire.EIO, error.message)
        except (OSError, MemoryError) as error:
            self._refused("system", f"reading the journal failed: {error}", offset, length)
            self._error(cookie, wire.EIO, f"reading the journal failed: {error}")
        return True

    def _skip_data(self, length: int) -> None:
        if length > wire.MAX_REQUEST_BYTES:
            raise LinkClosed(f"a write of {length} bytes")
        self._link.drain(length)

    def _answer(self, flags: int, kind: int, cookie: bytes, offset: int, length: int) -> None:
        if kind in (Command.WRITE, Command.TRIM, Command.WRITE_ZEROES):
            raise _Failed(wire.EPERM, "a view cannot be written")
        if kind == Command.READ:
            self._check(flags & ~(CommandFlag.DF if self._structured else 0), offset, length)
            if length > wire.MAX_REQUEST_BYTES:
                raise _Failed(wire.EOVERFLOW, f"at most {wire.MAX_REQUEST_BYTES} bytes at once")
            self._read(cookie, offset, length, whole=bool(flags & CommandFlag.DF))
        elif kind == Command.BLOCK_STATUS and self._allocation:
            self._check(flags & ~CommandFlag.REQ_ONE, offset, length)
            self._status(cookie, offset, length, one=bool(flags & CommandFlag.REQ_ONE))
        else:
            raise _Failed(wire.EINVAL, f"request {kind} is not known here")

    def _check(self, unknown_flags: int, offset: int, length: int) -> None:
        if unknown_flags:
            raise _Failed(wire.EINVAL, f"unknown flags {unknown_flags:#x}")
        if not length or offset + length > self._view.disk_bytes:
            raise _Failed(wire.EINVAL, f"{length} bytes at {offset} are not inside the disk")

    # -- replies ------------------------------------------------------------------------------------

    def _queue(self, buffers: list[Buffer], payload_bytes: int) -> None:
        self._out += buffers
        self._out_bytes += payload_bytes

    def _chunk(self, cookie: bytes, kind: Chunk, payload_bytes: int, last: bool) -> bytes:
        flags = wire.CHUNK_DONE if last else 0
        return wire.CHUNK.pack(wire.CHUNK_MAGIC, flags, kind, cookie, payload_bytes)

    def _error(self, cookie: bytes, number: int, message: str) -> None:
        if not self._structured:
            self._queue([wire.SIMPLE_REPLY.pack(wire.SIMPLE_REPLY_MAGIC, number, cookie)], 0)
            return
        text = message.encode()[:1024]
        payload = wire.ERROR_CHUNK.pack(number, len(text)) + text
        self._queue([self._chunk(cookie, Chunk.ERROR, len(payload), last=True) + payload], 0)

    def _read(self, cookie: bytes, offset: int, length: int, whole: bool) -> None:
        if not self._structured:
            head = wire.SIMPLE_REPLY.pack(wire.SIMPLE_REPLY_MAGIC, 0, cookie)
            self._queue([head, *self._view.pieces(offset, length)], length)
            return
        # A small read holds no hole that is worth a chunk: looking for one would cost more than the read.
        single = whole or length < MIN_HOLE_BYTES
        parts = [(offset, length, True)] if single else _joined(self._view.extents(offset, length))
        buffers: list[Buffer] = []
        for number, (start, size, data) in enumerate(parts, 1):
            last = number == len(parts)
            if data:
                head = self._chunk(cookie, Chunk.OFFSET_DATA, wire.OFFSET.size + size, last)
                buffers += [head + wire.OFFSET.pack(start), *self._view.pieces(start, size)]
            else:
                head = self._chunk(cookie, Chunk.OFFSET_HOLE, wire.HOLE.size, last)
                buffers.append(head + wire.HOLE.pack(start, size))
        self._queue(buffers, length)

    def _status(self, cookie: bytes, offset: int, length: int, one: bool) -> None:
        limit = 1 if one else MAX_STATUS_EXTENTS
        extents = self._view.extents(offset, min(length, MAX_STATUS_BYTES))
        payload = bytearray(wire.U32.pack(wire.META_CONTEXT_ID))
        for _, size, data in itertools.islice(extents, limit):
            payload += wire.U32.pack(size) + wire.U32.pack(0 if data else wire.STATE_HOLE_ZERO)
        head = self._chunk(cookie, Chunk.BLOCK_STATUS, len(payload), last=True)
        self._queue([head + payload], 0)

    def _refused(self, code: str, reason: str, offset: int, length: int) -> None:
        """Log a failed read with its reason, each reason once per connection."""
        if reason in self._logged or len(self._logged) >= MAX_LOGGED:
            return
        self._logged.add(reason)
        where = {"export": self._export.name, "peer": self._peer, "offset": offset, "length": length}
        log.error("read refused", code=code, reason=reason, **where)


def _joined(extents: Iterator[Extent]) -> list[Extent]:
    """Return the extents with small holes taken as data, neighbours of a kind joined."""
    parts: list[Extent] = []
    for start, size, data in extents:
        kept = data or size < MIN_HOLE_BYTES
        if parts and parts[-1][2] and kept:
            parts[-1] = (parts[-1][0], parts[-1][1] + size, True)
        else:
            parts.append((start, size, kept))
    return parts
