"""Marks that this process put into the ring, and what waits for them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Callable, NamedTuple

if TYPE_CHECKING:
    from guesttap.bpf.ring import RingRecord

Reached = Callable[["RingRecord"], None]
Failed = Callable[[str], None]


class _Waiting(NamedTuple):
    reached: Reached
    failed: Failed


class Marks:
    """Tokens of one connection. A token is random, so a mark of an earlier process means nothing to us."""

    def __init__(self) -> None:
        self._waiting: dict[int, _Waiting] = {}

    def expect(self, reached: Reached, failed: Failed) -> int:
        """Return a new token; `reached` is called when its mark is read, `failed` when it never will be."""
        token = int.from_bytes(os.urandom(8), "little")
        self._waiting[token] = _Waiting(reached, failed)
        return token

    def knows(self, token: int) -> bool:
        """Return whether somebody waits for this token."""
        return token in self._waiting

    def reach(self, record: RingRecord) -> None:
        """The mark with this token stands here: everything before it has been added to the stream."""
        waiting = self._waiting.pop(record.bio, None)
        if waiting is not None:
            waiting.reached(record)

    def give_up(self, token: int) -> None:
        """Nobody waits for this token any more."""
        self._waiting.pop(token, None)

    def fail_all(self, reason: str) -> None:
        """The stream broke before the marks were reached."""
        waiting, self._waiting = self._waiting, {}
        for one in waiting.values():
            one.failed(reason)
