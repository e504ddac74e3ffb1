"""What a frame says about itself, for the status and for requests. The journal's writer checks it all again,
against the sequence and the epoch's disks, before it takes the frame."""

from __future__ import annotations

import struct
from typing import NamedTuple

from journal import frame
from journal.frame import Buffer, FrameHeader
from journal.notes import Parsed, parse

_HOW = struct.Struct("<I")


class Contents(NamedTuple):
    """A frame's notes, and the time of its newest captured record (ns, source's monotonic clock) or None."""

    header: FrameHeader
    notes: list[Parsed]
    last_mono: int | None

    @property
    def notes_lsn(self) -> int:
        """The LSN at which the notes stand."""
        return self.header.next_lsn - 1


def read_contents(header: FrameHeader, head: Buffer) -> Contents:
    """Return the contents of a frame whose checksums are right. Raises FrameError, BadContent."""
    notes = [note for note in map(parse, frame.notes(header, head)) if note is not None]
    if header.kind != frame.CAPTURED or not header.records:
        return Contents(header, notes, None)
    end = frame.HEADER_BYTES + header.records * frame.RECORD_BYTES
    (how,) = _HOW.unpack_from(head, end - _HOW.size)
    return Contents(header, notes, header.base_time + (how >> 8) * 1000)
