"""Which frame may follow which: by LSN and epoch in a segment, by interval, epoch and rank in a net segment."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from journal.frame import BLOCK, CAPTURED, FROM_TAPS, RECORD_BYTES, FrameHeader


class Follow(Protocol):
    """Where a walk through a file stands."""

    @property
    def next_lsn(self) -> int:
        """The LSN after the last frame."""

    @property
    def safe_lsn(self) -> int:
        """The first LSN that bytes which follow here, and are no frame, may have held."""

    @property
    def epoch(self) -> int:
        """The epoch of the last frame, 0 before the first."""

    def problem(self, header: FrameHeader, skipped: int = 0) -> str | None:
        """Return why a frame cannot follow here; `skipped` bytes before it were unreadable."""

    def after(self, header: FrameHeader) -> Follow:
        """Return the state after a frame."""


class SegmentFollow(NamedTuple):
    """The order of a segment: one record after the other."""

    next_lsn: int
    epoch: int = 0

    @property
    def safe_lsn(self) -> int:
        """The first LSN that bytes which follow here, and are no frame, may have held."""
        return self.next_lsn

    def problem(self, header: FrameHeader, skipped: int = 0) -> str | None:
        """Return why a frame cannot follow here; `skipped` bytes before it were unreadable."""
        if header.kind not in FROM_TAPS:
            return f"kind {header.kind} has no place in a segment"
        # A record that was lost took at least 16 bytes, an epoch that was lost a frame.
        if not 0 <= header.first_lsn - self.next_lsn <= skipped // RECORD_BYTES:
            return f"LSN {self.next_lsn} is due here"
        if self.epoch and not 0 <= header.epoch - self.epoch <= 1 + skipped // BLOCK:
            return f"epoch {self.epoch} or the next is due here, not {header.epoch}"
        return None

    def after(self, header: FrameHeader) -> SegmentFollow:
        """Return the state after a frame."""
        return SegmentFollow(header.next_lsn, header.epoch)


class NetFollow(NamedTuple):
    """The order of a net segment: the interval from `first_lsn` on, which ends before `next_lsn`; `end` the file's."""

    first_lsn: int
    next_lsn: int
    end: int
    epoch: int = 0
    kind: int = 0

    @property
    def safe_lsn(self) -> int:
        """The first LSN that bytes which follow here, and are no frame, may have held."""
        return self.first_lsn

    def problem(self, header: FrameHeader, skipped: int = 0) -> str | None:
        """Return why a frame cannot follow here; `skipped` bytes before it were unreadable."""
        if header.kind in FROM_TAPS:
            return f"kind {header.kind} has no place in a net segment"
        if header.epoch < self.epoch:
            return f"epoch {self.epoch} or a later one is due here, not {header.epoch}"
        if self.kind and (header.first_lsn, header.position) == (self.first_lsn, self.next_lsn):
            falls = header.epoch == self.epoch and header.kind > self.kind
            return "its kind stands before the other of its epoch" if falls else None
        begins = header.first_lsn >= self.next_lsn if skipped else header.first_lsn == self.next_lsn
        if not begins or not header.first_lsn < header.position <= self.end:
            return f"an interval that begins with LSN {self.next_lsn} is due here"
        return None

    def after(self, header: FrameHeader) -> NetFollow:
        """Return the state after a frame."""
        return NetFollow(header.first_lsn, header.position, self.end, header.epoch, header.kind)


def is_captured(kind: int) -> bool:
    """Return whether a frame's kind ranks as captured, not as sync."""
    return kind % 2 == CAPTURED % 2
