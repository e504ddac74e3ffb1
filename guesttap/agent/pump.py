"""Reading the ring: records of an open epoch into the change stream, or, after a loss, into the dirty set.

A loss shows in the records themselves: each carries the lost counter as it was when its bio was submitted. All
records before the first one with another counter are a valid crash state: no write in it depended on one
that was lost, for the counter moves before a lost write can complete. So the gap stands exactly there.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from guesttap.agent.assemble import Orphan, Sectors
from guesttap.agent.dirty import DirtySet
from guesttap.agent.disks import PIECE_BYTES, DiskReader, Unreadable
from guesttap.agent.epochs import Epoch
from guesttap.agent.errors import DiskGrownError
from guesttap.agent.marks import Marks
from guesttap.agent.stream import Stream
from guesttap.bpf.abi import UNRESOLVED
from guesttap.bpf.ring import DATA, DISCARD, FAILED, FLUSH, MARK, ZERO
from journal import frame

if TYPE_CHECKING:
    from guesttap.bpf.ring import RingRecord
    from guesttap.bpf.tap import BpfTap

STREAM_STEP_BYTES = 4 << 20
ABSORB_STEP_BYTES = 16 << 20
MAX_REREAD_BYTES = 4 << 20
UNRESOLVED_NS = 1_000_000_000

_EXTENTS = {DISCARD: frame.DISCARD, ZERO: frame.ZERO}
_CHANGES = (DATA, DISCARD, ZERO, FAILED)
LOSS = "the tap could not capture a write: its ring was full, or the write was of a kind that it only marks"


class Break(NamedTuple):
    """Why the epoch ends here; `full`: which places differ from now on is not known."""

    reason: str
    full: bool = False


class Pump:
    """Reads the ring from `position` on. `last_time` is the time (ns, monotonic) of the last record read.

    `caught_up` says that the last `read` had everything that was in the ring when it began. `held`: a mark
    asked to stop reading until its cut can be placed.
    """

    def __init__(self, tap: BpfTap, reader: DiskReader) -> None:
        self._tap = tap
        self._reader = reader
        self._sizes = {disk.index: disk.bytes for disk in tap.disks}
        self._names = {disk.index: disk.name for disk in tap.disks}
        self._masks = tap.opf_masks
        self._unresolved: dict[int, int] = {}
        self.sectors = Sectors()
        self.position = tap.consumer_position
        self.last_time = 0
        self.caught_up = False
        self.held = False

    def go_to(self, position: int) -> None:
        """Read on from another place; nothing half read is kept."""
        self.position = position
        self.sectors.clear()
        self._unresolved.clear()
        self.held = False

    @property
    def at_rest(self) -> bool:
        """Whether a cut may stand here: no sector is half read, no failed write waits to be understood."""
        return self.sectors.at_rest and not self._unresolved

    # --- an open epoch

    def read(self, epoch: Epoch, stream: Stream, marks: Marks) -> Break | None:
        """Add the next records to the stream. Returns why the epoch must end at `position`, if it must.

        Raises DiskGrownError.
        """
        lost, target = self._tap.lost(), self._tap.producer_position
        baseline, touched = epoch.baseline, epoch.touched
        broke = None
        for record in self._tap.records(self.position, STREAM_STEP_BYTES):
            if record.lost != baseline:
                return Break(LOSS)
            if record.kind == DATA:
                broke = self._write(record, epoch, stream)
            elif record.kind != FLUSH:
                broke = self._event(record, epoch, stream, marks)
            if broke is not None:
                return broke
            if touched is not None and record.kind in _CHANGES:
                touched.add(record.disk, record.offset, record.length)
            self._passed(record, stream)
            if record.kind == MARK and self._mark(record, marks):
                break
        self.caught_up = self.position >= target
        if self.caught_up and lost != baseline:
            return Break(LOSS)  # and no write came after it that could have told
        return self._still_unresolved()

    def _passed(self, record: RingRecord, stream: Stream) -> None:
        self.position = record.end
        self.last_time = max(self.last_time, record.time)
        if self.sectors.at_rest:
            stream.reach(record.end)

    def _write(self, record: RingRecord, epoch: Epoch, stream: Stream) -> Break | None:
        self._check_place(record)
        try:
            offset, data = self.sectors.join(record, not epoch.valid)
        except Orphan:
            return Break("the tap captured a part of a write only")
        if len(data):
            flags = (frame.FUA if record.opf & self._masks.fua else 0) | (
                frame.META if record.opf & self._masks.meta else 0
            )
            stream.write(record.disk, offset, data, record.time, flags)
        return None

    def _event(self, record: RingRecord, epoch: Epoch, stream: Stream, marks: Marks) -> Break | None:
        if record.kind in _EXTENTS:
            self._check_place(record)
            if record.length:  # less than 4 GiB: the kernel counts a bio's bytes in 32 bits
                kind = _EXTENTS[record.kind]
                stream.extent(kind, record.disk, record.offset, record.length, record.time)
        elif record.kind == FAILED:
            return self._failed(record, stream)
        return None

    def _check_place(self, record: RingRecord) -> None:
        if record.offset + record.length > self._sizes[record.disk]:
            raise DiskGrownError(f"disk {self._names[record.disk]} is larger than when it was tapped")

    def _mark(self, record: RingRecord, marks: Marks) -> bool:
        """A mark stands at a place where a frame can end; else it is put again. True: stop reading here."""
        if not marks.knows(record.bio):
            return False
        if not self.at_rest:
            self._tap.mark(record.bio)
            return False
        marks.reach(record)
        return self.held

    # --- writes that failed

    def _failed(self, record: RingRecord, stream: Stream) -> Break | None:
        """The disk never had, or has only in part, what was captured: give what it has now, at this place.

        Its content may be newer than this place: then a write that is still ahead in the ring is in it. That
        would show the future, so the epoch ends instead. It ends as well when the place cannot be read: what
        is there then is not known.
        """
        if record.flags & UNRESOLVED:
            # Usually a part that the kernel split off: its parent, which is known, fails right after it.
            self._unresolved.setdefault(record.disk, time.monotonic_ns())
            return None
        self._unresolved.pop(record.disk, None)
        if record.length > MAX_REREAD_BYTES:
            return Break(f"a write of {record.length} bytes failed on the disk")
        try:
            content = self._read_again(record)
        except Unreadable:
            where = f"{record.length} bytes at sector {record.offset >> 9} of disk {self._names[record.disk]}"
            return Break(f"a write failed on the disk, and its place cannot be read: {where}")
        if self._overlaps_later(record):
            return Break("a write failed on the disk while others went to the same place")
        offset = record.offset
        for data in content:
            stream.write(record.disk, offset, data, record.time, 0)
            offset += len(data)
        return None

    def _read_again(self, record: RingRecord) -> list[bytes]:
        starts = range(0, record.length, PIECE_BYTES)
        read, disk, offset = self._reader.read_whole, record.disk, record.offset
        return [bytes(read(disk, offset + at, min(PIECE_BYTES, record.length - at))) for at in starts]

    def _overlaps_later(self, record: RingRecord) -> bool:
        start, end = record.offset, record.offset + record.length
        stop = self._tap.producer_position
        position = record.end
        for later in self._tap.records(record.end, stop - record.end):
            position = later.end
            same = later.disk == record.disk and later.kind in (DATA, DISCARD, ZERO)
            if same and later.offset < end and later.offset + later.length > start:
                return True
        return position < stop  # not all could be looked at: a record is still being made

    def _still_unresolved(self) -> Break | None:
        limit = time.monotonic_ns() - UNRESOLVED_NS
        if any(since < limit for since in self._unresolved.values()):
            return Break("a write failed on the disk, and nobody knows which", full=True)
        return None

    # --- after a loss

    def absorb(self, dirty: DirtySet, token: int | None) -> tuple[RingRecord | None, bool]:
        """Add the next records to the dirty set, up to the mark with `token`.

        Returns that mark if it was read, and whether every place that changed is in the set.
        """
        known = True
        for record in self._tap.records(self.position, ABSORB_STEP_BYTES):
            self.position = record.end
            self.last_time = max(self.last_time, record.time)
            if record.kind == MARK:
                if record.bio == token:
                    return record, known
                continue
            if record.kind == FAILED and record.flags & UNRESOLVED:
                known = False
            if record.kind in _CHANGES:
                dirty.add(record.disk, record.offset, record.length)
        return None, known
