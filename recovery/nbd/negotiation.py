"""The handshake of a connection (fixed newstyle): from the greeting to the chosen export.

Hostile input costs a bounded amount: options, their lengths and their number are limited, and the whole
handshake has a deadline (which the server sets on the link).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lastwrite.errors import LastwriteError
from recovery.nbd import wire
from recovery.nbd.exports import Export, ExportSource
from recovery.nbd.link import Link, LinkClosed
from recovery.nbd.wire import Info, Option, Reply

MAX_OPTION_BYTES = 16 << 10
MAX_DRAINED_BYTES = 1 << 20
MAX_OPTIONS = 128
MAX_NAME_BYTES = 4096
MAX_QUERIES = 64


@dataclass(frozen=True)
class Session:
    """What a handshake agreed on."""

    export: Export
    structured: bool
    allocation: bool


class _Refused(Exception):
    """An option is answered with an error; the handshake goes on."""

    def __init__(self, reply: Reply, message: str) -> None:
        super().__init__(message)
        self.reply = reply


class _Fields:
    """Reads the fields of an option's data; anything that does not fit is ERR_INVALID."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, length: int) -> bytes:
        if length > len(self._data) - self._at:
            raise _Refused(Reply.ERR_INVALID, "the option is shorter than the lengths in it say")
        self._at += length
        return self._data[self._at - length : self._at]

    def u16(self) -> int:
        return int(wire.U16.unpack(self.take(2))[0])

    def u32(self) -> int:
        return int(wire.U32.unpack(self.take(4))[0])

    def text(self) -> str:
        length = self.u32()
        if length > MAX_NAME_BYTES:
            raise _Refused(Reply.ERR_INVALID, f"a name has at most {MAX_NAME_BYTES} bytes")
        return _decode(self.take(length))

    def end(self) -> None:
        if self._at != len(self._data):
            raise _Refused(Reply.ERR_INVALID, "the option is longer than it should be")


def _decode(name: bytes) -> str:
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _Refused(Reply.ERR_INVALID, "a name is UTF-8") from error


