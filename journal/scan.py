"""Walking a segment or net segment: the heads of its frames become columns, notes, and named ranges of damage.

Only heads are read, never payloads. A scan can be extended when the segment has grown.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xxhash

from journal import frame, layout, notes, table
from journal.errors import DamagedJournal
from journal.follow import Follow, NetFollow, SegmentFollow
from journal.frame import BLOCK, HEADER_BYTES, SECTOR, FrameHeader
from journal.heads import Found, Heads
from journal.index.chunks import Unit
from journal.index.filenets import Columns, unit_of
from journal.index.indexed import Indexed
from journal.index.indexfile import IndexFile, IndexHeader, last_times, right_index
from journal.index.lazy import JoinedColumn
from journal.map.net import distinct
from journal.placed import PlacedNote as PlacedNote
from journal.table import FRAME

_MAX_TIME = (1 << 63) - 1
FOREIGN = "the segment is another's: its header names another journal, timeline or first LSN"


class Owner(NamedTuple):
    """Whose segments are looked at: the journal's uuid and the timeline."""

    journal: bytes
    timeline: int


class BadRange(NamedTuple):
    """Bytes that are no correct frames: where, which LSNs and epochs they held."""

    offset: int
    end: int
    first_lsn: int
    next_lsn: int
    low_epoch: int
    high_epoch: int
    reason: str


