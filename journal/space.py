"""The reserve: bytes of the file system that ingest leaves free, so that retention always has room to work."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from journal.errors import JournalFull
from journal.metalog import Meta

_LOOK_SECONDS = 1.0
_LOOK_BYTES = 64 << 20


class Room(NamedTuple):
    """Bytes of a file system: what is free for us, and all of it."""

    free: int
    total: int


def room(folder: Path) -> Room:
    """Return how much space there is where a journal lies. Raises OSError."""
    stat = os.statvfs(folder)
    return Room(stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize)


def stop_below(records: Sequence[Meta], default: int) -> int:
    """Return the free bytes below which ingest stops: by the last promise in a journal's log, or the default.

    A promise that stops keeps its whole reserve free; one that thins goes on while it works in the first half.
    """
    last = next((m for m in reversed(records) if m["meta"] == "retention"), None)
    policy = last.get("policy") if last else None
    own = policy.get("reserve_bytes") if isinstance(policy, dict) else None
    if not isinstance(policy, dict) or type(own) is not int or own < 0:
        return default
    return own if policy.get("when_full") == "stop" else own // 2


class Reserve:
    """Lets nothing be appended when less than `reserve()` bytes would stay free. Looks about once a second."""

    def __init__(self, folder: Path, reserve: Callable[[], int]) -> None:
        self._folder = folder
        self._reserve = reserve
        self._due = 0.0
        self._allowed = 0

    def require(self, size: int) -> None:
        """Raise JournalFull when `size` more bytes would reach into the reserve."""
        self._allowed -= size
        if self._allowed >= 0 and time.monotonic() < self._due:
            return
        reserve = self._reserve()
        free = room(self._folder).free
        # What others write to the same file system meanwhile is seen at the next look.
        above = free - reserve - size
        self._due = time.monotonic() + _LOOK_SECONDS
        self._allowed = min(above, _LOOK_BYTES, reserve // 8 if reserve else _LOOK_BYTES)
        if reserve and above < 0:
            self._allowed = -1
            raise JournalFull(
                f"no space for the journal: {self._folder}: {free} bytes are free, "
                f"{reserve} of them are the reserve that retention works in"
            )
