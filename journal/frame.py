"""The frame: the unit of transfer, checksum and append (docs/journal-format.md, "Frame").

Owns the bytes of a frame and nothing else. Runs inside guests: Python 3.8, struct, msgpack and xxhash only.
"""

from __future__ import annotations

import struct
from typing import Any, Dict, Iterator, List, NamedTuple, Sequence, Tuple, Union

import msgpack
import xxhash

from lastwrite.errors import IntegrityError

MAGIC = b"LWF1"
CAPTURED, SYNC = 1, 2
NET_CAPTURED, NET_SYNC = 3, 4  # in net segments only: never from a tap
FROM_TAPS = (CAPTURED, SYNC)
WRITE, DISCARD, ZERO = 1, 2, 3
FUA, META = 1, 2

SECTOR = 512
BLOCK = 4096
HEADER_BYTES = 64
RECORD_BYTES = 16
MAX_RECORDS = 65536
MAX_NOTES_BYTES = 65536
MAX_PAYLOAD_BYTES = 16 << 20
MAX_HEAD_BYTES = HEADER_BYTES + MAX_RECORDS * RECORD_BYTES + MAX_NOTES_BYTES + BLOCK
MAX_DELTA_US = (1 << 24) - 1
MAX_SECTORS = (1 << 32) - 1

_HEADER = struct.Struct("<4sBBHIIIIQQQQQ")
_RECORD = struct.Struct("<QII")
_SECTOR_MASK = (1 << 48) - 1

Buffer = Union[bytes, bytearray, memoryview]
Note = Dict[str, Any]


class FrameError(IntegrityError):
    """Bytes that should be a frame are not one, or are damaged."""

    code = "bad-frame"
    hint = "The frame is not used. `lastwrite journal check DIR` lists every damaged range of a journal."


class FrameHeader(NamedTuple):
    """The fields of a frame's header, as in the format's table (lengths in bytes, times in ns)."""

    kind: int
    records: int
    notes_bytes: int
    payload_bytes: int
    epoch: int
    first_lsn: int
    position: int
    base_time: int
    payload_sum: int
    head_sum: int

    @property
    def head_bytes(self) -> int:
        """Length of header, table and notes, with their padding."""
        return round_up(HEADER_BYTES + self.records * RECORD_BYTES + self.notes_bytes)

    @property
    def frame_bytes(self) -> int:
        """Length of the whole frame."""
        return self.head_bytes + self.payload_bytes

    @property
    def next_lsn(self) -> int:
        """LSN that follows the last record; of a net frame: the LSN after its interval."""
        return self.first_lsn + self.records if self.kind in FROM_TAPS else self.position


class Record(NamedTuple):
    """One write, discard or zeroing: sectors of 512 bytes, `time` in ns of the source's monotonic clock."""

    disk: int
    sector: int
    sectors: int
    kind: int
    flags: int
    time: int


def round_up(length: int) -> int:
    """Return `length` rounded up to a whole number of blocks."""
    return (length + BLOCK - 1) & ~(BLOCK - 1)