class Negotiation:
    """One handshake. `run` returns the Session, or None when the client leaves politely."""

    def __init__(self, link: Link, source: ExportSource) -> None:
        self._link = link
        self._source = source
        self._structured = False
        self._context_of: str | None = None
        self._option = 0
        self._no_zeroes = False
        self._handlers: dict[int, Callable[[bytes], None]] = {
            Option.LIST: self._list,
            Option.INFO: self._info,
            Option.STRUCTURED_REPLY: self._structured_reply,
            Option.LIST_META_CONTEXT: self._list_contexts,
            Option.SET_META_CONTEXT: self._set_context,
        }

    def run(self) -> Session | None:
        """Negotiate until an export is chosen. Raises LinkClosed on anything that cannot go on."""
        self._greet()
        for _ in range(MAX_OPTIONS):
            data = self._next_option()
            if data is None:
                continue
            if self._option == Option.ABORT:
                self._reply(Reply.ACK)
                return None
            if self._option == Option.EXPORT_NAME:
                return self._export_name(data)
            session = self._answer(data)
            if session:
                return session
        raise LinkClosed(f"more than {MAX_OPTIONS} options")

    def _greet(self) -> None:
        flags = wire.FIXED_NEWSTYLE | wire.NO_ZEROES
        self._link.send([wire.GREETING.pack(wire.NBDMAGIC, wire.IHAVEOPT, flags)])
        (client,) = wire.CLIENT_FLAGS.unpack(self._link.take(4))
        if client & ~flags:
            raise LinkClosed(f"unknown client flags {client:#x}")
        self._no_zeroes = bool(client & wire.NO_ZEROES)

    def _next_option(self) -> bytes | None:
        """Return the next option's data; None when it was too long and has been answered."""
        magic, self._option, length = wire.OPTION.unpack(self._link.take(wire.OPTION.size))
        if magic != wire.IHAVEOPT:
            raise LinkClosed("no option begins here")
        if length > MAX_DRAINED_BYTES:
            raise LinkClosed(f"an option of {length} bytes")
        if length > MAX_OPTION_BYTES:
            self._link.drain(length)
            self._reply(Reply.ERR_TOO_BIG, f"an option has at most {MAX_OPTION_BYTES} bytes".encode())
            return None
        return self._link.take(length)

    def _answer(self, data: bytes) -> Session | None:
        try:
            if self._option == Option.GO:
                return self._go(data)
            handler = self._handlers.get(self._option)
            if handler is None:
                raise _Refused(Reply.ERR_UNSUP, f"option {self._option} is not known here")
            handler(data)
        except _Refused as refused:
            self._reply(refused.reply, str(refused).encode()[:MAX_NAME_BYTES])
        return None

    def _reply(self, reply: Reply, data: bytes = b"") -> None:
        head = wire.OPTION_REPLY.pack(wire.OPTION_REPLY_MAGIC, self._option, reply, len(data))
        self._link.send([head + data])

    def _open(self, name: str) -> Export:
        try:
            return self._source.open(name)
        except LastwriteError as error:
            raise _Refused(Reply.ERR_UNKNOWN, f"{error.message}. {error.hint}") from error

    def _session(self, name: str, export: Export) -> Session:
        # A context that was chosen for another export does not count for this one.
        return Session(export, self._structured, self._structured and self._context_of == name)

    def _flags(self, export: Export) -> int:
        flags = wire.HAS_FLAGS | wire.READ_ONLY
        if self._structured:
            flags |= wire.SEND_DF
        return flags | (0 if export.floating else wire.CAN_MULTI_CONN)

    def _export_name(self, data: bytes) -> Session:
        try:
            name = _decode(data)
            export = self._open(name)
        except _Refused as refused:
            raise LinkClosed(str(refused)) from refused
        answer = wire.EXPORT_NAME_REPLY.pack(export.view.disk_bytes, self._flags(export))
        self._link.send([answer if self._no_zeroes else answer + bytes(124)])
        return self._session(name, export)

    def _info(self, data: bytes) -> None:
        self._describe(data)

    def _go(self, data: bytes) -> Session:
        return self._session(*self._describe(data))

    def _describe(self, data: bytes) -> tuple[str, Export]:
        fields = _Fields(data)
        name = fields.text()
        asked = [fields.u16() for _ in range(fields.u16())]
        fields.end()
        export = self._open(name)
        if Info.NAME in asked:
            self._reply(Reply.INFO, wire.U16.pack(Info.NAME) + name.encode())
        if Info.DESCRIPTION in asked:
            text = export.description.encode()[:MAX_NAME_BYTES]
            self._reply(Reply.INFO, wire.U16.pack(Info.DESCRIPTION) + text)
        sizes = (1, wire.PREFERRED_BYTES, wire.MAX_REQUEST_BYTES)
        self._reply(Reply.INFO, wire.BLOCK_SIZE_INFO.pack(Info.BLOCK_SIZE, *sizes))
        self._reply(
            Reply.INFO, wire.EXPORT_INFO.pack(Info.EXPORT, export.view.disk_bytes, self._flags(export))
        )
        self._reply(Reply.ACK)
        return name, export

    def _list(self, data: bytes) -> None:
        _Fields(data).end()
        for name, description in self._source.names():
            raw = name.encode()
            self._reply(Reply.SERVER, wire.U32.pack(len(raw)) + raw + description.encode())
        self._reply(Reply.ACK)

    def _structured_reply(self, data: bytes) -> None:
        _Fields(data).end()
        self._structured = True
        self._reply(Reply.ACK)

    def _queries(self, data: bytes) -> tuple[str, list[str]]:
        if not self._structured:
            raise _Refused(Reply.ERR_INVALID, "ask for structured replies first")
        fields = _Fields(data)
        name = fields.text()
        count = fields.u32()
        if count > MAX_QUERIES:
            raise _Refused(Reply.ERR_TOO_BIG, f"at most {MAX_QUERIES} queries")
        queries = [fields.text() for _ in range(count)]
        fields.end()
        self._open(name)
        return name, queries

    def _list_contexts(self, data: bytes) -> None:
        _, queries = self._queries(data)
        if not queries or {"base:", "base:allocation"} & set(queries):
            self._reply(Reply.META_CONTEXT, wire.U32.pack(0) + wire.META_CONTEXT)
        self._reply(Reply.ACK)

    def _set_context(self, data: bytes) -> None:
        self._context_of = None
        name, queries = self._queries(data)
        if "base:allocation" in queries:
            self._context_of = name
            self._reply(Reply.META_CONTEXT, wire.U32.pack(wire.META_CONTEXT_ID) + wire.META_CONTEXT)
        self._reply(Reply.ACK)
