"""From pieces of bios to whole sectors.

The tap captures a bio in pieces, in the bio's own order; pieces of several bios can alternate in the ring, and
a piece need not end with a sector (memory of direct I/O may lie anywhere). The journal knows whole sectors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Iterator

from guesttap.agent.dirty import Extent
from journal.frame import SECTOR, Buffer

if TYPE_CHECKING:
    from guesttap.bpf.ring import RingRecord

_MASK = SECTOR - 1


class Orphan(Exception):
    """A piece begins within a sector whose first part was never seen."""


class Sectors:
    """Joins the pieces of each bio into whole sectors."""

    def __init__(self) -> None:
        self._rests: dict[int, tuple[int, int, bytearray]] = {}  # bio -> disk, offset, first part of a sector

    @property
    def at_rest(self) -> bool:
        """Whether no sector is half read: only then may a frame, an epoch or a cut end here."""
        return not self._rests

    def halves(self) -> Iterator[Extent]:
        """Yield the sectors that are half read."""
        for disk, offset, rest in self._rests.values():
            yield Extent(disk, offset, len(rest))

    def clear(self) -> None:
        """Forget what is half read."""
        self._rests.clear()

    def join(self, record: RingRecord, forgive: bool) -> tuple[int, Buffer]:
        """Return (offset, data) of the whole sectors that this piece completes; the data may be empty.

        When the piece goes on with a sector that was not read: `forgive` leaves that sector out (a bio that
        was under way at its epoch's beginning, so the sync has it); else Orphan is raised.
        """
        offset, data = record.offset, record.data
        if not self._rests and not (offset | len(data)) & _MASK:
            return offset, data
        return self._join_uneven(record, forgive)

    def _join_uneven(self, record: RingRecord, forgive: bool) -> tuple[int, Buffer]:
        offset, data = record.offset, record.data
        rest = self._rests.pop(record.bio, None)
        if rest is not None and (rest[0], rest[1] + len(rest[2])) == (record.disk, offset):
            offset, joined = rest[1], rest[2]
        else:
            joined = bytearray()
            if offset & _MASK and not forgive:
                raise Orphan
            skip = -offset & _MASK
            offset, data = offset + skip, data[skip:]
        joined += data
        whole = len(joined) & ~_MASK
        if whole < len(joined):
            self._rests[record.bio] = (record.disk, offset + whole, joined[whole:])
        return offset, joined[:whole]
