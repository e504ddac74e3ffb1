"""The data of a segment's frames: each frame's checksum is compared before the first of its bytes is used."""

from __future__ import annotations

import errno
import mmap
import os
import resource
import threading
from pathlib import Path

import numpy as np
import xxhash

from journal.errors import DamagedJournal
from journal.frame import BLOCK, HEADER_BYTES, SECTOR, FrameError
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
        if index in self._bad:
            raise self._error(index, self._bad[index])
        if index not in self._checked:
            self._check(index)
        if self._map is not None:
            return self._map[offset : offset + length]
        return self._read_live(index, offset, length)

    def damaged(self, index: int) -> str | None:
        """Return why the data of frame `index` cannot be used, None when it is good. Looks once."""
        if index in self._bad:
            return str(self._error(index, self._bad[index]).message)
        try:
            self._open()
            if index not in self._checked:
                self._check(index)
        except (FrameError, DamagedJournal) as error:
            return error.message
        return None

    @property
    def sectors(self) -> int:
        """How many sectors the file has, its footer included."""
        scan = self.scan
        return (scan.footer.length + BLOCK if scan.footer else max(scan.end, scan.limit)) // SECTOR

    def hold(self) -> None:
        """Open the file, so that it stays readable although it is deleted. Raises DamagedJournal."""
        with self._lock:
            if self._fd < 0:
                self._fd = self._open_file()
                self.scan.read_path = Path(f"/proc/self/fd/{self._fd}")

    @property
    def held(self) -> bool:
        """Whether the file is open."""
        return self._fd >= 0

    @property
    def identity(self) -> tuple[int, int]:
        """What tells the open file from every other: device and inode. Raises DamagedJournal."""
        self.hold()
        found = os.fstat(self._fd)
        return found.st_dev, found.st_ino

    def _open(self) -> None:
        if self._map is not None or (self._fd >= 0 and not self.scan.sealed):
            return
        self.hold()
        with self._lock:
            if self.scan.sealed and self._map is None:
                self._map = memoryview(mmap.mmap(self._fd, 0, prot=mmap.PROT_READ))

    def let_go(self) -> None:
        """Give the memory of the mapped pages back; they are read again when they are needed."""
        if self._map is not None and isinstance(self._map.obj, mmap.mmap):
            self._map.obj.madvise(mmap.MADV_DONTNEED)

    def _open_file(self) -> int:
        try:
            fd = _opened(self.scan.path)
        except OSError as error:
            raise DamagedJournal(f"segment {self.scan.path} cannot be read: {error.strerror}") from error
        if self.scan.inode not in (0, os.fstat(fd).st_ino):
            os.close(fd)
            raise DamagedJournal(f"segment {self.scan.path} has been replaced by another")
        return fd

    def __del__(self) -> None:
        if self._fd >= 0:
            self.scan.read_path = self.scan.path
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
            self._bad[index] = "its data does not match its checksum"
            raise self._error(index, self._bad[index])
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
        last = max(int(row["next_lsn"]) - 1, first)
        return FrameError(
            f"LSNs {first} to {last} (frame at offset {offset} of {self.scan.path}) cannot be used: {reason}",
            path=str(self.scan.path),
            offset=offset,
            first_lsn=first,
            next_lsn=last + 1,
        )


def raise_file_limit() -> int:
    """Let this process open as many files as it may at all; return how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def _opened(path: Path) -> int:
    """Open a file for reading, when too many are open after raising the limit. Raises OSError."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
    raise_file_limit()
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
