"""Walking a segment: the heads of its frames become columns, notes, and named ranges of damage.

Only heads are read, never payloads. A scan can be extended when the segment has grown.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xxhash

from journal import frame, layout, notes, table
from journal.frame import BLOCK, HEADER_BYTES, SECTOR, FrameError, FrameHeader
from lastwrite.errors import LastwriteError

FRAME = np.dtype(
    [
        ("offset", "<i8"),
        ("data", "<i8"),
        ("data_bytes", "<i8"),
        ("first_lsn", "<i8"),
        ("records", "<i8"),
        ("row", "<i8"),
        ("epoch", "<i8"),
        ("kind", "<i8"),
        ("base_time", "<u8"),
        ("position", "<u8"),
        ("payload_sum", "<u8"),
        ("head_sum", "<u8"),
    ]
)
_STEP = 1 << 20
FOREIGN = "the segment is another's: its header names another journal, timeline or first LSN"


class Owner(NamedTuple):
    """Whose segments are looked at: the journal's uuid and the timeline."""

    journal: bytes
    timeline: int


class PlacedNote(NamedTuple):
    """A note, the LSN that it stands after, and the epoch of its frame."""

    lsn: int
    epoch: int
    note: notes.Parsed


class BadRange(NamedTuple):
    """Bytes that are no correct frames: where, which LSNs and epochs they held."""

    offset: int
    end: int
    first_lsn: int
    next_lsn: int
    low_epoch: int
    high_epoch: int
    reason: str


class _Found(NamedTuple):
    header: FrameHeader
    head: bytes
    rows: table.Table
    notes: list[notes.Parsed]


