"""Memory for frames: page-aligned slabs, used again, and a bound on all connections' memory together.

A connection may always have one slab (or one frame, when that is larger): so each goes on, however many there are.
What it holds beyond that comes out of one reserve for all.
"""

from __future__ import annotations

import mmap
import threading
from typing import Any

from journal.frame import round_up

SLAB_BYTES = 4 << 20
RESERVE_BYTES = 64 << 20
KEPT_BYTES = 32 << 20
"""Unused slabs that are kept: new pages from the kernel cost more than copying into old ones."""


class Slab(mmap.mmap):
    """Memory that frames are laid into one after the other: `used` bytes so far, `live` frames still there."""

    used: int
    live: int


class Memory:
    """All slabs of a process. Safe for many threads."""

    def __init__(self, reserve_bytes: int = RESERVE_BYTES) -> None:
        self._lock = threading.Lock()
        self._reserve = reserve_bytes
        self._kept: list[Slab] = []

    def take(self, length: int, *, from_reserve: bool) -> Slab | None:
        """Return an empty slab of at least `length` bytes; None when the reserve is used up."""
        size = max(SLAB_BYTES, round_up(length))
        with self._lock:
            if from_reserve:
                if self._reserve < size:
                    return None
                self._reserve -= size
            slab = self._kept.pop() if self._kept and size == SLAB_BYTES else None
        if slab is None:
            slab = _new_slab(size)
        slab.used = slab.live = 0
        return slab

    def give_back(self, slab: Slab, *, to_reserve: bool) -> None:
        """Take a slab back; nothing in it may be used any more."""
        with self._lock:
            if to_reserve:
                self._reserve += len(slab)
            if len(slab) == SLAB_BYTES and len(self._kept) < KEPT_BYTES // SLAB_BYTES:
                self._kept.append(slab)


def _new_slab(size: int) -> Slab:
    slab = Slab(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        slab.madvise(mmap.MADV_HUGEPAGE)  # a tenth of the faults, and quicker to pin for O_DIRECT
    except OSError:
        pass  # a kernel without huge pages
    return slab


MEMORY = Memory()


class BufferPool:
    """Memory of one connection. One thread takes, another gives back."""

    def __init__(self, memory: Memory = MEMORY) -> None:
        self._memory = memory
        self._lock = threading.Lock()
        self._slabs: list[Slab] = []
        self._own: Slab | None = None

    def take(self, length: int) -> memoryview | None:
        """Return page-aligned writable memory of `length` bytes, what is in it left over from others.

        None when there is none now: there is again when something of this connection's was given back.
        """
        with self._lock:
            slab = self._slabs[-1] if self._slabs else None
            if slab is None or slab.used + length > len(slab):
                slab = self._memory.take(length, from_reserve=self._own is not None)
                if slab is None:
                    return None
                self._own = self._own or slab
                self._slabs.append(slab)
            start = slab.used
            slab.used = start + round_up(length)
            slab.live += 1
        return memoryview(slab)[start : start + length]

    def close(self) -> None:
        """Take everything back at the end of the connection, when nobody uses any of it any more."""
        with self._lock:
            slabs, own = self._slabs, self._own
            self._slabs, self._own = [], None
        for slab in slabs:
            self._memory.give_back(slab, to_reserve=slab is not own)

    def give_back(self, part: memoryview) -> None:
        """Take memory back, given any part of it; no view of it may be used any more."""
        slab: Any = part.obj
        if not isinstance(slab, Slab):
            return
        with self._lock:
            slab.live -= 1
            if slab.live:
                return
            self._slabs.remove(slab)
            own = slab is self._own
            if own:
                self._own = None
        self._memory.give_back(slab, to_reserve=not own)
