"""The data of a segment's frames: each frame's checksum is compared before the first of its bytes is used."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import xxhash

from journal import layout
from journal.errors import DamagedJournal
from journal.frame import BLOCK, HEADER_BYTES, SECTOR, FrameError
from journal.scan import SegmentScan


class SegmentData:
    """Reads payload bytes of one segment. Read, never mapped: a file that is cut short under a map ends the process.

    What was compared counts until the file is changed: somebody may copy another over it, in place.
    Safe for several threads. Raises FrameError for bytes that do not match their checksum, DamagedJournal
    when the segment's file is gone.
    """

    def __init__(self, scan: SegmentScan) -> None:
        self.scan = scan
        self._checked: set[int] = set()
        self._bad: dict[int, str] = {}
        self._state = (0, 0, 0)
        self._fd = -1
        self._lock = threading.Lock()

    def read(self, offset: int, length: int) -> memoryview:
        """Return `length` bytes at `offset` of the file; they lie within one frame's payload."""
        # The last frame whose payload begins at or before the place; one without payload shares no bytes.
        index = int(np.searchsorted(self.scan.frames.array()["data"], offset, "right")) - 1
        self.hold()
        self._look_again()
        checked, reason = self._checked, self._bad.get(index)
        if reason is not None:
            raise self._error(index, reason)
        if not self.scan.sealed:
            if index not in checked:
                self._check(index)
            return self._read_live(index, offset, length)
        if index in checked:
            data = self._bytes(index, offset, length)
            self._look_again()
            if len(data) == length and self._checked is checked:
                return memoryview(data)
        start = int(self.scan.frames.array()["data"][index])
        return memoryview(self._check(index))[offset - start : offset - start + length]

    def read_all(self, offsets: list[int], lengths: list[int]) -> list[memoryview]:
        """Return several pieces, as `read` does, with two looks at the file instead of two for each piece."""
        if not self.scan.sealed or len(offsets) == 1:
            return [self.read(*piece) for piece in zip(offsets, lengths, strict=True)]
        self.hold()
        self._look_again()
        checked = self._checked
        indexes = np.searchsorted(self.scan.frames.array()["data"], offsets, "right") - 1
        found = [
            memoryview(self._bytes(index, offset, length)) if index in checked else self.read(offset, length)
            for index, offset, length in zip(indexes.tolist(), offsets, lengths, strict=True)
        ]
        self._look_again()
        if self._checked is checked and all(map(_is_whole, found, lengths)):
            return found
        return [self.read(*piece) for piece in zip(offsets, lengths, strict=True)]

    def damaged(self, index: int) -> str | None:
        """Return why the data of frame `index` cannot be used, None when it is good. Looks once."""
        try:
            self.hold()
            self._look_again()
            if (reason := self._bad.get(index)) is not None:
                return str(self._error(index, reason).message)
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

    def _look_again(self) -> None:
        """Forget what was compared when the sealed file was changed since."""
        if not self.scan.sealed:
            return
        found = os.fstat(self._fd)
        state = (found.st_size, found.st_mtime_ns, found.st_ino)
        if state == self._state:
            return
        # The state comes last: whoever sees the new one sees that nothing has been compared.
        with self._lock:
            self._checked, self._bad = set(), {}
            self._state = state

    def let_go(self) -> None:
        """Let the kernel forget what it keeps of the file in memory; it is read again when it is needed."""
        if self._fd >= 0 and self.scan.sealed:
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def _open_file(self) -> int:
        try:
            fd = layout.open_file(self.scan.path)
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

    def _bytes(self, index: int, offset: int, length: int) -> bytes:
        try:
            return os.pread(self._fd, length, offset)
        except OSError as error:
            raise self._error(index, f"it cannot be read: {error.strerror}") from error

    def _check(self, index: int) -> bytes:
        """Return all data of a frame, after its checksum was compared."""
        checked, bad = self._checked, self._bad  # of the state before this read
        row = self.scan.frames.array()[index]
        length = int(row["data_bytes"])
        data = self._bytes(index, int(row["data"]), length)
        if len(data) != length or xxhash.xxh3_64_intdigest(data) != int(row["payload_sum"]):
            bad[index] = "its data does not match its checksum"
            raise self._error(index, bad[index])
        checked.add(index)
        return data

    def _read_live(self, index: int, offset: int, length: int) -> memoryview:
        row = self.scan.frames.array()[index]
        data = self._bytes(index, offset, length)
        # A writer that found no space takes frames back that were not durable. The head is looked at after
        # the data: while it is still this frame's, the data was.
        head = self._bytes(index, int(row["offset"]), HEADER_BYTES)
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


def _is_whole(data: memoryview, length: int) -> bool:
    return len(data) == length
