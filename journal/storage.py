"""The segment in use: appending, making durable, taking back what found no space, sealing."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path

import xxhash

from journal import layout
from journal.errors import JournalBusy, JournalFull, JournalWriteFailed
from journal.frame import BLOCK, Buffer
from journal.scan import SegmentScan
from lastwrite.errors import LastwriteError

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


class ActiveSegment:
    """The segment that frames are appended to. Lengths in bytes."""

    def __init__(self, path: Path, first_lsn: int, fd: int, length: int, digest: layout.Digest) -> None:
        self.path = path
        self.first_lsn = first_lsn
        self.length = self.durable = length
        self.frames = self.records = 0
        self._fd = fd
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
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise write_error(path, error) from error
        return cls(path, first_lsn, fd, BLOCK, xxhash.xxh3_128(header))

    @classmethod
    def reopen(cls, scan: SegmentScan) -> ActiveSegment:
        """Go on with a segment whose torn tail has been cut off; what it holds is made durable first."""
        fd = os.open(scan.path, os.O_RDWR | os.O_CLOEXEC)
        segment = cls(scan.path, scan.first_lsn, fd, scan.end, scan.digest_state())
        segment.frames, segment.records = scan.frame_count, scan.record_count
        segment.sync()
        sync_folder(scan.path.parent)
        return segment

    @property
    def digest(self) -> bytes:
        """Digest of the segment so far."""
        return self._digest.digest()

    def append(self, head: Buffer, payload: Buffer, header_bytes: int, records: int) -> None:
        """Write a frame at the end; not durable. On an error nothing of it stays.

        Raises JournalFull, JournalWriteFailed.
        """
        self._write([memoryview(head), memoryview(payload)])
        self.length += len(head) + len(payload)
        self._digest.update(memoryview(head)[:header_bytes])
        self.frames += 1
        self.records += records

    def _write(self, buffers: list[memoryview]) -> None:
        place = self.length
        waiting = [buffer for buffer in buffers if len(buffer)]
        try:
            while waiting:
                written = os.pwritev(self._fd, waiting, place)
                place += written
                while waiting and written >= len(waiting[0]):
                    written -= len(waiting.pop(0))
                if waiting:
                    waiting[0] = waiting[0][written:]
        except OSError as error:
            os.ftruncate(self._fd, self.length)
            raise write_error(self.path, error) from error

    def sync(self) -> None:
        """Make everything durable. On an error what was not durable before is taken back.

        Raises JournalFull, JournalWriteFailed.
        """
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            self.length, self.frames, self.records, digest = self._saved
            self._digest = digest.copy()
            os.ftruncate(self._fd, self.length)
            raise write_error(self.path, error) from error
        self.durable = self.length
        self._saved = (self.length, self.frames, self.records, self._digest.copy())

    def seal(self, next_lsn: int) -> bytes:
        """Write the footer durably, close the file, return the digest. Everything must be durable before."""
        digest = self.digest
        footer = layout.Footer(self.frames, self.records, next_lsn, self.length, digest)
        self._write([memoryview(layout.pack_footer(footer))])
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            os.ftruncate(self._fd, self.length)
            raise write_error(self.path, error) from error
        self.close()
        return digest

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
