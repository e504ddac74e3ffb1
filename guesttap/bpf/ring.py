"""The consumer's side of the ring: committed records in order, and giving room back.

The kernel keeps two counters that only grow: the producer's position, where the next record will be reserved,
and ours. A record's place is its position modulo the ring's size; the data pages are mapped twice in a row,
so that a record which wraps is contiguous here.
"""

from __future__ import annotations

import mmap
from typing import Iterator, NamedTuple

from guesttap.bpf import abi
from guesttap.bpf.errors import RingPositionError
from guesttap.bpf.maps import map_entries

DATA, DISCARD, ZERO, FLUSH, FAILED, MARK = range(6)
KIND_NAMES = ("data", "discard", "zero", "flush", "failed", "mark")

_NOTHING = memoryview(b"")
_REMEMBERED_BIOS = 32768


class RingRecord(NamedTuple):
    """One piece of one bio, or an event. See abi.py for the flags.

    `time` is in ns of CLOCK_MONOTONIC; `offset` and `length` are bytes on the whole disk; `bio` groups the
    pieces of one bio (in a MARK: its token); `lost` is the lost counter at submission. A FAILED record has
    the extent to be read again from the disk, unless `flags` has UNRESOLVED. `data` is empty unless
    `kind` is DATA, and valid only until the release of its place. `end` is the position just after.
    """

    time: int
    offset: int
    bio: int
    disk: int
    opf: int
    length: int
    flags: int
    lost: int
    kind: int
    data: memoryview
    end: int

    @property
    def status(self) -> int:
        """Return the kernel's blk_status_t of a FAILED record (10 is I/O error, 12 is `try again`)."""
        return self.flags >> abi.STATUS_SHIFT & 0xFF


class _Bios:
    """The extents of the bios seen last, so that a failure can be told which extent it spoils.

    Two dictionaries that take turns: the newest 32,768 bios at least are known.
    """

    def __init__(self) -> None:
        self.young: dict[int, tuple[int, int, int]] = {}
        self.old: dict[int, tuple[int, int, int]] = {}

    def rotate(self) -> None:
        self.young, self.old = {}, self.young

    def resolve(self, bio: int, offset: int, length: int, flags: int) -> tuple[int, int, int]:
        """Return offset, length, flags of a failed bio: as submitted, else as far as the kernel knew."""
        known = self.young.get(bio) or self.old.get(bio)
        if known:
            return known[1], known[2], flags
        if length:  # nothing of it was processed: the kernel's own numbers are the extent
            return offset, length, flags
        return offset, 0, flags | abi.UNRESOLVED


class Ring:
    """One ring buffer, mapped into this process. One consumer at a time."""

    def __init__(self, fd: int) -> None:
        self.size = map_entries(fd)
        page = mmap.PAGESIZE
        consumer = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=0)
        producer = mmap.mmap(fd, page + 2 * self.size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        self._use(memoryview(consumer), memoryview(producer), page)

    @classmethod
    def over(cls, consumer: memoryview, producer: memoryview, size: int, page: int) -> Ring:
        """Make a ring over plain memory laid out like the kernel's (for tests and captured rings)."""
        ring = cls.__new__(cls)
        ring.size = size
        ring._use(consumer, producer, page)
        return ring

    def _use(self, consumer: memoryview, producer: memoryview, page: int) -> None:
        self._consumer = consumer[:8].cast("Q")
        self._producer = producer[:8].cast("Q")
        self._data = producer[page:].toreadonly()
        self._heads = self._data.cast("I")
        self._bios = _Bios()

    @property
    def consumer_position(self) -> int:
        """Up to where the ring was given back."""
        return self._consumer[0]

    @property
    def producer_position(self) -> int:
        """Up to where the kernel has reserved records; the last ones may be uncommitted."""
        return self._producer[0]

    def release(self, position: int) -> None:
        """Give the ring back up to `position`; `data` of earlier records is invalid from now on."""
        self._check(position)
        self._consumer[0] = position

    def _check(self, position: int) -> None:
        low, high = self._consumer[0], self._producer[0]
        if not low <= position <= high or position % 8:
            raise RingPositionError(f"position {position} is not in the ring, which holds {low} to {high}")

    def records(self, position: int, limit_bytes: int) -> Iterator[RingRecord]:
        """Yield the committed records from `position` on, about `limit_bytes` of the ring at most.

        Nothing is released. It ends at the first record still being written. Raises RingPositionError.
        """
        self._check(position)
        return self._walk(position, min(self._producer[0], position + limit_bytes))

    def _walk(self, position: int, stop: int) -> Iterator[RingRecord]:
        heads, data, mask, bios = self._heads, self._data, self.size - 1, self._bios
        unpack, record = abi.RECORD.unpack_from, RingRecord
        while position < stop:
            at = position & mask
            head = heads[at >> 2]
            if head & abi.RING_BUSY:
                return
            position += (head & abi.RING_LENGTH) + 15 & ~7
            if head & abi.RING_DISCARDED:
                continue
            time, offset, bio, disk, opf, length, flags, lost, whole = unpack(data, at + 8)
            if flags & abi.FIRST:
                if len(bios.young) >= _REMEMBERED_BIOS:
                    bios.rotate()
                bios.young[bio] = (disk, offset, whole)
            if not flags & abi.NO_DATA:
                start = at + 8 + abi.RECORD_BYTES
                piece = data[start : start + length]
                yield record(time, offset, bio, disk, opf, length, flags, lost, DATA, piece, position)
                continue
            if flags & (abi.HAS_FAILED | abi.BY_REQUEST) == abi.HAS_FAILED:
                offset, length, flags = bios.resolve(bio, offset, length, flags)
            kind = _kind_without_data(opf, flags)
            yield record(time, offset, bio, disk, opf, length, flags, lost, kind, _NOTHING, position)


def _kind_without_data(opf: int, flags: int) -> int:
    if flags & abi.IS_MARK:
        return MARK
    if flags & abi.HAS_FAILED:
        return FAILED
    operation = opf & 0xFF
    if operation in (abi.OP_DISCARD, abi.OP_SECURE_ERASE):
        return DISCARD
    return ZERO if operation == abi.OP_WRITE_ZEROES else FLUSH