class FrameBuilder:
    """Collects records, data and notes, and makes the bytes of one frame of them."""

    def __init__(self, kind: int) -> None:
        self.kind = kind
        self.payload = bytearray()
        self.notes: List[Note] = []  # noqa: UP006
        self._table = bytearray()
        self._base_time = 0
        self._last_time = 0
        self.records = 0

    def has_room(self, data_bytes: int, time: int) -> bool:
        """Return whether one more record with that much data, at that time (ns), still fits."""
        late = self.records and time - self._base_time > MAX_DELTA_US * 1000
        full = self.records >= MAX_RECORDS or len(self.payload) + data_bytes + BLOCK > MAX_PAYLOAD_BYTES
        return not (late or full)

    def add_write(self, disk: int, sector: int, data: Buffer, time: int, flags: int = 0) -> None:
        """Add a write of `data`, whose length is a multiple of 512 bytes."""
        length = len(data)
        self._add(disk, sector, length // SECTOR, WRITE, flags, time)
        self.payload += data
        if length % BLOCK:
            self.payload += bytes(BLOCK - length % BLOCK)

    def add_extent(self, kind: int, disk: int, sector: int, sectors: int, time: int) -> None:
        """Add a discard or a zeroing."""
        self._add(disk, sector, sectors, kind, 0, time)

    def _add(self, disk: int, sector: int, sectors: int, kind: int, flags: int, time: int) -> None:
        if not self.records:
            self._base_time = self._last_time = time
        # Times of neighbours from different CPUs can run backwards: order is the table's, keep the maximum.
        self._last_time = max(self._last_time, time)
        delta = (self._last_time - self._base_time) // 1000
        self._table += _RECORD.pack(sector | disk << 48, sectors, kind | flags << 4 | delta << 8)
        self.records += 1

    def finish(self, *, first_lsn: int, epoch: int, position: int, base_time: int = 0) -> bytearray:
        """Return the frame's bytes. `base_time` (ns) counts only when there are no records."""
        notes = msgpack.packb(self.notes) if self.notes else b""
        head = pack_head(
            kind=self.kind,
            table=self._table,
            notes=notes,
            payload_bytes=len(self.payload),
            payload_sum=xxhash.xxh3_64_intdigest(self.payload),
            epoch=epoch,
            first_lsn=first_lsn,
            position=position,
            base_time=self._base_time if self.records else base_time,
        )
        head += self.payload
        return head


def pack_head(
    *,
    kind: int,
    table: Buffer,
    notes: bytes,
    payload_bytes: int,
    payload_sum: int,
    epoch: int,
    first_lsn: int,
    position: int,
    base_time: int,
) -> bytearray:
    """Return a frame's head: header, record table and packed notes, with their padding and their checksum."""
    end = HEADER_BYTES + len(table)
    head = bytearray(round_up(end + len(notes)))
    count = len(table) // RECORD_BYTES
    fields = (MAGIC, kind, 0, 0, count, len(notes), payload_bytes, epoch, first_lsn, position, base_time)
    _HEADER.pack_into(head, 0, *fields, payload_sum, 0)
    head[HEADER_BYTES:end] = table
    head[end : end + len(notes)] = notes
    struct.pack_into("<Q", head, 56, _head_sum(head))
    return head


def _head_sum(head: Buffer) -> int:
    view = memoryview(head)
    digest = xxhash.xxh3_64(view[:56])
    digest.update(view[HEADER_BYTES:])
    return int(digest.intdigest())


def parse_header(data: Buffer) -> FrameHeader:
    """Return the header in the first 64 bytes of `data`, its limits checked but no checksum.

    Raises FrameError when the bytes cannot be a frame's header.
    """
    if len(data) < HEADER_BYTES:
        raise FrameError(f"a frame's header has 64 bytes, here are {len(data)}")
    magic, kind, _flags, _reserved, *rest = _HEADER.unpack_from(data)
    header = FrameHeader(kind, *rest)
    if magic != MAGIC or not CAPTURED <= kind <= NET_SYNC:
        raise FrameError(f"no frame begins here (magic {bytes(magic)!r}, kind {kind})")
    small = header.records <= MAX_RECORDS and header.notes_bytes <= MAX_NOTES_BYTES
    if not small or header.payload_bytes > MAX_PAYLOAD_BYTES or header.payload_bytes % BLOCK:
        raise FrameError(f"the frame at LSN {header.first_lsn} names impossible lengths")
    return header


def verify(header: FrameHeader, head: Buffer, payload: Buffer | None = None) -> None:
    """Compare the checksums of a frame's head and, when given, its payload. Raises FrameError."""
    if _head_sum(head) != header.head_sum:
        raise FrameError(f"the head of the frame at LSN {header.first_lsn} does not match its checksum")
    if payload is not None and xxhash.xxh3_64_intdigest(payload) != header.payload_sum:
        raise FrameError(f"the data of the frame at LSN {header.first_lsn} does not match its checksum")


def records(header: FrameHeader, head: Buffer) -> Iterator[Tuple[Record, int]]:  # noqa: UP006
    """Yield each record of a verified head with the place of its data in the payload (bytes)."""
    place = 0
    end = HEADER_BYTES + header.records * RECORD_BYTES
    for where, sectors, how in _RECORD.iter_unpack(memoryview(head)[HEADER_BYTES:end]):
        time = header.base_time + (how >> 8) * 1000
        yield Record(where >> 48, where & _SECTOR_MASK, sectors, how & 15, how >> 4 & 15, time), place
        if how & 15 == WRITE:
            place += round_up(sectors * SECTOR)


def notes(header: FrameHeader, head: Buffer) -> Sequence[Note]:
    """Return the notes of a verified head. Raises FrameError when they are not an array of maps."""
    if not header.notes_bytes:
        return []
    start = HEADER_BYTES + header.records * RECORD_BYTES
    try:
        found = msgpack.unpackb(memoryview(head)[start : start + header.notes_bytes])
    except (ValueError, msgpack.UnpackException) as error:
        raise FrameError(
            f"the notes of the frame at LSN {header.first_lsn} are not msgpack: {error}"
        ) from error
    if not isinstance(found, list) or not all(isinstance(note, dict) and "note" in note for note in found):
        raise FrameError(f"notes of the frame at LSN {header.first_lsn} are not an array of notes")
    return found
