"""The change stream of one connection: numbers records, closes frames, hands them to the channel.

Records are numbered in the order in which their frames leave, captured and sync alike, from the number that
the appliance told. After a reconnect the same records are read again and get the same numbers.
"""

from __future__ import annotations

import time
from typing import Any, Callable, Mapping

from guesttap.agent.clock import Moment
from journal.frame import BLOCK, CAPTURED, Buffer, FrameBuilder, Note

FRAME_BYTES = 252 * BLOCK
"""Of payload: as many 4 KiB writes as one block of head has room for; one more would take a second block."""
FRAME_NS = 100_000_000


class Stream:
    """Frames of one connection. `send` queues the bytes of a frame; it does not block.

    `numbers` gives the journal's number of each tapped disk: callers name disks by the tap's index.
    `position` is the ring position before which everything has been added; the caller moves it with `reach`.
    """

    def __init__(
        self,
        send: Callable[[Buffer], None],
        numbers: Mapping[int, int],
        *,
        epoch: int,
        next_lsn: int,
        next_cut: int,
        position: int,
    ) -> None:
        self._send = send
        self._numbers = numbers
        self.epoch = epoch
        self.next_lsn = next_lsn
        self.next_cut = next_cut
        self.position = position
        self._sent_position = position
        self._builder = FrameBuilder(CAPTURED)
        self._opened = 0
        self._at_rest = True  # nothing was added since `reach`

    def write(self, disk: int, offset: int, data: Buffer, time_ns: int, flags: int) -> None:
        """Add a captured write; `offset` and the data's length are multiples of 512 bytes."""
        self._make_room(len(data), time_ns)
        self._builder.add_write(self._numbers[disk], offset >> 9, data, time_ns, flags)

    def extent(self, kind: int, disk: int, offset: int, length: int, time_ns: int) -> None:
        """Add a captured discard or zeroing of whole sectors (bytes)."""
        self._make_room(0, time_ns)
        self._builder.add_extent(kind, self._numbers[disk], offset >> 9, length >> 9, time_ns)

    def reach(self, position: int) -> None:
        """Everything before this ring position has been added. Closes the frame when it is big enough.

        Only here may a frame of captured records end, so that its position covers just what it holds.
        """
        self.position = position
        self._at_rest = True
        if len(self._builder.payload) >= FRAME_BYTES or self._builder.records >= 32768:
            self.flush()

    def flush_old(self) -> None:
        """Send the open frame if its first record came 100 ms ago or earlier."""
        if self._builder.records and self._at_rest and time.monotonic_ns() - self._opened >= FRAME_NS:
            self.flush()

    def flush(self) -> None:
        """Send the open frame, if it holds anything."""
        if self._builder.records:
            self._finish(0)

    def note(self, moment: Moment, note: str, **keys: Any) -> int:
        """Close the frame with a note that stands after its last record; return that record's LSN."""
        entry: Note = {"note": note, "wall": moment.wall, "mono": moment.mono}
        entry.update(keys)
        self._builder.notes.append(entry)
        self._finish(moment.mono)
        return self.next_lsn - 1

    def cut(self, moment: Moment, kind: str, consistency: str, **keys: Any) -> tuple[int, int]:
        """Close the frame with a cut; return (LSN, number of the cut)."""
        number = self.next_cut
        self.next_cut += 1
        entry = {"label": None, "offset": None, "frozen": None, "coordinates": None}
        entry.update(keys)
        lsn = self.note(moment, "cut", number=number, kind=kind, consistency=consistency, **entry)
        return lsn, number

    def begin_epoch(self, number: int, position: int, moment: Moment, **keys: Any) -> None:
        """Send the epoch's first frame: no records, its number in the header already."""
        self.flush()
        self.epoch = number
        self.reach(position)
        self.note(moment, "epoch", epoch=number, **keys)

    def sync(self, builder: FrameBuilder) -> None:
        """Send a sync frame, its disks numbered already.

        Its position is that of the last captured frame that was sent before it.
        """
        frame = builder.finish(first_lsn=self.next_lsn, epoch=self.epoch, position=self._sent_position)
        self.next_lsn += builder.records
        self._send(frame)

    def _make_room(self, length: int, time_ns: int) -> None:
        if not self._builder.has_room(length, time_ns):
            # Between two records of the ring `position` is that of the last one: exactly right. Within one
            # (a huge discard, a failed write that is read again) it is the record's beginning: it would be
            # read again, which changes nothing, as the same content comes in the same order.
            self._finish(0)
        if not self._builder.records:
            self._opened = time.monotonic_ns()
        self._at_rest = False

    def _finish(self, base_time: int) -> None:
        builder, self._builder = self._builder, FrameBuilder(CAPTURED)
        frame = builder.finish(
            first_lsn=self.next_lsn, epoch=self.epoch, position=self.position, base_time=base_time
        )
        self.next_lsn += builder.records
        self._sent_position = self.position
        self._send(frame)
