"""The data of a segment's frames: each frame's checksum is compared before the first of its bytes is used."""

from __future__ import annotations

import mmap
import os
import threading

import numpy as np
import xxhash

from journal.errors import DamagedJournal
from journal.frame import HEADER_BYTES, FrameError
from journal.scan import SegmentScan


class SegmentData:
    """Reads payload bytes of one segment. A sealed segment is mapped; one in use is read, for it may shrink.

    Safe for several threads. Raises FrameError for bytes that do not match their checksum, DamagedJournal
    when the segment's file is gone.
    """

    def __init__(self, scan: SegmentScan) -> None:
        self.scan = scan
        self._checked: set[int] = set()
        self._bad: dict[int, str] = {}
        self._map: memoryview | None = None
        self._fd = -1
        self._lock = threading.Lock()

    def read(self, offset: int, length: int) -> memoryview:
        """Return `length` bytes at `offset` of the file; they lie within one frame's payload."""
        # The last frame whose payload begins at or before the place; one without payload shares no bytes.
        index = int(np.searchsorted(self.scan.frames.array()["data"], offset, "right")) - 1
        self._open()
        if index not in self._checked:
            self._check(index)
        if self._map is not None:
            return self._map[offset : offset + length]
        return self._read_live(index, offset, length)

    def damaged(self, index: int) -> str | None:
        """Return why the data of frame `index` cannot be used, None when it is good. Looks once."""
        if index in self._bad:
            return self._bad[index]
        try:
            self._open()
            if index not in self._checked:
                self._check(index)
        except (FrameError, DamagedJournal) as error:
            self._bad[index] = error.message
            return error.message
        return None

    def _open(self) -> None:
        if self._map is not None or (self._fd >= 0 and not self.scan.sealed):
            return
        with self._lock:
            if self._fd < 0:
                self._fd = self._open_file()
            if self.scan.sealed and self._map is None:
                self._map = memoryview(mmap.mmap(self._fd, 0, prot=mmap.PROT_READ))

    def _open_file(self) -> int:
        try:
            return os.open(self.scan.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise DamagedJournal(f"segment {self.scan.path} cannot be read: {error.strerror}") from error

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def _check(self, index: int) -> None:
        row = self.scan.frames.array()[index]
        start, length = int(row["data"]), int(row["data_bytes"])
        # Read, not mapped: a disk that fails here gives an error, where a map would end the process.
        try:
            data = os.pread(self._fd, length, start)
        except OSError as error:
            raise self._error(index, f"it cannot be read: {error.strerror}") from error
        if len(data) != length or xxhash.xxh3_64_intdigest(data) != int(row["payload_sum"]):
            raise self._error(index, "its data does not match its checksum")
        self._checked.add(index)

    def _read_live(self, index: int, offset: int, length: int) -> memoryview:
        row = self.scan.frames.array()[index]
        data = os.pread(self._fd, length, offset)
        # A writer that found no space takes frames back that were not durable. The head is looked at after
        # the data: while it is still this frame's, the data was.
        head = os.pread(self._fd, HEADER_BYTES, int(row["offset"]))
        if len(data) != length or head[56:64] != int(row["head_sum"]).to_bytes(8, "little"):
            raise self._error(index, "the writer took it back before it was durable")
        return memoryview(data)

    def _error(self, index: int, reason: str) -> FrameError:
        row = self.scan.frames.array()[index]
        first, offset = int(row["first_lsn"]), int(row["offset"])
        last = first + int(row["records"]) - 1
        return FrameError(
            f"LSNs {first} to {last} (frame at offset {offset} of {self.scan.path}) cannot be used: {reason}",
            path=str(self.scan.path),
            offset=offset,
            first_lsn=first,
            next_lsn=last + 1,
        )