class SegmentScan:
    """What the heads of one segment say. `end` is where the last correct frame ends (bytes).

    With an `owner`, a segment whose header is readable and names another is damaged as a whole.
    """

    def __init__(self, path: Path, first_lsn: int, owner: Owner | None = None) -> None:
        self.path = path
        self._owner = owner
        self.first_lsn = first_lsn
        self.header: layout.SegmentHeader | None = None
        self.footer: layout.Footer | None = None
        self.next_lsn = first_lsn
        self.epoch = 0
        self.end = BLOCK
        self.limit = 0
        self.frames = table.Column(FRAME)
        self.frame_count = self.record_count = 0
        self.rows = table.Column(table.RECORD)
        self.places = table.Column(np.int64)
        self.notes: list[PlacedNote] = []
        self.bad: list[BadRange] = []
        self.tail_reason = ""
        self.suspect = False
        self.last_head_sum = 0
        self.last_offset = 0
        self._digest: layout.Digest = xxhash.xxh3_128()

    @property
    def digest(self) -> bytes:
        """Digest of the header and the headers of the frames so far."""
        return self._digest.digest()

    @property
    def following_lsn(self) -> int:
        """The LSN that comes after this segment, also when its last frames are damaged."""
        if self.footer:
            return max(self.next_lsn, self.footer.next_lsn)
        # More records than this cannot lie in the suspect bytes: their LSNs are never used again.
        lost = max(self.limit - self.end, 0) // frame.RECORD_BYTES + 1 if self.suspect else 0
        return self.next_lsn + lost

    @property
    def foreign(self) -> bool:
        """Whether the header can be read, and names another journal, timeline or first LSN."""
        header = self.header
        if header is None or self._owner is None:
            return False
        return (header.journal, header.timeline, header.first_lsn) != (*self._owner, self.first_lsn)

    def digest_state(self) -> layout.Digest:
        """Return a copy of the running digest, for a writer that goes on."""
        return self._digest.copy()

    @property
    def sealed(self) -> bool:
        """Whether a footer was found: nothing more will be added."""
        return self.footer is not None

    @property
    def unsettled(self) -> bool:
        """Whether damage was seen in a segment in use: what looked bad may have been a frame taken back."""
        return not self.sealed and bool(self.bad or self.suspect)

    def extend(self) -> None:
        """Take in what was added since the last time. Raises OSError."""
        if self.sealed:
            return
        with open(self.path, "rb", buffering=0) as file:
            fd = file.fileno()
            size = os.fstat(fd).st_size
            if not self.limit:
                self._read_header(fd)
            if self.foreign:
                # Its frames may fit by their numbers: none is taken, and it is left as it is.
                self.limit, self.suspect, self.tail_reason = size, True, FOREIGN
                return
            self.footer = self._footer(fd, size)
            self.limit = self.footer.length if self.footer else size
            self._walk(fd)

    def still_holds(self) -> bool:
        """Return whether the last frame seen is still there (a writer without space takes frames back)."""
        if not self.frame_count or self.sealed:
            return True
        with open(self.path, "rb", buffering=0) as file:
            data = os.pread(file.fileno(), HEADER_BYTES, self.last_offset)
        return data[56:64] == self.last_head_sum.to_bytes(8, "little")

    def _read_header(self, fd: int) -> None:
        data = os.pread(fd, BLOCK, 0)
        self._digest.update(data)
        self.header = layout.unpack_segment_header(data)

    def _footer(self, fd: int, size: int) -> layout.Footer | None:
        if size < 2 * BLOCK:
            return None
        footer = layout.unpack_footer(os.pread(fd, BLOCK, size - BLOCK))
        return footer if footer and footer.length == size - BLOCK else None

    def _walk(self, fd: int) -> None:
        while self.end + BLOCK <= self.limit:
            found = self._frame_at(fd, self.end, self.next_lsn, self.epoch)
            if isinstance(found, str):
                place = self._resync(fd, self.end)
                if place is None:
                    self.tail_reason = found
                    return
                following = self._frame_at(fd, place, self.next_lsn, self.epoch, place - self.end)
                assert isinstance(following, _Found)
                self._add_bad(place, following, found)
                found = following
            else:
                place = self.end
            self._add(place, found)
        self.tail_reason = "" if self.end == self.limit else "a frame is torn"

    def _frame_at(self, fd: int, offset: int, due: int, epoch: int, skipped: int = 0) -> _Found | str:
        """Return the frame at `offset`, or why there is none; `skipped` bytes before it were unreadable."""
        head = os.pread(fd, BLOCK, offset)
        try:
            header = frame.parse_header(head)
            if offset + header.frame_bytes > self.limit:
                return f"the frame at LSN {header.first_lsn} is torn"
            if header.head_bytes > BLOCK:
                head += os.pread(fd, header.head_bytes - BLOCK, offset + BLOCK)
            frame.verify(header, head)
            rows = table.table_of(header, head)
            reason = _misplaced(header, due, epoch, skipped) or table.problem(header, rows)
            if reason:
                return f"the frame at LSN {header.first_lsn} is wrong: {reason}"
            parsed = [notes.parse(note) for note in frame.notes(header, head)] if header.notes_bytes else []
        except LastwriteError as error:
            return error.message
        return _Found(header, head, rows, [note for note in parsed if note is not None])

    def _resync(self, fd: int, bad: int) -> int | None:
        """Return where the next correct frame begins after the bad bytes at `bad`, or None.

        Data of a guest may itself hold frames. So one that was only found by looking is taken when an unbroken
        chain leads from it to the footer; when there are frames but no such chain, the rest is `suspect`: nothing
        of it is served, and nothing of it may be cut off.
        """
        by_length = self._after_bad_frame(fd, bad)
        if by_length is not None or self._is_torn(fd, bad):
            return by_length
        broken: set[int] = set()
        for place in self._magics(fd, bad + BLOCK):
            found = self._whole(fd, place, bad) if place not in broken else None
            if found is not None:
                if self.footer and self._leads_to(self.footer, fd, place, found.header, broken):
                    return place
                self.suspect = True
        return None

    def _is_torn(self, fd: int, bad: int) -> bool:
        """Return whether the head at `bad` is correct, and only its data reaches beyond the end."""
        head = os.pread(fd, frame.MAX_HEAD_BYTES, bad)
        try:
            header = frame.parse_header(head)
            frame.verify(header, head[: header.head_bytes])
        except FrameError:
            return False
        return bad + header.frame_bytes > self.limit

    def _magics(self, fd: int, place: int) -> Iterator[int]:
        """Yield the aligned places from `place` on where a frame may begin."""
        while place + BLOCK <= self.limit:
            chunk = os.pread(fd, min(_STEP, self.limit - place) // BLOCK * BLOCK, place)
            words = np.frombuffer(chunk, "<u4", len(chunk) // BLOCK * (BLOCK // 4))[:: BLOCK // 4]
            for block in np.flatnonzero(words == int.from_bytes(frame.MAGIC, "little")).tolist():
                yield place + block * BLOCK
            place += max(len(chunk), BLOCK)

    def _after_bad_frame(self, fd: int, bad: int) -> int | None:
        """Return where the frame at `bad` ends by its own header, when a correct frame follows just there."""
        try:
            header = frame.parse_header(os.pread(fd, HEADER_BYTES, bad))
        except FrameError:
            return None
        place = bad + header.frame_bytes
        found = self._frame_at(fd, place, self.next_lsn, self.epoch, place - bad)
        due = self.next_lsn + header.records
        return place if isinstance(found, _Found) and found.header.first_lsn == due else None

    def _whole(self, fd: int, place: int, bad: int) -> _Found | None:
        """Return the frame at `place` when it fits after the bad bytes by its numbers, and its data matches."""
        found = self._frame_at(fd, place, self.next_lsn, self.epoch, place - bad)
        if isinstance(found, str):
            return None
        data = os.pread(fd, found.header.payload_bytes, place + found.header.head_bytes)
        return found if xxhash.xxh3_64_intdigest(data) == found.header.payload_sum else None

    def _leads_to(
        self, footer: layout.Footer, fd: int, place: int, header: FrameHeader, broken: set[int]
    ) -> bool:
        """Return whether frames follow one another from `place` to the footer; else note their places as broken."""
        chain = []
        while place not in broken:
            chain.append(place)
            place += header.frame_bytes
            if place == self.limit and header.next_lsn == footer.next_lsn:
                return True
            following = self._frame_at(fd, place, header.next_lsn, header.epoch)
            if isinstance(following, str):
                break
            header = following.header
        broken.update(chain)
        return False

    def _add_bad(self, place: int, following: _Found, reason: str) -> None:
        begins = any(isinstance(note, notes.EpochNote) for note in following.notes)
        high = following.header.epoch - 1 if begins else following.header.epoch
        low = min(self.epoch, high) if self.epoch else 0
        bad = BadRange(self.end, place, self.next_lsn, following.header.first_lsn, low, high, reason)
        self.bad.append(bad)

    def _add(self, offset: int, found: _Found) -> None:
        header = found.header
        data = offset + header.head_bytes
        self.frames.add(
            (
                offset,
                data,
                header.payload_bytes,
                header.first_lsn,
                header.records,
                self.record_count,
                header.epoch,
                header.kind,
                header.base_time,
                header.position,
                header.payload_sum,
                header.head_sum,
            )
        )
        if header.records:
            lengths = table.data_sectors(found.rows)
            self.rows.extend(found.rows)
            self.places.extend(np.cumsum(lengths) - lengths + data // SECTOR)
        self.notes += [PlacedNote(header.next_lsn - 1, header.epoch, note) for note in found.notes]
        self._digest.update(found.head[:HEADER_BYTES])
        self.frame_count += 1
        self.record_count += header.records
        self.next_lsn, self.epoch = header.next_lsn, header.epoch
        self.last_offset, self.last_head_sum = offset, header.head_sum
        self.end = offset + header.frame_bytes


def _misplaced(header: FrameHeader, due: int, epoch: int, skipped: int) -> str | None:
    # A record that was lost took at least 16 bytes, an epoch that was lost a frame.
    if not 0 <= header.first_lsn - due <= skipped // frame.RECORD_BYTES:
        return f"LSN {due} is due here"
    if epoch and not 0 <= header.epoch - epoch <= 1 + skipped // BLOCK:
        return f"epoch {epoch} or the next is due here, not {header.epoch}"
    return None
