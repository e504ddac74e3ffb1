"""What could not be captured: the dirty map, the range queue, and taking extents without forgetting any.

The order in `take`, and why no write is ever forgotten:

1. `taken` is set, 2. `dirty` is cleared, 3. the extents are returned, 4. the caller reads the disk.

A loss before 2 is in the result, and is read in 4. A loss after 2 stays in the map for the next take. A lost
write is marked when it is submitted, before the disk has it; if 4 reads the old content because the write is
still in flight, the kernel marks it once more when it lands (programs.py), so the next take has it. So a
bitmap sync is done when a take returns nothing while no lost write is in flight.

`taken` belongs to user space alone, for the process may die between 2 and the appliance's answer: what was
taken and not confirmed becomes dirty again when a new process adopts the tap.
"""

from __future__ import annotations

from typing import List, Tuple

from guesttap.bpf import abi, syscall
from guesttap.bpf.disks import Disk, current_bytes
from guesttap.bpf.fragments import Maps
from guesttap.bpf.maps import map_entries, shared_memory

Extent = Tuple[int, int, int]  # disk, byte offset, byte length

MINIMUM_GRANULARITY = 16  # a byte per 64 KiB
_LARGEST_MAP = 32 << 20


def chunks_of(size: int, granularity: int) -> int:
    """Return how many chunks of `1 << granularity` bytes cover `size` bytes."""
    return (size + (1 << granularity) - 1) >> granularity


def choose_granularity(disks: list[Disk]) -> int:
    """Return the chunk size's exponent: 64 KiB, or more where the map would exceed 32 MiB."""
    granularity = MINIMUM_GRANULARITY
    while sum(chunks_of(disk.bytes, granularity) for disk in disks) > _LARGEST_MAP:
        granularity += 1
    return granularity


def first_chunks(disks: list[Disk], granularity: int) -> list[int]:
    """Return where each disk's part of the map begins, and at the end the map's size."""
    bases = [0]
    for disk in disks:
        bases.append(bases[-1] + chunks_of(disk.bytes, granularity))
    return bases


def runs(content: bytes) -> list[tuple[int, int]]:
    """Return [start, end) of each run of non-zero bytes."""
    found = []
    clean = content.translate(bytes([0]) + bytes([1]) * 255)
    start = clean.find(1)
    while start >= 0:
        end = clean.find(0, start)
        if end < 0:
            end = len(clean)
        found.append((start, end))
        start = clean.find(1, end)
    return found


def merge(extents: list[Extent]) -> list[Extent]:
    """Return the extents sorted, with overlapping and touching ones joined."""
    merged: List[Extent] = []  # noqa: UP006
    for disk, offset, length in sorted(extents):
        if merged:
            last_disk, last_offset, last_length = merged[-1]
            if disk == last_disk and offset <= last_offset + last_length:
                merged[-1] = (disk, last_offset, max(last_length, offset + length - last_offset))
                continue
        merged.append((disk, offset, length))
    return merged


class DirtyMap:
    """Reader of the dirty map and the range queue of one tap; one process at a time."""

    def __init__(self, maps: Maps, disks: list[Disk], granularity: int, counters: memoryview) -> None:
        self._queue = maps.queue
        self._disks = disks
        self._granularity = granularity
        self._bases = first_chunks(disks, granularity)
        size = 8 * map_entries(maps.dirty)
        self._dirty = memoryview(shared_memory(maps.dirty, size))[:size]
        self._taken = memoryview(shared_memory(maps.taken, size))[:size]
        self._counters = counters  # u64 words of the per-disk counters

    def take(self) -> list[Extent]:
        """Return what is dirty, sorted and merged, and clear it. See the module's text for the order."""
        whole = self._move_whole_disks()
        self._move_queue()
        extents = []
        for disk in self._disks:
            low, high = self._bases[disk.index], self._bases[disk.index + 1]
            for start, end in runs(bytes(self._dirty[low:high])):
                self._taken[low + start : low + end] = b"\1" * (end - start)
                self._dirty[low + start : low + end] = bytes(end - start)
                extents.append(self._extent(disk, start, end))
        return merge(extents + whole)

    def _extent(self, disk: Disk, start: int, end: int) -> Extent:
        offset = start << self._granularity
        return (disk.index, offset, min(end << self._granularity, disk.bytes) - offset)

    def _move_whole_disks(self) -> list[Extent]:
        """Turn the all-dirty flags into marks first (a crash between leaves both), and return the disks."""
        extents = []
        for disk in self._disks:
            flag = (abi.DISK_COUNTER_BYTES * disk.index + abi.D["all_dirty"]) // 8
            if self._counters[flag]:
                self.mark(disk.index, 0, disk.bytes)
                self._counters[flag] = 0
                extents.append((disk.index, 0, max(disk.bytes, current_bytes(disk))))
        return extents

    def _move_queue(self) -> None:
        """Turn each queued range into marks, and only then drop it from the queue."""
        while True:
            head = syscall.lookup(self._queue, b"", abi.QUEUE_ENTRY.size)
            if head is None:
                return
            offset, disk, length = abi.QUEUE_ENTRY.unpack(head)
            self.mark(disk, offset, length)
            syscall.pop(self._queue, abi.QUEUE_ENTRY.size)

    def mark(self, disk: int, offset: int, length: int) -> None:
        """Make an extent dirty (bytes; what lies beyond the disk's size at attach is left out)."""
        low, high = self._bases[disk], self._bases[disk + 1]
        first = low + (offset >> self._granularity)
        last = min(high, low + chunks_of(offset + length, self._granularity))
        self._dirty[first:last] = b"\1" * max(0, last - first)

    def confirm(self) -> None:
        """Forget what was taken: it is safe on the appliance."""
        for start, end in runs(bytes(self._taken)):
            self._taken[start:end] = bytes(end - start)

    def restore(self) -> None:
        """Make what was taken and not confirmed dirty again."""
        for start, end in runs(bytes(self._taken)):
            self._dirty[start:end] = b"\1" * (end - start)
