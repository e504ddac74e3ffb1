"""A tap's `reply` to a request, checked field by field: everything in it was written by somebody else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from guesttap.protocol import Message, ProtocolError
from guesttap.receiver.hello import MAX_I64, number

MAX_MESSAGES = 64
_NUMBERS = ("lsn", "number", "wall", "mono", "frozen")


@dataclass(frozen=True)
class Reply:
    """What a tap answered. `result`: lsn, number, wall, mono, frozen (ns), consistency, messages, as far as given."""

    id: int
    ok: bool
    result: dict[str, Any]
    error: str


def parse_reply(message: Message) -> Reply:
    """Return the checked reply. Raises ProtocolError naming what is wrong."""
    found = message.get("result")
    if found is not None and not isinstance(found, dict):
        raise ProtocolError("reply: result is not a map")
    return Reply(
        id=number(message, "id", MAX_I64),
        ok=message.get("ok") is True,
        result=_result(found or {}),
        error=str(message.get("error"))[:300],
    )


def _result(found: dict[Any, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key in _NUMBERS:
        value = found.get(key)
        if value is not None and (type(value) is not int or not 0 <= value <= MAX_I64):
            raise ProtocolError(f"reply: {key} of the result is not a number from 0 to {MAX_I64}")
        if key in found:
            result[key] = value
    if isinstance(found.get("consistency"), str):
        result["consistency"] = found["consistency"][:40]
    if isinstance(found.get("messages"), list):
        result["messages"] = [str(text)[:300] for text in found["messages"][:MAX_MESSAGES]]
    return result
