"""Page-aligned memory for frames, used again: new pages from the kernel for each frame cost too much."""

from __future__ import annotations

import mmap
import threading
from typing import Any

SMALLEST = 64 << 10
KEPT_PER_SIZE = 8


class BufferPool:
    """Memory of one session, in sizes that are powers of two. Safe for two threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: dict[int, list[mmap.mmap]] = {}

    def take(self, length: int) -> memoryview:
        """Return writable memory of exactly `length` bytes; what is in it is left over from others."""
        size = max(SMALLEST, 1 << (length - 1).bit_length())
        with self._lock:
            spare = self._free.get(size)
            memory = spare.pop() if spare else None
        if memory is None:
            memory = mmap.mmap(-1, size)
        return memoryview(memory)[:length]

    def give_back(self, part: memoryview) -> None:
        """Take memory back, given any part of it; no view of it may be used any more."""
        memory: Any = part.obj
        if not isinstance(memory, mmap.mmap):
            return
        with self._lock:
            spare = self._free.setdefault(len(memory), [])
            if len(spare) < KEPT_PER_SIZE:
                spare.append(memory)
