"""Nets in their compact form, cut into chunks: what index files, net maps and memory hold, and a map is made of.

A chunk is a part of the net of one (epoch, rank, disk): either single blocks (eight bytes each), or extents.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import xxhash

from journal.map.net import PER_BLOCK, WINDOW_BLOCKS, ZERO_PLACE, Extents, shifted
from journal.table import Int64s, Table, spread

SYNC_RANK, CAPTURED_RANK = 0, 1
BLOCKS, EXTENTS = 1, 2
CHUNK = np.dtype(
    [
        ("epoch", "<u4"),
        ("rank", "<u4"),
        ("disk", "<u4"),
        ("form", "<u4"),
        ("first", "<u8"),
        ("end", "<u8"),
        ("count", "<u8"),
        ("offset", "<u8"),
        ("sum", "<u8"),
    ]
)
ENTRIES = 1 << 16
_FEW = 1 << 12  # entries; chunks that are longer end with a window of a map: no other window reads them again
_ROOM = {BLOCKS: 8, EXTENTS: 24}
_SHORT = 3 * PER_BLOCK  # longer runs of blocks take less room as an extent
_U32 = 1 << 32
_REQUEST = 1 << 20

U32s = npt.NDArray[np.uint32]


class BadCache(Exception):
    """A cache is not what it says: what it was made of is used instead. Never leaves the journal's package."""


class Key(NamedTuple):
    """What a net is of; `rank` 0 sync, 1 captured."""

    epoch: int
    rank: int
    disk: int


class Blocks(NamedTuple):
    """Single blocks with data: block `first` + step (ascending), and the place of its data in sectors."""

    first: int
    step: U32s
    place: U32s

    def extents(self) -> Extents:
        """Return the same as extents."""
        start = (self.step.astype(np.int64) + self.first) * PER_BLOCK
        return Extents(start, np.full(len(start), PER_BLOCK, np.int64), self.place.astype(np.int64))


Part = Blocks | Extents


class Unit(Protocol):
    """Something whose net is known, place by place: files, or several files at once."""

    @property
    def directory(self) -> Table:
        """Its chunks (dtype CHUNK)."""

    def read(self, index: int) -> Part:
        """Return a chunk. Raises BadCache."""


def parts_of(net: Extents) -> Iterator[tuple[int, Part]]:
    """Yield a net in its compact form, (first sector, part), at most ENTRIES in each."""
    first, sectors, place = net
    short = ((first | sectors) & (PER_BLOCK - 1) == 0) & (sectors <= _SHORT) & (place != ZERO_PLACE)
    short &= place < _U32 - _SHORT
    yield from _blocks(net.taken(np.flatnonzero(short)))
    others = net.taken(np.flatnonzero(~short))
    for low in range(0, len(others), ENTRIES):
        part = others.taken(slice(low, low + ENTRIES))
        yield int(part.start[0]), part