class SegmentScan:
    """What the heads of one segment say. `end` is where the last correct frame ends (bytes).

    With a `next_lsn`, the LSN after its range, the file is a net segment. With an `owner`, a file whose
    header is readable and names another is damaged as a whole. With `cached`, a right index stands for the heads.
    """

    def __init__(
        self,
        path: Path,
        first_lsn: int,
        owner: Owner | None = None,
        next_lsn: int | None = None,
        *,
        cached: bool = True,
    ) -> None:
        self.path = path
        self.read_path = path  # where the file can be read although it was deleted
        self.inode = 0
        self._owner = owner
        self.cached = cached
        self._indexed: Indexed | None = None
        self._unit: Unit | None = None
        self.first_lsn = first_lsn
        self.net_end = next_lsn
        self.header: layout.SegmentHeader | layout.NetHeader | None = None
        self.footer: layout.Footer | None = None
        self._follow: Follow = (
            SegmentFollow(first_lsn) if next_lsn is None else NetFollow(first_lsn, first_lsn, next_lsn)
        )
        self.end = BLOCK
        self.limit = 0
        self._frame_rows, self._record_rows = table.Column(FRAME), table.Column(table.RECORD)
        self._place_rows = table.Column(np.int64)
        self._notes: list[PlacedNote] = []
        self.frames: Columns = self._frame_rows
        self.rows: Columns = self._record_rows
        self.places: Columns = self._place_rows
        self.notes: Sequence[PlacedNote] = self._notes
        self.frame_count = self.record_count = 0
        self.bad: list[BadRange] = []
        self.tail_reason = ""
        self.suspect = False
        self.last_head_sum = 0
        self.last_offset = 0
        self._digest: layout.Digest = xxhash.xxh3_128()

    @property
    def digest(self) -> bytes:
        """Digest of the header and the headers of the frames so far."""
        if self._complete and self.footer is not None:
            return self.footer.digest
        return self.digest_state().digest()

    @property
    def is_net(self) -> bool:
        """Whether the file is a net segment."""
        return self.net_end is not None

    @property
    def next_lsn(self) -> int:
        """The LSN after the last correct frame; after a bad tail of a net segment, the first that it may have held."""
        return self._follow.safe_lsn if self.is_net and self.tail_reason else self._follow.next_lsn

    @property
    def epoch(self) -> int:
        """The epoch of the last correct frame, 0 when there is none."""
        return self._follow.epoch

    @property
    def intervals(self) -> table.Int64s:
        """The LSNs after the intervals of a net segment, ascending; empty for a segment."""
        ends: table.Int64s = self.frames.array()["next_lsn"]
        return distinct(ends) if self.is_net else ends[:0]

    @property
    def _complete(self) -> bool:
        """Whether an index stands for the whole file."""
        return self._indexed is not None and self._indexed.complete

    @property
    def intact(self) -> bool:
        """Whether nothing bad was found among the frames."""
        return not self.bad and not self.suspect

    @property
    def last_times(self) -> dict[int, int]:
        """The time (ns) of the newest record of each epoch that has records here."""
        if self._indexed is None:
            return last_times(self.frames.array())
        newest = dict(self._indexed.index.last_times)
        for epoch, time in last_times(self._frame_rows.array()).items():
            newest[epoch] = max(time, newest.get(epoch, time))
        return newest

    @property
    def following_lsn(self) -> int:
        """The LSN that comes after this segment, also when its last frames are damaged."""
        if self.net_end is not None:
            return self.net_end
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
        names = (header.journal, header.timeline, header.first_lsn)
        other_end = isinstance(header, layout.NetHeader) and header.next_lsn != self.net_end
        return names != (*self._owner, self.first_lsn) or other_end

    def digest_state(self) -> layout.Digest:
        """Return a copy of the running digest, for a writer that goes on."""
        return self._digest.copy() if self._indexed is None else self._indexed.heads().digest_state()

    @property
    def sealed(self) -> bool:
        """Whether a footer was found: nothing more will be added."""
        return self.footer is not None

    @property
    def unsettled(self) -> bool:
        """Whether damage was seen in a segment in use: what looked bad may have been a frame taken back."""
        return not self.sealed and bool(self.bad or self.suspect)

    @property
    def whole(self) -> bool:
        """Whether the file is sealed, and its frames are all that its footer names."""
        footer = self.footer
        if footer is None or self.header is None or self.foreign or self.bad or self.tail_reason:
            return False
        counted = (self.frame_count, self.record_count, self.next_lsn, self.digest)
        return counted == (footer.frames, footer.records, footer.next_lsn, footer.digest)

    def extend(self) -> None:
        """Take in what was added since the last time. Raises OSError."""
        if self.sealed:
            self._lighten()
            return
        try:
            fd = layout.open_file(self.read_path)
        except layout.NotAFile as error:
            self.suspect, self.tail_reason = True, f"the segment cannot be read: {error.strerror}"
            return
        try:
            status = os.fstat(fd)
            size, self.inode = status.st_size, status.st_ino
            self.footer = layout.footer_at(fd, size)
            if self.cached and not self.limit:
                if self.footer and self._take_index(self.footer):
                    return
                if not self.footer and not self.is_net:
                    self._take_beginning(fd)
            if not self.limit:
                self._read_header(fd)
            if self.foreign:
                # Its frames may fit by their numbers: none is taken, and it is left as it is.
                self.footer = None
                self.limit, self.suspect, self.tail_reason = size, True, FOREIGN
                return
            self.limit = self.footer.length if self.footer else size
            self._walk(Heads(fd, self.limit, self.footer))
            if self.is_net and self._follow.next_lsn != self.net_end and not self.tail_reason:
                self.tail_reason = "its last intervals are missing"
            if self.is_net and not self.sealed:  # it got its name when it was whole: this is damage
                self.suspect, self.tail_reason = True, self.tail_reason or "its footer is damaged"
        finally:
            os.close(fd)

    def _take_index(self, footer: layout.Footer) -> bool:
        """Take everything from the index, when it is right; return whether."""
        index = self._own_index(footer)
        if index is None or index.header.next_lsn != footer.next_lsn:
            self.header = None
            return False
        self._take(index.header)
        self._use(index)
        return True

    def _take_beginning(self, fd: int) -> None:
        """Take the first frames of a segment in use from an index, when their last one is still there."""
        index = self._own_index(None)
        if index is None:
            return
        said = index.header
        last = os.pread(fd, HEADER_BYTES, said.last_offset)[56:64]
        if last != said.last_sum.to_bytes(8, "little") or os.pread(fd, len(said.head), 0) != said.head:
            self.header = None
            return
        self._take(said)
        self.notes = self._notes = list(index.notes)
        self._indexed = first = Indexed(index, complete=False, walk=self._heads)
        self.frames = JoinedColumn(first.frames, self._frame_rows)
        self.rows = JoinedColumn(first.rows, self._record_rows)
        self.places = JoinedColumn(first.places, self._place_rows)

    def _own_index(self, footer: layout.Footer | None) -> IndexFile | None:
        """Return the index when it is right and this file's; `header` is then what it says."""
        index = right_index(self.path, footer)
        if index is not None and index.header.first_lsn == self.first_lsn:
            self.header = self._unpacked(index.header.head)
            if self.header is not None and not self.foreign:
                return index
        self.header = None
        return None

    def _take(self, said: IndexHeader) -> None:
        self.end = self.limit = said.length
        self.frame_count, self.record_count = said.frames, said.records
        self.last_offset, self.last_head_sum = said.last_offset, said.last_sum
        self._follow = SegmentFollow(said.next_lsn, said.epoch)
        if self.net_end is not None:
            self._follow = NetFollow(self.first_lsn, said.next_lsn, self.net_end, said.epoch)

    def _use(self, index: IndexFile) -> None:
        self._indexed = indexed = Indexed(index, complete=True, walk=self._heads)
        self._unit, self.notes = None, index.notes
        self.frames, self.rows, self.places = indexed.frames, indexed.rows, indexed.places
        self._frame_rows = self._record_rows = self._place_rows = table.Column(FRAME)

    def _lighten(self) -> None:
        """Give up the columns in memory when an index has come to hold them."""
        if self._complete or not self.cached or self.footer is None or self.bad or self.tail_reason:
            return
        index = right_index(self.path, self.footer)
        counted = (self.frame_count, self.record_count, len(self.notes))
        if index and counted == (index.header.frames, index.header.records, len(index.notes)):
            notes_kept = self.notes
            self._use(index)
            self.notes = notes_kept

    def _heads(self) -> SegmentScan:
        """Return a scan of the heads themselves. Raises DamagedJournal when the file cannot be read."""
        walked = SegmentScan(self.read_path, self.first_lsn, self._owner, self.net_end, cached=False)
        try:
            walked.extend()
        except OSError as error:
            raise DamagedJournal(f"segment {self.path} cannot be read: {error.strerror}") from error
        return walked

    def unit(self) -> Unit:
        """Return the nets of a whole sealed file; from its index they are read when they are asked for."""
        known = self._indexed.unit() if self._indexed else self._unit
        if known is None:
            known = unit_of(self)
            self._unit = None if self._complete else known
        return known

    def expect_records(self) -> None:
        """Let the kernel begin to read what the index says of frames and records."""
        if self._indexed:
            self._indexed.expect()

    def unit_from_heads(self) -> Unit:
        """Return the nets of the whole file, when those of its index have turned out to be bad."""
        return unit_of(self._indexed.heads() if self._indexed and self._indexed.complete else self)

    def replaced(self) -> bool:
        """Return whether another file has taken the place of the one that was scanned. Raises FileNotFoundError."""
        return self.inode != 0 and self.inode != self.path.stat().st_ino

    def still_holds(self) -> bool:
        """Return whether the last frame seen is still there (a writer without space takes frames back)."""
        if not self.frame_count or self.sealed:
            return True
        with open(layout.open_file(self.path), "rb", buffering=0) as file:
            data = os.pread(file.fileno(), HEADER_BYTES, self.last_offset)
        return data[56:64] == self.last_head_sum.to_bytes(8, "little")

    def _read_header(self, fd: int) -> None:
        data = os.pread(fd, BLOCK, 0)
        self._digest.update(data)
        self.header = self._unpacked(data)

    def _unpacked(self, data: bytes) -> layout.SegmentHeader | layout.NetHeader | None:
        return layout.unpack_net_header(data) if self.is_net else layout.unpack_segment_header(data)

    def _walk(self, heads: Heads) -> None:
        while self.end + BLOCK <= self.limit:
            found = heads.frame_at(self.end, self._follow)
            if isinstance(found, str):
                place = heads.goes_on(self.end, self._follow)
                self.suspect = self.suspect or heads.suspect
                if place is None:
                    self.tail_reason = found
                    return
                following = heads.frame_at(place, self._follow, place - self.end)
                assert isinstance(following, Found)
                self._add_bad(place, following, found)
                found = following
            else:
                place = self.end
            self._add(place, found)
        self.tail_reason = "" if self.end == self.limit else "a frame is torn"

    def _add_bad(self, place: int, following: Found, reason: str) -> None:
        header, first = following.header, self._follow.safe_lsn
        begins = any(isinstance(placed.note, notes.EpochNote) for placed in following.notes)
        high = header.epoch - 1 if begins and not self.is_net else header.epoch
        low = min(self.epoch, high) if self.epoch else 0
        # The bad bytes may have been of the interval that what follows belongs to.
        next_lsn = header.position if self.is_net else header.first_lsn
        self.bad.append(BadRange(self.end, place, first, next_lsn, low, high, reason))

    def _add(self, offset: int, found: Found) -> None:
        header = found.header
        data = offset + header.head_bytes
        self._frame_rows.add(
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
                header.next_lsn,
                _last_time(header, found.rows),
            )
        )
        if header.records:
            lengths = table.data_sectors(found.rows)
            self._record_rows.extend(found.rows)
            self._place_rows.extend(np.cumsum(lengths) - lengths + data // SECTOR)
        self._notes += found.notes
        self._digest.update(found.head[:HEADER_BYTES])
        self.frame_count += 1
        self.record_count += header.records
        self._follow = self._follow.after(header)
        self.last_offset, self.last_head_sum = offset, header.head_sum
        self.end = offset + header.frame_bytes


def _last_time(header: FrameHeader, rows: table.Table) -> int:
    newest = header.base_time + (int(rows["how"].max()) >> 8) * 1000 if header.records else 0
    return min(newest, _MAX_TIME)
