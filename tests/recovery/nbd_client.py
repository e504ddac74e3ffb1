"""A small NBD client that says exactly what a test tells it to, right or wrong."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import NamedTuple

HANDSHAKE = struct.Struct(">QQH")
IHAVEOPT = 0x49484156454F5054
GO, LIST, ABORT, INFO, STRUCTURED, LIST_META, SET_META, EXPORT_NAME = 7, 3, 2, 6, 8, 9, 10, 1
ACK, SERVER, INFO_REPLY, META = 1, 2, 3, 4
UNSUP, INVALID, UNKNOWN, TOO_BIG = (1 << 31 | n for n in (1, 3, 6, 9))
EPERM, EIO, EINVAL, EOVERFLOW = 1, 5, 22, 75


class OptionReply(NamedTuple):
    kind: int
    data: bytes


@dataclass(frozen=True)
class Chunk:
    flags: int
    kind: int
    payload: bytes


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack(">I", len(raw)) + raw


def go_data(name: str, *infos: int) -> bytes:
    return text(name) + struct.pack(f">H{len(infos)}H", len(infos), *infos)


def meta_data(name: str, *queries: str) -> bytes:
    return text(name) + struct.pack(">I", len(queries)) + b"".join(map(text, queries))


class Client:
    def __init__(self, address: tuple[str, int], flags: int = 3) -> None:
        self.sock = socket.create_connection(address, timeout=10)
        try:
            assert HANDSHAKE.unpack(self.take(18)) == (0x4E42444D41474943, IHAVEOPT, 3)
            self.sock.sendall(struct.pack(">I", flags))
        except BaseException:
            self.sock.close()
            raise

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def take(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            got = self.sock.recv(length - len(data))
            if not got:
                raise EOFError(f"{len(data)} of {length} bytes")
            data += got
        return data

    def closed(self) -> bool:
        """Whether the server closes the connection, whatever it says before."""
        try:
            while self.sock.recv(65536):
                pass
        except ConnectionResetError:
            pass
        return True

    def send_option(self, option: int, data: bytes = b"", length: int | None = None) -> None:
        size = len(data) if length is None else length
        self.sock.sendall(struct.pack(">QII", IHAVEOPT, option, size) + data)

    def reply(self) -> OptionReply:
        magic, _, kind, length = struct.unpack(">QIII", self.take(20))
        assert magic == 0x3E889045565A9
        return OptionReply(kind, self.take(length))

    def option(self, option: int, data: bytes = b"") -> list[OptionReply]:
        """Send an option and return its replies, to the last one."""
        self.send_option(option, data)
        replies = [self.reply()]
        while replies[-1].kind != ACK and replies[-1].kind < 1 << 31:
            replies.append(self.reply())
        return replies

    def go(self, name: str, structured: bool = True, allocation: bool = False) -> int:
        """Choose an export; return its transmission flags."""
        if structured:
            assert self.option(STRUCTURED)[-1].kind == ACK
        if allocation:
            assert self.option(SET_META, meta_data(name, "base:allocation"))[-1].kind == ACK
        replies = self.option(GO, go_data(name))
        assert replies[-1].kind == ACK, replies
        facts = [reply.data for reply in replies if reply.data[:2] == b"\0\0" and reply.kind == INFO_REPLY]
        return int(struct.unpack(">HQH", facts[0])[2])

    def send_request(self, kind: int, offset: int, length: int, flags: int = 0, cookie: int = 7) -> None:
        self.sock.sendall(struct.pack(">IHHQQI", 0x25609513, flags, kind, cookie, offset, length))

    def simple(self, length: int = 0) -> tuple[int, bytes]:
        """Take a simple reply; return (error, data)."""
        magic, error, cookie = struct.unpack(">IIQ", self.take(16))
        assert (magic, cookie) == (0x67446698, 7)
        return error, b"" if error else self.take(length)

    def chunks(self) -> list[Chunk]:
        """Take the chunks of one structured reply."""
        found: list[Chunk] = []
        while not found or not found[-1].flags & 1:
            magic, flags, kind, cookie, length = struct.unpack(">IHHQI", self.take(20))
            assert (magic, cookie) == (0x668E33EF, 7)
            found.append(Chunk(flags, kind, self.take(length)))
        return found

    def request(self, kind: int, offset: int, length: int, flags: int = 0) -> list[Chunk]:
        self.send_request(kind, offset, length, flags)
        return self.chunks()


def error_of(chunks: list[Chunk]) -> tuple[int, str]:
    """Return (number, message) of an error chunk."""
    assert [chunk.kind for chunk in chunks] == [1 << 15 | 1]
    number, length = struct.unpack_from(">IH", chunks[0].payload)
    return number, chunks[0].payload[6 : 6 + length].decode()


def assemble(chunks: list[Chunk], offset: int, length: int) -> bytes:
    """Put the chunks of a read together."""
    data = bytearray(b"?" * length)
    for chunk in chunks:
        (start,) = struct.unpack_from(">Q", chunk.payload)
        if chunk.kind == 1:
            content = chunk.payload[8:]
        else:
            assert chunk.kind == 2
            content = bytes(struct.unpack_from(">I", chunk.payload, 8)[0])
        data[start - offset : start - offset + len(content)] = content
    assert len(data) == length
    return bytes(data)
