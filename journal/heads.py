"""The heads of the frames of one open file: which frame begins where, and where frames go on after bad bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import xxhash

from journal import frame, layout, notes, table
from journal.errors import BadContent
from journal.follow import Follow
from journal.frame import BLOCK, FROM_TAPS, HEADER_BYTES, FrameError, FrameHeader
from journal.placed import PlacedNote
from lastwrite.errors import LastwriteError

_STEP = 1 << 20


class Found(NamedTuple):
    """A correct frame: header, head, record table, notes with their places."""

    header: FrameHeader
    head: bytes
    rows: table.Table
    notes: list[PlacedNote]


class Heads:
    """Finds frames in a file up to `limit` (bytes). Methods raise OSError."""

    def __init__(self, fd: int, limit: int, footer: layout.Footer | None) -> None:
        self._fd = fd
        self._limit = limit
        self._footer = footer
        self.suspect = False  # whether frames were seen behind bad bytes that nothing connects

    def frame_at(self, offset: int, follow: Follow, skipped: int = 0) -> Found | str:
        """Return the frame at `offset`, or why there is none; `skipped` bytes before it were unreadable."""
        head = os.pread(self._fd, BLOCK, offset)
        try:
            header = frame.parse_header(head)
            if offset + header.frame_bytes > self._limit:
                return f"the frame at LSN {header.first_lsn} is torn"
            if header.head_bytes > BLOCK:
                head += os.pread(self._fd, header.head_bytes - BLOCK, offset + BLOCK)
            frame.verify(header, head)
            rows = table.table_of(header, head)
            reason = follow.problem(header, skipped) or table.problem(header, rows)
            if reason:
                return f"the frame at LSN {header.first_lsn} is wrong: {reason}"
            return Found(header, head, rows, _placed_notes(header, head) if header.notes_bytes else [])
        except LastwriteError as error:
            return error.message

    def goes_on(self, bad: int, follow: Follow) -> int | None:
        """Return where the next correct frame begins after the bad bytes at `bad`, or None.

        Data of a guest may itself hold frames. So one that was only found by looking is taken when an unbroken
        chain leads from it to the footer; when there are frames but no such chain, the rest is `suspect`: nothing
        of it is served, and nothing of it may be cut off.
        """
        by_length = self._after_bad_frame(bad, follow)
        if by_length is not None or self._is_torn(bad):
            return by_length
        broken: set[int] = set()
        for place in self._magics(bad + BLOCK):
            found = self._whole(place, bad, follow) if place not in broken else None
            if found is not None:
                if self._footer and self._leads_to(self._footer, place, found.header, follow, broken):
                    return place
                self.suspect = True
        return None

    def _is_torn(self, bad: int) -> bool:
        """Return whether the head at `bad` is correct, and only its data reaches beyond the end."""
        head = os.pread(self._fd, frame.MAX_HEAD_BYTES, bad)
        try:
            header = frame.parse_header(head)
            frame.verify(header, head[: header.head_bytes])
        except FrameError:
            return False
        return bad + header.frame_bytes > self._limit

    def _magics(self, place: int) -> Iterator[int]:
        """Yield the aligned places from `place` on where a frame may begin."""
        while place + BLOCK <= self._limit:
            chunk = os.pread(self._fd, min(_STEP, self._limit - place) // BLOCK * BLOCK, place)
            words = np.frombuffer(chunk, "<u4", len(chunk) // BLOCK * (BLOCK // 4))[:: BLOCK // 4]
            for block in np.flatnonzero(words == int.from_bytes(frame.MAGIC, "little")).tolist():
                yield place + block * BLOCK
            place += max(len(chunk), BLOCK)

    def _after_bad_frame(self, bad: int, follow: Follow) -> int | None:
        """Return where the frame at `bad` ends by its own header, when a correct frame follows just there."""
        try:
            header = frame.parse_header(os.pread(self._fd, HEADER_BYTES, bad))
        except FrameError:
            return None
        place = bad + header.frame_bytes
        found = self.frame_at(place, follow, place - bad)
        # What follows a net frame belongs to its interval, or begins the next.
        due = {follow.next_lsn + header.records}
        if header.kind not in FROM_TAPS:
            due = {header.first_lsn, header.position}
        return place if isinstance(found, Found) and found.header.first_lsn in due else None

    def _whole(self, place: int, bad: int, follow: Follow) -> Found | None:
        """Return the frame at `place` when it fits after the bad bytes by its numbers, and its data matches."""
        found = self.frame_at(place, follow, place - bad)
        if isinstance(found, str):
            return None
        data = os.pread(self._fd, found.header.payload_bytes, place + found.header.head_bytes)
        return found if xxhash.xxh3_64_intdigest(data) == found.header.payload_sum else None

    def _leads_to(
        self, footer: layout.Footer, place: int, header: FrameHeader, follow: Follow, broken: set[int]
    ) -> bool:
        """Return whether frames follow one another from `place` to the footer; else note their places as broken."""
        chain = []
        while place not in broken:
            chain.append(place)
            place += header.frame_bytes
            follow = follow.after(header)
            if place == self._limit and follow.next_lsn == footer.next_lsn:
                return True
            following = self.frame_at(place, follow)
            if isinstance(following, str):
                break
            header = following.header
        broken.update(chain)
        return False


def _placed_notes(header: FrameHeader, head: bytes) -> list[PlacedNote]:
    """Return a frame's notes with the places that they stand at. Raises FrameError, BadContent."""
    found = []
    for note in frame.notes(header, head):
        parsed = notes.parse(note)
        lsn = header.next_lsn - 1 if header.kind in FROM_TAPS else note.get("lsn")
        if type(lsn) is not int or not header.first_lsn - 1 <= lsn < header.next_lsn:
            raise BadContent(f"a note of the frame at LSN {header.first_lsn} stands at LSN {str(lsn)[:40]}")
        if parsed is not None:
            found.append(PlacedNote(lsn, header.epoch, parsed))
    return found
