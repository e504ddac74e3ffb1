"""The sync of one epoch: which ranges of the disks are to be sent, and how far that has come.

Owns the plan and the cursor, not the decision when to read: a range may be read only after every write that was
in flight at the epoch's beginning has ended (epochs.py).
"""

from __future__ import annotations

import time
from typing import Any, Mapping, Sequence

from guesttap.agent.dirty import Extent
from guesttap.agent.disks import DiskReader, runs
from journal.frame import SECTOR, SYNC, ZERO, FrameBuilder

FRAME_BYTES = 1 << 20
STEP_NS = 40_000_000
"""A step reads no longer than this, so that the ring does not wait: a 64 MiB ring holds 40 ms of 1.6 GB/s."""


class Plan:
    """What a sync has to send. `extents`: sorted, not overlapping; None stands for everything.

    An extent is a multiple of the disk's sector. `done_bytes` of `total_bytes` were read.
    """

    def __init__(self, sizes: Mapping[int, int], extents: Sequence[Extent] | None) -> None:
        self.everything = extents is None
        self.extents = (
            [Extent(disk, 0, sizes[disk]) for disk in sorted(sizes)] if extents is None else extents
        )
        self.total_bytes = sum(extent.length for extent in self.extents)
        self.done_bytes = 0
        self._index = 0
        self._offset = self.extents[0].offset if self.extents else 0

    @property
    def finished(self) -> bool:
        """Whether everything has been read."""
        return self._index >= len(self.extents)

    @property
    def cursor(self) -> tuple[int, int]:
        """(disk, sector) before which everything of this sync has been read."""
        if self.finished:
            last = self.extents[-1] if self.extents else Extent(0, 0, 0)
            return last.disk, (last.offset + last.length) // SECTOR
        return self.extents[self._index].disk, self._offset // SECTOR

    def seek(self, cursor: Mapping[str, Any] | None) -> None:
        """Go to a cursor ({disk, sector}; `disk` is the tap's index), or to the beginning."""
        disk, offset = (cursor["disk"], cursor["sector"] * SECTOR) if cursor else (-1, 0)
        self._index = self.done_bytes = 0
        while not self.finished:
            extent = self.extents[self._index]
            if (extent.disk, extent.offset + extent.length) > (disk, offset):
                self._offset = max(extent.offset, offset) if extent.disk == disk else extent.offset
                self.done_bytes += self._offset - extent.offset
                return
            self.done_bytes += extent.length
            self._index += 1

    def next_range(self, limit: int) -> Extent:
        """Return the next range of at most `limit` bytes; `advance` takes it as read."""
        extent = self.extents[self._index]
        return Extent(extent.disk, self._offset, min(limit, extent.offset + extent.length - self._offset))

    def advance(self, length: int) -> None:
        """Take `length` bytes as read."""
        extent = self.extents[self._index]
        self._offset += length
        self.done_bytes += length
        if self._offset >= extent.offset + extent.length:
            self._index += 1
            if not self.finished:
                self._offset = self.extents[self._index].offset


def read_step(plan: Plan, reader: DiskReader, numbers: Mapping[int, int]) -> FrameBuilder:
    """Read about 1 MiB of data (more where the disk is zero) and return it as an open sync frame.

    `numbers`: the journal's number of each of the plan's disks.
    """
    builder = FrameBuilder(SYNC)
    zeros = _Zeros(builder, numbers)
    until = time.monotonic_ns() + STEP_NS
    while not plan.finished and len(builder.payload) < FRAME_BYTES and time.monotonic_ns() < until:
        extent = plan.next_range(FRAME_BYTES - len(builder.payload))
        piece = reader.read(extent.disk, extent.offset, extent.length)
        moment = time.monotonic_ns()
        for run in runs(piece):
            offset = extent.offset + run.offset
            if run.zero:
                zeros.add(extent.disk, offset, run.length, moment)
                continue
            zeros.flush()
            data = piece[run.offset : run.offset + run.length]
            builder.add_write(numbers[extent.disk], offset // SECTOR, data, moment)
        plan.advance(extent.length)
    zeros.flush()
    return builder


class _Zeros:
    """Joins zero ranges that follow one another into one record."""

    def __init__(self, builder: FrameBuilder, numbers: Mapping[int, int]) -> None:
        self._builder = builder
        self._numbers = numbers
        self._open: Extent | None = None
        self._time = 0

    def add(self, disk: int, offset: int, length: int, moment: int) -> None:
        before = self._open
        if before is not None and (before.disk, before.offset + before.length) == (disk, offset):
            self._open = before._replace(length=before.length + length)
            return
        self.flush()
        self._open, self._time = Extent(disk, offset, length), moment

    def flush(self) -> None:
        extent, self._open = self._open, None
        if extent is not None:
            number, sectors = self._numbers[extent.disk], extent.length // SECTOR
            self._builder.add_extent(ZERO, number, extent.offset // SECTOR, sectors, self._time)
