"""A tap's `hello`, checked field by field: everything in it was written by somebody else."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from guesttap import protocol
from guesttap.protocol import ProtocolError

MAX_U64 = (1 << 64) - 1
MAX_I64 = (1 << 63) - 1
_WORD = re.compile(r"[\x21-\x7e]{1,128}\Z")


@dataclass(frozen=True)
class Hello:
    """Who the tap is and what it can go on with (docs/protocol.md, "Messages"). Times in ns."""

    instance: str
    boot: str
    fence: str | None
    generation: int | None
    resume: int
    head: int
    whole: bool
    dirty_known: bool
    epoch: int | None
    wall: int
    mono: int
    agent: str = ""
    kernel: str = ""


def parse_hello(message: protocol.Message) -> Hello:
    """Return the checked hello. Raises ProtocolError naming the field that is wrong."""
    if message.get("protocol") != protocol.VERSION:
        said = message.get("protocol")
        raise ProtocolError(f"the tap speaks protocol {said!r}, this appliance {protocol.VERSION}")
    return Hello(
        instance=word(message, "instance"),
        boot=word(message, "boot"),
        fence=None if message.get("fence") is None else word(message, "fence"),
        generation=_optional(message, "generation", MAX_U64),
        resume=_optional(message, "resume", MAX_U64) or 0,
        head=_optional(message, "head", MAX_U64) or 0,
        whole=message.get("whole") is True,
        dirty_known=message.get("dirty_known") is True,
        epoch=_optional(message, "epoch", (1 << 32) - 1),
        wall=number(message, "wall", MAX_I64),
        mono=number(message, "mono", MAX_I64),
        agent=str(message.get("agent", ""))[:80],
        kernel=str(message.get("kernel", ""))[:80],
    )


def word(message: dict[str, Any], key: str) -> str:
    """Return a short printable text without spaces. Raises ProtocolError."""
    value = message.get(key)
    if not isinstance(value, str) or not _WORD.match(value):
        raise ProtocolError(f"{message.get('type')}: {key} is not a short word")
    return value


def number(message: dict[str, Any], key: str, most: int) -> int:
    """Return a whole number from 0 to `most`. Raises ProtocolError."""
    value = message.get(key)
    if type(value) is not int or not 0 <= value <= most:
        raise ProtocolError(f"{message.get('type')}: {key} is not a number from 0 to {most}")
    return value


def _optional(message: dict[str, Any], key: str, most: int) -> int | None:
    return None if message.get(key) is None else number(message, key, most)
