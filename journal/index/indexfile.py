"""The bytes of an index file (docs/journal-index.md): what the heads of a sealed file say, ready to be used.

A cache: what does not match its checksums, or belongs to another file, is as if it were not there.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from journal import layout
from journal.index.chunks import CHUNK, BadCache, FileUnit, expect
from journal.layout import Footer, NotAFile
from journal.map.net import distinct
from journal.placed import TICK, PackedNotes
from journal.table import FRAME, RECORD, Table

MAGIC = b"LWIDX001"
HEADER = struct.Struct("<8s16sQQQQQIIQQ96s18QQ")
SECTIONS = ("directory", "epochs", "ticks", "notes", "frames", "records")
SUFFIX = ".idx"
HEAD_BYTES = 96
EPOCH = np.dtype([("epoch", "<u8"), ("last_time", "<i8")])
FRONT = 1 << 17  # read at once: most often header, directory and notes


class Section(NamedTuple):
    """A part of the file: where it begins, how long it is, its XXH3-64."""

    offset: int
    length: int
    sum: int


class IndexHeader(NamedTuple):
    """The header's fields. When `sealed`, `digest` and `length` are those of the footer; else the digest is zeros, and
    `length` is where the last frame ended when this was made. `head` is how the file begins."""

    digest: bytes
    length: int
    first_lsn: int
    next_lsn: int
    frames: int
    records: int
    epoch: int
    sealed: int
    last_offset: int
    last_sum: int
    head: bytes
    sections: tuple[Section, ...]


def last_times(frames: Table) -> dict[int, int]:
    """Return the time (ns) of the newest record of each epoch that has records in these frames."""
    frames = frames[frames["records"] > 0]
    found = {}
    for epoch in distinct(frames["epoch"]).tolist():
        found[epoch] = int(frames["last_time"][frames["epoch"] == epoch].max())
    return found


def index_path(path: Path) -> Path:
    """Return where the index of a segment or net segment lies."""
    return path.with_suffix(SUFFIX)


def pack_header(header: IndexHeader) -> bytes:
    """Return the header's bytes."""
    numbers = [number for section in header.sections for number in section]
    data = HEADER.pack(MAGIC, *header[:-1], *numbers, 0)
    return data[:-8] + struct.pack("<Q", xxhash.xxh3_64_intdigest(data[:-8]))


def unpack_header(data: bytes) -> IndexHeader:
    """Return the header that `data` begins with. Raises BadCache."""
    if len(data) < HEADER.size or data[:8] != MAGIC:
        raise BadCache("no index begins here")
    fields = HEADER.unpack_from(data)
    if fields[-1] != xxhash.xxh3_64_intdigest(data[: HEADER.size - 8]):
        raise BadCache("the header of the index does not match its checksum")
    numbers = fields[12:-1]
    sections = tuple(Section(*numbers[at : at + 3]) for at in range(0, len(numbers), 3))
    return IndexHeader._make((*fields[1:12], sections))


class IndexFile:
    """An index that belongs to its file. Directory and notes are in memory, the rest is read when it is asked for.

    Without a footer, an index of the first frames of a segment in use is taken, which stays open.
    Raises BadCache, in the beginning or later, and OSError only in the beginning.
    """

    def __init__(self, path: Path, footer: Footer | None) -> None:
        self.path = path
        self._kept = -1
        with open(_opened(path), "rb", buffering=0) as file:
            self._front = os.pread(file.fileno(), FRONT, 0)
            self.header = unpack_header(self._front)
            if footer and (self.header.digest, self.header.length) != (footer.digest, footer.length):
                raise BadCache("the index is another file's")
            if bool(footer) != bool(self.header.sealed):
                raise BadCache("the index is of another state of the file")
            self.directory = self._table(file.fileno(), "directory", CHUNK)
            epochs = self._table(file.fileno(), "epochs", EPOCH)
            self.last_times: dict[int, int] = dict(epochs.tolist())
            try:
                ticks = self._table(file.fileno(), "ticks", TICK)
                self.notes = PackedNotes(ticks, self._section(file.fileno(), "notes"))
            except (ValueError, KeyError, TypeError) as error:
                raise BadCache(f"the notes of the index make no sense: {error}") from error
            if footer is None:
                self._kept = os.dup(file.fileno())
        self._front = self._front[: HEADER.size]

    def __del__(self) -> None:
        if self._kept >= 0:
            os.close(self._kept)

    def frames(self) -> Table:
        """Return the frames (dtype FRAME). Raises BadCache."""
        return self._later("frames", FRAME)

    def records(self) -> Table:
        """Return the record tables, one after the other. Raises BadCache."""
        return self._later("records", RECORD)

    def expect(self) -> None:
        """Let the kernel begin to read frames and records: a hint."""
        places = [self.header.sections[SECTIONS.index(name)] for name in ("frames", "records")]
        try:
            fd = self._open()
        except BadCache:
            return
        try:
            expect(fd, min(section.offset for section in places), sum(section.length for section in places))
        finally:
            os.close(fd)

    def unit(self) -> FileUnit:
        """Return the nets; they stay readable when the index is deleted. Raises BadCache."""
        return FileUnit(self._open(), self.directory)

    def _later(self, name: str, dtype: npt.DTypeLike) -> Table:
        fd = self._open()
        try:
            return self._table(fd, name, dtype)
        finally:
            os.close(fd)

    def _open(self) -> int:
        """Open the file again, which must be the same. Raises BadCache."""
        try:
            fd = os.dup(self._kept) if self._kept >= 0 else layout.open_file(self.path)
        except OSError as error:
            raise BadCache(str(error)) from error
        if _read(fd, HEADER.size, 0) != self._front:
            os.close(fd)
            raise BadCache("the index is another than before")
        return fd

    def _table(self, fd: int, name: str, dtype: npt.DTypeLike) -> Table:
        data = self._section(fd, name)
        if len(data) % np.dtype(dtype).itemsize:
            raise BadCache(f"{name} of the index have an impossible length")
        return np.frombuffer(data, dtype)

    def _section(self, fd: int, name: str) -> bytes:
        section = self.header.sections[SECTIONS.index(name)]
        end = section.offset + section.length
        data = self._front[section.offset : end] if end <= len(self._front) else _read(fd, *section[1::-1])
        if len(data) != section.length or xxhash.xxh3_64_intdigest(data) != section.sum:
            raise BadCache(f"{name} of the index do not match their checksum")
        return data


def right_index(path: Path, footer: Footer | None) -> IndexFile | None:
    """Return the index of a file, None when there is no right one."""
    try:
        return IndexFile(index_path(path), footer)
    except (OSError, BadCache):
        return None


def _opened(path: Path) -> int:
    """Open an index. Raises OSError, BadCache when it is no file."""
    try:
        return layout.open_file(path)
    except NotAFile as error:
        raise BadCache(f"{path}: {error.strerror}") from error


def _read(fd: int, length: int, offset: int) -> bytes:
    try:
        return os.pread(fd, length, offset)
    except (OSError, OverflowError) as error:
        raise BadCache(str(error)) from error
