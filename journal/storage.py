"""The segment in use: appending, making durable, taking back what found no space, sealing."""

from __future__ import annotations

import bisect
import errno
import fcntl
import itertools
import os
import time
from collections.abc import Sequence
from pathlib import Path

import xxhash

from journal import direct, layout
from journal.direct import BlockFile
from journal.errors import JournalBusy, JournalFull, JournalWriteFailed
from journal.frame import BLOCK, HEADER_BYTES, Buffer, FrameHeader
from journal.scan import SegmentScan
from lastwrite.errors import LastwriteError
from lastwrite.failpoints import is_armed, reach

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NEW_SUFFIX = ".new"
FOLDER_MODE, FILE_MODE = 0o700, 0o600  # a journal holds everything that the VM ever wrote


def write_error(path: Path, error: OSError) -> LastwriteError:
    """Return JournalFull or JournalWriteFailed for an error of the file system."""
    if error.errno in _FULL:
        return JournalFull(f"no space for the journal: {path}: {error.strerror}")
    return JournalWriteFailed(f"cannot write {path}: {error.strerror}")


def sync_folder(folder: Path) -> None:
    """Make a folder's entries durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, for their owner alone, with every new entry durable."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(FOLDER_MODE, exist_ok=True)
        sync_folder(folder.parent)


def _owner_only(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, FILE_MODE)


def replace_file(path: Path, data: bytes) -> None:
    """Write a file whole under a temporary name, then give it its name, durably. Leaves nothing half done."""
    new = path.with_name(path.name + NEW_SUFFIX)
    try:
        with open(new, "wb", opener=_owner_only) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        new.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise write_error(path, error) from error


def lock(folder: Path) -> int:
    """Return a descriptor that holds the journal's lock. Raises JournalBusy (details: pid if known)."""
    path = folder / layout.LOCK
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
        os.close(fd)
        pid = int(text) if text.isdigit() else None
        holder = f"process {pid}" if pid else "another process"
        raise JournalBusy(f"{holder} holds the journal {folder} for writing", pid=pid) from None
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except OSError:
        pass  # a full disk: the lock holds all the same, only its holder's name is missing
    return fd


def direct_io(folder: Path) -> bool:
    """Return whether the segments of the journal in `folder` are written past the page cache (O_DIRECT).

    Nothing is written. Raises OSError when the journal's files cannot be opened.
    """
    segments = [path for _, path in layout.segments(folder, layout.MAIN)]
    return direct.is_possible(segments[-1] if segments else folder / layout.IDENTITY)


class ActiveSegment:
    """The segment that frames are appended to. Lengths in bytes."""

    def __init__(
        self, path: Path, first_lsn: int, file: BlockFile, length: int, digest: layout.Digest
    ) -> None:
        self.path = path
        self.first_lsn = first_lsn
        self.length = self.durable = length
        self.frames = self.records = 0
        self._file = file
        self._digest = digest
        self._saved = (length, 0, 0, digest.copy())

    @classmethod
    def create(
        cls, folder: Path, journal: bytes, timeline: int, first_lsn: int, previous: bytes
    ) -> ActiveSegment:
        """Make a segment, its name durable. Raises JournalFull, JournalWriteFailed."""
        path = layout.segment_path(folder, timeline, first_lsn)
        fields = layout.SegmentHeader(journal, timeline, first_lsn, time.time_ns(), previous)
        header = layout.pack_segment_header(fields)
        try:
            make_folder(path.parent)
        except OSError as error:
            raise write_error(path, error) from error
        replace_file(path, header)
        try:
            reach("segment-made")
            file = BlockFile(path)
        except OSError as error:
            raise write_error(path, error) from error
        return cls(path, first_lsn, file, BLOCK, xxhash.xxh3_128(header))

    @classmethod
    def reopen(cls, scan: SegmentScan) -> ActiveSegment:
        """Go on with a segment whose torn tail has been cut off; what it holds is made durable first."""
        segment = cls(scan.path, scan.first_lsn, BlockFile(scan.path), scan.end, scan.digest_state())
        segment.frames, segment.records = scan.frame_count, scan.record_count
        segment.sync()
        sync_folder(scan.path.parent)
        return segment

    @property
    def digest(self) -> bytes:
        """Digest of the segment so far."""
        return self._digest.digest()

    @property
    def direct(self) -> bool:
        """Whether what is appended goes past the page cache."""
        return self._file.direct

    def append_all(self, frames: Sequence[tuple[FrameHeader, Buffer, Buffer]]) -> int:
        """Write frames at the end, with as few calls as possible; not durable. Return how many stay, at least 1.

        On an error those that are whole stay. Raises JournalFull, JournalWriteFailed when not even the first is.
        """
        if is_armed("append-half"):
            frames = frames[:1]
        ends = list(
            itertools.accumulate((header.frame_bytes for header, _, _ in frames), initial=self.length)
        )
        place, error = self._put([memoryview(part) for _, *parts in frames for part in parts])
        count = bisect.bisect_right(ends, place) - 1
        if error is not None:
            self._file.truncate(ends[count])
            if not count:
                raise write_error(self.path, error) from error
        for header, head, _ in frames[:count]:
            self._digest.update(memoryview(head)[:HEADER_BYTES])
            self.records += header.records
        self.frames += count
        self.length = ends[count]
        return count

    def _put(self, buffers: list[memoryview]) -> tuple[int, OSError | None]:
        """Write at the end; return up to where it can stay, and the error that ended it early."""
        place, error = self.length, None
        if is_armed("append-half"):
            half, buffers = _halves(buffers)
            place, error = self._file.write([half], place)
            error = error or _failure_at("append-half")
        if error is None:
            place, error = self._file.write(buffers, place)
        if error is None and (error := _failure_at("append-written")):
            place = self.length
        return place, error

    def sync(self) -> None:
        """Make everything durable. On an error what was not durable before is taken back.

        Raises JournalFull, JournalWriteFailed.
        """
        try:
            self._file.sync()
            reach("sync-done")
        except OSError as error:
            self.length, self.frames, self.records, digest = self._saved
            self._digest = digest.copy()
            self._file.truncate(self.length)
            raise write_error(self.path, error) from error
        self.durable = self.length
        self._saved = (self.length, self.frames, self.records, self._digest.copy())

    def seal(self, next_lsn: int) -> bytes:
        """Write the footer durably, close the file, return the digest. Everything must be durable before."""
        digest = self.digest
        footer = layout.Footer(self.frames, self.records, next_lsn, self.length, digest)
        _, error = self._file.write([memoryview(layout.pack_footer(footer))], self.length)
        try:
            if error is not None:
                raise error
            reach("footer-written")
            self._file.sync()
        except OSError as failure:
            self._file.truncate(self.length)
            raise write_error(self.path, failure) from failure
        self.close()
        reach("seal-done")
        return digest

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _halves(buffers: list[memoryview]) -> tuple[memoryview, list[memoryview]]:
    data = memoryview(b"".join(buffers))
    return data[: len(data) // 2], [data[len(data) // 2 :]]


def _failure_at(point: str) -> OSError | None:
    """Reach a fail point; return the error that a test wants there."""
    try:
        reach(point)
    except OSError as error:
        return error.with_traceback(None)
    return None
