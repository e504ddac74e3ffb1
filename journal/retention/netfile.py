"""Writing a net segment: interval by interval, in frames of bounded size, under a name that readers ignore."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import numpy as np
import xxhash

from journal import frame, layout
from journal.data import SegmentData
from journal.frame import HEADER_BYTES, MAX_NOTES_BYTES, NET_CAPTURED, NET_SYNC, SECTOR, WRITE
from journal.retention.collect import Records, Rows, payload_bytes, records_of
from journal.retention.errors import NotThinned
from journal.storage import FILE_MODE, write_error
from journal.table import RECORD, SECTOR_BITS
from lastwrite.failpoints import reach

NEW_SUFFIX = ".net-new"
FRAME_BYTES = 4 << 20
"""What a frame's payload aims at: a read of one block checks a whole frame."""
RECORD_SECTORS = 2048
_LET_GO_FRAMES = 8
_ROW_BYTES = FRAME_BYTES // frame.MAX_RECORDS


class EpochShare(NamedTuple):
    """What an epoch has in an interval: its notes (maps with `lsn`), and the time (ns) of its newest record, or 0."""

    epoch: int
    notes: list[dict[str, Any]]
    last_time: int


class NetFile:
    """A net segment that is being written. Raises JournalFull, JournalWriteFailed; nothing is durable before seal()."""

    def __init__(
        self, path: Path, header: layout.NetHeader, sources: Sequence[SegmentData], go_on: Callable[[], bool]
    ) -> None:
        """Make the file. `sources`: the files that rows name by their numbers. `go_on` is asked before each frame."""
        self.path = path
        self._header = header
        self._sources = sources
        self._go_on = go_on
        self._fd = -1
        self._frames = self._records = 0
        self._length = 0
        packed = layout.pack_net_header(header)
        self._digest: layout.Digest = xxhash.xxh3_128(packed)
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        try:
            self._fd = os.open(path, flags, FILE_MODE)
        except OSError as error:
            raise write_error(path, error) from error
        self._write(packed)

    def add_interval(self, first_lsn: int, next_lsn: int, shares: Sequence[EpochShare], rows: Rows) -> None:
        """Write an interval: what its epochs have, in order, and the newest records, ordered by key."""
        for share in shares:
            notes = _chunks(share.notes)
            for rank, kind in enumerate((NET_SYNC, NET_CAPTURED)):
                bounds = np.searchsorted(rows.key, [share.epoch * 2 + rank, share.epoch * 2 + rank + 1])
                records = records_of(rows.taken(np.arange(*bounds)), RECORD_SECTORS)
                frames = list(_frames(records))
                if (
                    kind == NET_CAPTURED
                ):  # the last of the epoch: it carries the notes, even when it has no record
                    frames += [(0, 0)] * (max(1, len(notes)) - len(frames))
                for low, high in frames:
                    said = notes.pop(0) if kind == NET_CAPTURED and notes else b""
                    own = records.rows.taken(np.arange(low, high))
                    self._add_frame(kind, (first_lsn, next_lsn), share, own, said)

    def _add_frame(
        self, kind: int, interval: tuple[int, int], share: EpochShare, own: Rows, notes: bytes
    ) -> None:
        if not self._go_on():
            raise NotThinned(f"{self.path}: the work was ended before it was done")
        records = records_of(own, RECORD_SECTORS)
        table = _table(records)
        payload = self._payload(records)
        head = frame.pack_head(
            kind=kind,
            table=table.tobytes(),
            notes=notes,
            payload_bytes=len(payload),
            payload_sum=xxhash.xxh3_64_intdigest(payload),
            epoch=share.epoch,
            first_lsn=interval[0],
            position=interval[1],
            base_time=share.last_time,
        )
        self._digest.update(memoryview(head)[:HEADER_BYTES])
        self._frames += 1
        self._records += len(table)
        self._write(head)
        reach("net-half")
        self._write(payload)
        if self._frames % _LET_GO_FRAMES == 0:
            for source in self._sources:
                source.let_go()

    def _payload(self, records: Records) -> bytearray:
        """Return the data of some records, each at an aligned place."""
        rows = records.rows
        kind = rows.kind[records.first]
        lengths = payload_bytes(kind, records.sectors)
        payload = bytearray(int(lengths.sum()))
        begin = np.cumsum(lengths) - lengths
        into = memoryview(payload)
        offset = begin[records.record] + (rows.start - rows.start[records.first][records.record]) * SECTOR
        data = np.flatnonzero(rows.kind == WRITE)
        pieces = zip(
            rows.source[data].tolist(),
            (rows.place[data] * SECTOR).tolist(),
            (rows.sectors[data] * SECTOR).tolist(),
            offset[data].tolist(),
            strict=True,
        )
        for source, place, length, at in pieces:
            into[at : at + length] = self._sources[source].read(place, length)
        return payload

    def _write(self, data: bytes | bytearray) -> None:
        view, place = memoryview(data), self._length
        try:
            while view:
                written = os.pwrite(self._fd, view, place)
                view, place = view[written:], place + written
        except OSError as error:
            raise write_error(self.path, error) from error
        self._length = place

    def seal(self) -> layout.Footer:
        """Write the footer, make everything durable, and let the file's pages go from memory."""
        footer = layout.Footer(
            self._frames, self._records, self._header.next_lsn, self._length, self._digest.digest()
        )
        self._write(layout.pack_footer(footer))
        reach("net-written")
        try:
            os.fsync(self._fd)
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            raise write_error(self.path, error) from error
        reach("net-synced")
        self.close()
        return footer

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _frames(records: Records) -> Iterator[tuple[int, int]]:
    """Yield the pieces, from and up to before, that make a frame each."""
    if not len(records.sectors):
        return
    kind = records.rows.kind[records.first]
    cost = np.maximum(payload_bytes(kind, records.sectors), _ROW_BYTES)
    number = (np.cumsum(cost) - cost) // FRAME_BYTES
    heads = np.flatnonzero(np.append(True, number[1:] != number[:-1]))
    edges = [*records.first[heads].tolist(), len(records.rows.start)]
    yield from pairwise(edges)


def _table(records: Records) -> np.ndarray[Any, np.dtype[Any]]:
    rows = records.rows.taken(records.first)
    table = np.zeros(len(records.sectors), RECORD)
    table["place"] = rows.start.astype(np.uint64) | rows.disk.astype(np.uint64) << np.uint64(SECTOR_BITS)
    table["sectors"] = records.sectors
    table["how"] = rows.kind
    return table


def _chunks(notes: list[dict[str, Any]]) -> list[bytes]:
    """Return notes packed into as few arrays as fit into frames, in their order."""
    packed: list[bytes] = []
    waiting: list[dict[str, Any]] = []
    size = 0
    for note in notes:
        length = len(msgpack.packb(note))
        if waiting and size + length + 8 > MAX_NOTES_BYTES:
            packed.append(bytes(msgpack.packb(waiting)))
            waiting, size = [], 0
        waiting.append(note)
        size += length
    return [*packed, bytes(msgpack.packb(waiting))] if waiting else packed