def _blocks(net: Extents) -> Iterator[tuple[int, Part]]:
    if not len(net):
        return
    count = net.sectors // PER_BLOCK
    block = spread(net.start // PER_BLOCK, count)
    place = spread(net.place, count, PER_BLOCK)
    low = 0
    while low < len(block):
        first = int(block[low])
        window = int(block[min(low + _FEW, len(block)) - 1]) // WINDOW_BLOCKS
        edge = min(first + _U32, (window + 1) * WINDOW_BLOCKS)
        high = min(low + ENTRIES, int(np.searchsorted(block, edge)))
        step = (block[low:high] - first).astype(np.uint32)
        yield first * PER_BLOCK, Blocks(first, step, place[low:high].astype(np.uint32))
        low = high


def _bytes_of(part: Part) -> bytes:
    if isinstance(part, Blocks):
        return part.step.tobytes() + part.place.tobytes()
    return b"".join(column.tobytes() for column in part)


def _end_of(part: Part) -> int:
    if isinstance(part, Blocks):
        return (part.first + int(part.step[-1]) + 1) * PER_BLOCK
    return int(part.start[-1] + part.sectors[-1])


class MemoryUnit:
    """Nets in memory."""

    def __init__(self, nets: Iterable[tuple[Key, Extents]]) -> None:
        self._parts: list[Part] = []
        rows = []
        for key, net in nets:
            for first, part in parts_of(net):
                form = BLOCKS if isinstance(part, Blocks) else EXTENTS
                rows.append((*key, form, first, _end_of(part), len(part[1]), 0, 0))
                self._parts.append(part)
        self.directory: Table = np.array(rows, CHUNK)

    def read(self, index: int) -> Part:
        """Return a chunk."""
        return self._parts[index]


class ChunkWriter:
    """Writes chunks into a file from its present place on, and keeps their directory."""

    def __init__(self, fd: int, offset: int) -> None:
        self._fd = fd
        self._offset = offset
        self._rows: list[tuple[int, ...]] = []

    def copy(self, unit: Unit) -> None:
        """Write all chunks of another unit. Raises OSError, BadCache."""
        for index, row in enumerate(unit.directory):
            key = Key(int(row["epoch"]), int(row["rank"]), int(row["disk"]))
            self.add_part(key, int(row["first"]), unit.read(index))

    def add(self, key: Key, net: Extents) -> None:
        """Write a net, or the next part of one. Raises OSError."""
        for first, part in parts_of(net):
            self.add_part(key, first, part)

    def add_part(self, key: Key, first: int, part: Part) -> None:
        """Write a chunk whose first sector is `first`. Raises OSError."""
        data = _bytes_of(part)
        form = BLOCKS if isinstance(part, Blocks) else EXTENTS
        where = (self._offset, xxhash.xxh3_64_intdigest(data))
        self._rows.append((*key, form, first, _end_of(part), len(part[1]), *where))
        write_at(self._fd, data, self._offset)
        self._offset += len(data)

    @property
    def directory(self) -> Table:
        """The directory of what was written."""
        return np.array(self._rows, CHUNK)

    @property
    def end(self) -> int:
        """Where the next chunk would begin."""
        return self._offset


def write_at(fd: int, data: bytes, offset: int) -> None:
    """Write all of `data` at a place of a file. Raises OSError."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def expect(fd: int, offset: int, length: int) -> None:
    """Let the kernel begin to read a range: a hint. In pieces: of one call it takes no more than a request or two."""
    end = offset + length
    with contextlib.suppress(OSError, OverflowError):
        for place in range(offset, end, _REQUEST):
            os.posix_fadvise(fd, place, min(_REQUEST, end - place), os.POSIX_FADV_WILLNEED)


class FileUnit:
    """Nets in an open file. Closes it when it is no longer used."""

    def __init__(self, fd: int, directory: Table) -> None:
        self._fd = fd
        self.directory = directory

    def __del__(self) -> None:
        os.close(self._fd)

    def expect(self) -> None:
        """Let the kernel begin to read all chunks: a hint."""
        if len(self.directory):
            expect(self._fd, int(self.directory["offset"].min()), int(chunk_bytes(self.directory).sum()))

    def read(self, index: int) -> Part:
        """Return a chunk. Raises BadCache when it is not there or does not match its checksum."""
        row = self.directory[index]
        count, form = int(row["count"]), int(row["form"])
        length = count * _ROOM.get(form, 0)
        try:
            data = os.pread(self._fd, length, int(row["offset"]))
        except OSError as error:
            raise BadCache(str(error)) from error
        if not length or len(data) != length or xxhash.xxh3_64_intdigest(data) != int(row["sum"]):
            raise BadCache("a chunk does not match its checksum")
        if form == BLOCKS:
            first = int(row["first"]) // PER_BLOCK
            return Blocks(
                first, np.frombuffer(data, "<u4", count), np.frombuffer(data, "<u4", count, count * 4)
            )
        return Extents(*(np.frombuffer(data, "<i8", count, count * 8 * column) for column in range(3)))


def chunk_bytes(directory: Table) -> Int64s:
    """Return how many bytes each chunk takes."""
    room = np.where(directory["form"] == BLOCKS, _ROOM[BLOCKS], _ROOM[EXTENTS])
    result: Int64s = directory["count"].astype(np.int64) * room
    return result


def moved(part: Part, sectors: int) -> Extents:
    """Return a chunk as extents whose places are so many sectors further on."""
    start, length, place = part.extents() if isinstance(part, Blocks) else part
    return Extents(start, length, shifted(place, np.int64(sectors)))
