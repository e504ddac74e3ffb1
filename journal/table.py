"""Record tables as numpy columns: taken apart, checked and placed without a loop over records."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from journal.frame import HEADER_BYTES, RECORD_BYTES, SECTOR, WRITE, ZERO, Buffer, FrameHeader

RECORD = np.dtype([("place", "<u8"), ("sectors", "<u4"), ("how", "<u4")])
assert RECORD.itemsize == RECORD_BYTES
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
        ("next_lsn", "<i8"),
        ("last_time", "<i8"),
    ]
)
"""What is kept of a frame: offset of its head and place of its payload in the file, first row in the record
table; `next_lsn` the LSN after it (of a net frame: after its interval), `last_time` (ns) of its newest record, or 0."""
SECTOR_BITS = np.uint64(48)
SECTOR_MASK = np.uint64((1 << 48) - 1)

Table = npt.NDArray[np.void]
Int64s = npt.NDArray[np.int64]


def table_of(header: FrameHeader, head: Buffer) -> Table:
    """Return the record table of a frame's head (a view of `head`)."""
    return np.frombuffer(head, RECORD, header.records, HEADER_BYTES)


def data_sectors(table: Table) -> Int64s:
    """Return how many sectors of the payload each record takes: whole blocks for a write, else 0."""
    sectors = (table["sectors"].astype(np.int64) + 7) & ~7
    sectors[(table["how"] & 15) != WRITE] = 0
    return sectors


def problem(header: FrameHeader, table: Table) -> str | None:
    """Return what makes a table impossible by itself, or None."""
    if header.records:
        kinds = table["how"] & 15
        if int(kinds.min()) < WRITE or int(kinds.max()) > ZERO:
            return "a record has an unknown kind"
        if not int(table["sectors"].min()):
            return "a record has no length"
    if int(data_sectors(table).sum()) * SECTOR != header.payload_bytes:
        return "the records' data has not the length of the payload"
    return None


def spread(first: Int64s, count: Int64s, step: int = 1) -> Int64s:
    """Return first[i], first[i] + step, ... (count[i] of them) for every i, one after the other."""
    if (count == 1).all():
        return first
    ends = np.cumsum(count)
    result = np.arange(int(ends[-1]), dtype=np.int64)
    result -= np.repeat(ends - count, count)
    if step != 1:
        result *= step
    result += np.repeat(first, count)
    return result


class Column:
    """A growing numpy array: rows or arrays are appended, joined when the whole is asked for. Thread-safe."""

    def __init__(self, dtype: npt.DTypeLike) -> None:
        self._dtype = np.dtype(dtype)
        self._whole: npt.NDArray[Any] = np.empty(0, self._dtype)
        self._pieces: list[npt.NDArray[Any]] = []
        self._rows: list[Any] = []
        self._lock = threading.Lock()

    def extend(self, piece: npt.NDArray[Any]) -> None:
        """Append an array."""
        with self._lock:
            self._pieces.append(piece)

    def add(self, row: Any) -> None:
        """Append one row. A column is grown by rows or by arrays, not by both."""
        with self._lock:
            self._rows.append(row)

    def array(self) -> npt.NDArray[Any]:
        """Return everything so far as one array."""
        with self._lock:
            if self._rows:
                self._pieces.append(np.array(self._rows, self._dtype))
                self._rows = []
            if self._pieces:
                self._whole = np.concatenate([self._whole, *self._pieces])
                self._pieces = []
            return self._whole
