"""Messages of the tap protocol (docs/protocol.md): their bytes, their limits. Runs inside guests: Python 3.8."""

from __future__ import annotations

import struct
from typing import Any, Dict

import msgpack

from lastwrite.errors import IntegrityError

VERSION = 1
MAGIC = b"LWMS"
PREFIX_BYTES = 8
MAX_BODY_BYTES = 1 << 20

_PREFIX = struct.Struct("<4sI")

Message = Dict[str, Any]


class ProtocolError(IntegrityError):
    """The other side sent something that the protocol does not allow."""

    code = "protocol"
    hint = "Both sides must run versions that speak the same protocol; upgrade the older one."


def encode(message: Message) -> bytes:
    """Return the bytes of one message; it has a key `type`."""
    body: bytes = msgpack.packb(message)
    if len(body) > MAX_BODY_BYTES:
        raise ProtocolError(f"a message {message['type']} of {len(body)} bytes is too long to send")
    return _PREFIX.pack(MAGIC, len(body)) + body


def body_bytes(prefix: bytes) -> int:
    """Return the length of the body that follows an 8-byte prefix. Raises ProtocolError."""
    magic, length = _PREFIX.unpack(prefix)
    if magic != MAGIC or length > MAX_BODY_BYTES:
        raise ProtocolError(f"no message begins here (magic {magic!r}, length {length})")
    return int(length)


def decode(body: bytes) -> Message:
    """Return the message in `body`. Raises ProtocolError."""
    try:
        message = msgpack.unpackb(body)
    except (ValueError, msgpack.UnpackException) as error:
        raise ProtocolError(f"a message is not msgpack: {error}") from error
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise ProtocolError("a message has no type")
    return message
