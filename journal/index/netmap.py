"""Net maps: the net of several consecutive files of a timeline, where that is at least half as long (journal-index.md).

A cache. A map names the files that it covers by their digests and refers to these alone: giving up older files
leaves newer maps as they are. Maps of eight files are made, then of eight such groups, and so on.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xxhash

from journal import layout
from journal.data import SegmentData
from journal.frame import BLOCK, SECTOR
from journal.index.chunks import (
    CHUNK,
    BadCache,
    ChunkWriter,
    FileUnit,
    Key,
    Unit,
    chunk_bytes,
    moved,
    write_at,
)
from journal.index.make import new_cache
from journal.map.net import Extents, joined, net_of
from journal.scan import Owner, SegmentScan
from journal.table import Int64s, Table

MAGIC = b"LWMAP001"
HEADER = struct.Struct("<8sIIQQQQQQ")
COVERED = np.dtype([("first_lsn", "<u8"), ("length", "<u8"), ("digest", "V16")])
SUFFIX = ".map"
FAN_OUT = 8
USELESS = 1  # flag: the net would not be half as long; the groups that it covers are to be used
_WORTH = 2
_AT_ONCE = 1 << 20  # extents that are merged at once


class MapHeader(NamedTuple):
    """The header's fields: level (1: of files), flags, and where the directory lies, its length and XXH3-64."""

    level: int
    flags: int
    files: int
    first_lsn: int
    next_lsn: int
    directory: int
    chunks: int


class NetMap:
    """An open map file. Raises BadCache when it is not a whole and correct one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open(layout.open_file(path), "rb", buffering=0) as file:
                self._read(file.fileno())
        except (OSError, OverflowError) as error:
            raise BadCache(str(error)) from error

    def _read(self, fd: int) -> None:
        head = os.pread(fd, HEADER.size, 0)
        if len(head) < HEADER.size or head[:8] != MAGIC:
            raise BadCache(f"{self.path} is no net map")
        *fields, total = HEADER.unpack(head)[1:]
        self.header = MapHeader(*fields)
        tables = self.header.files * COVERED.itemsize + self.header.chunks * CHUNK.itemsize
        data = os.pread(fd, tables, self.header.directory)
        if len(data) != tables or xxhash.xxh3_64_intdigest(head[:-8] + data) != total:
            raise BadCache(f"{self.path} does not match its checksum")
        self.covered: Table = np.frombuffer(data, COVERED, self.header.files)
        self.directory: Table = np.frombuffer(data, CHUNK, offset=self.covered.nbytes)

    def fits(self, scans: Sequence[SegmentScan]) -> bool:
        """Return whether the map is of just the first of these files."""
        if self.header.files > len(scans):
            return False
        covered = scans[: self.header.files]
        footers = [scan.footer for scan in covered]
        named = [(s.first_lsn, f.length, f.digest) for s, f in zip(covered, footers, strict=True) if f]
        return named == [(int(a), int(b), bytes(c)) for a, b, c in self.covered]

    def unit(self) -> FileUnit:
        """Return its nets, readable also when the file is deleted. Raises BadCache."""
        try:
            return FileUnit(layout.open_file(self.path), self.directory)
        except OSError as error:
            raise BadCache(str(error)) from error


class Covering(NamedTuple):
    """A unit that stands for so many files."""

    files: int
    unit: Unit


class Maps:
    """The maps of the timelines of a lineage, as their folders show them at this moment."""

    def __init__(self) -> None:
        self._folders: dict[Path, dict[int, list[tuple[int, Path]]]] = {}

    def best(self, files: Sequence[SegmentData]) -> Covering | None:
        """Return the largest useful map that covers the first of `files`, and these only."""
        if len(files) < FAN_OUT or not files[0].scan.cached:
            return None
        scans = [data.scan for data in files]
        for path in self.paths(scans[0].path.parent, scans[0].first_lsn, scans[-1].next_lsn):
            try:
                found = NetMap(path)
                if not found.header.flags & USELESS and found.fits(scans):
                    return Covering(found.header.files, found.unit())
            except BadCache:
                continue
        return None

    def paths(self, folder: Path, first_lsn: int, next_lsn: int) -> list[Path]:
        """Return the maps that begin with an LSN and end at most at another, the largest first."""
        if folder not in self._folders:
            self._folders[folder] = {}
            for first, following, path in named_maps(folder):
                self._folders[folder].setdefault(first, []).append((following, path))
        known = self._folders[folder].get(first_lsn, [])
        return [path for following, path in sorted(known, reverse=True) if following <= next_lsn]


def named_maps(folder: Path) -> Iterator[tuple[int, int, Path]]:
    """Yield first LSN, LSN after the last, and path of what has the name of a map in a timeline's folder."""
    for path in folder.glob(f"*{SUFFIX}"):
        first, _, following = path.stem.partition("-")
        if first.isdecimal() and following.isdecimal():
            yield int(first), int(following), path


def map_path(folder: Path, first_lsn: int, next_lsn: int) -> Path:
    """Return the path of the map of the files from one LSN up to before another; `folder` is the timeline's."""
    return folder / f"{first_lsn:020d}-{next_lsn:020d}{SUFFIX}"


class _Group(NamedTuple):
    """Files `first` up to before `end` of a timeline; `net`: their map, None when it is of no use or they are one."""

    first: int
    end: int
    level: int
    net: NetMap | None
    parts: tuple[_Group, ...]

    def units(self, scans: Sequence[SegmentScan]) -> Iterator[tuple[int, Unit]]:
        """Yield what its net is made of, with the number of the first file of each."""
        if self.net is not None:
            yield self.first, self.net.unit()
        elif self.parts:
            for part in self.parts:
                yield from part.units(scans)
        else:
            yield self.first, scans[self.first].unit()


def build(folder: Path, timeline: int) -> list[Path]:
    """Write the maps of a timeline that are missing, delete those that fit no longer; return those that were written.

    One process at a time. Raises OSError, NotAJournal and its like.
    """
    owner = Owner(layout.read_identity(folder).journal.bytes, timeline)
    scans = []
    for file in layout.files(folder, timeline):
        scan = SegmentScan(file.path, file.first_lsn, owner, file.next_lsn)
        scan.extend()
        if not scan.sealed:
            break
        scans.append(scan)
    return _Builder(layout.timeline_folder(folder, timeline), scans).run()


class _Builder:
    def __init__(self, folder: Path, scans: list[SegmentScan]) -> None:
        self._folder = folder
        self._scans = scans
        self._maps = Maps()
        self._written: list[Path] = []
        self._used: set[Path] = set()

    def run(self) -> list[Path]:
        groups = [_Group(number, number + 1, 0, None, ()) for number in range(len(self._scans))]
        groups = self._known(groups)
        level = 0
        while any(group.level >= level for group in groups):
            groups = self._joined(groups, level)
            level += 1
        for _, _, path in named_maps(self._folder):
            if path not in self._used:
                path.unlink(missing_ok=True)
        return self._written

    def _known(self, files: list[_Group]) -> list[_Group]:
        """Put the groups of the maps that are there in the place of the files."""
        return list(self._known_in(files, 0, len(files), None))

    def _known_in(self, files: list[_Group], first: int, end: int, below: int | None) -> Iterator[_Group]:
        while first < end:
            found = self._map_at(first, end, below)
            if found is None:
                yield files[first]
                first += 1
                continue
            until = first + found.header.files
            parts = list(self._known_in(files, first, until, found.header.level))
            for level in range(found.header.level - 1):  # those that are missing below it
                parts = self._joined(parts, level)
            useful = not found.header.flags & USELESS
            self._used.add(found.path)
            yield _Group(first, until, found.header.level, found if useful else None, tuple(parts))
            first = until

    def _map_at(self, first: int, end: int, below: int | None) -> NetMap | None:
        following = self._scans[end - 1].next_lsn
        for path in self._maps.paths(self._folder, self._scans[first].first_lsn, following):
            try:
                found = NetMap(path)
            except BadCache:
                continue
            lower = below is None or found.header.level < below
            if lower and found.fits(self._scans[first:end]):
                return found
        return None

    def _joined(self, groups: list[_Group], level: int) -> list[_Group]:
        """Make a group of each eight neighbours of a level."""
        result: list[_Group] = []
        waiting: list[_Group] = []
        for group in groups:
            if group.level != level:
                result += waiting
                waiting = []
                result.append(group)
                continue
            waiting.append(group)
            if len(waiting) == FAN_OUT:
                result += self._grouped(tuple(waiting))
                waiting = []
        return result + waiting

    def _grouped(self, parts: tuple[_Group, ...]) -> tuple[_Group, ...]:
        try:
            return (self._write(parts),)
        except BadCache:  # an index or a map below is damaged: the resolve knows how to do without
            return parts

    def _write(self, parts: tuple[_Group, ...]) -> _Group:
        first, end, level = parts[0].first, parts[-1].end, parts[0].level + 1
        scans = self._scans[first:end]
        path = map_path(self._folder, scans[0].first_lsn, scans[-1].next_lsn)
        units = [(number - first, unit) for part in parts for number, unit in part.units(self._scans)]
        with new_cache(path) as fd:
            _write_map(fd, level, scans, units)
        self._written.append(path)
        self._used.add(path)
        found = NetMap(path)
        return _Group(first, end, level, None if found.header.flags & USELESS else found, parts)


def _write_map(fd: int, level: int, scans: Sequence[SegmentScan], units: list[tuple[int, Unit]]) -> None:
    footers = [scan.footer for scan in scans if scan.footer]
    covered = [(s.first_lsn, f.length, f.digest) for s, f in zip(scans, footers, strict=True)]
    bases = bases_of(scans)
    writer = ChunkWriter(fd, HEADER.size)
    before = sum(int(chunk_bytes(unit.directory).sum()) for _, unit in units)
    for key in keys_of(units):
        for net in merged_nets(units, bases, key):
            writer.add(key, net)
    directory, end, flags = writer.directory, writer.end, 0
    if end - HEADER.size > before // _WORTH:
        directory, end, flags = directory[:0], HEADER.size, USELESS
        os.ftruncate(fd, end)
    tables = np.array(covered, COVERED).tobytes() + directory.tobytes()
    write_at(fd, tables, end)
    fields = MapHeader(level, flags, len(scans), scans[0].first_lsn, scans[-1].next_lsn, end, len(directory))
    head = HEADER.pack(MAGIC, *fields, 0)[:-8]
    total = xxhash.xxh3_64_intdigest(head + tables)
    write_at(fd, head + struct.pack("<Q", total), 0)


def bases_of(scans: Sequence[SegmentScan]) -> Int64s:
    """Return where the places of each of the files that a map covers begin, in sectors."""
    lengths = [(scan.footer.length + BLOCK) // SECTOR for scan in scans if scan.footer]
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.array(lengths, np.int64))])


def keys_of(units: Sequence[tuple[int, Unit]]) -> list[Key]:
    """Return what the nets of some units are of, in order."""
    found = {
        (int(row["epoch"]), int(row["rank"]), int(row["disk"])) for _, unit in units for row in unit.directory
    }
    return [Key(*key) for key in sorted(found)]


def merged_nets(units: list[tuple[int, Unit]], bases: Int64s, key: Key) -> Iterator[Extents]:
    """Yield the net of all units of one key, a range of the disk at a time. Raises BadCache.

    `units` come with the number of their first file, in the order of the files; `bases` as bases_of says.
    """
    rows, owners, chunks = [], [], []
    for position, (_, unit) in enumerate(units):
        at = np.flatnonzero(
            (unit.directory["epoch"] == key.epoch)
            & (unit.directory["rank"] == key.rank)
            & (unit.directory["disk"] == key.disk)
        )
        rows.append(unit.directory[at])
        owners.append(np.full(len(at), position))
        chunks.append(at)
    directory, owner, chunk = (np.concatenate(parts) for parts in (rows, owners, chunks))
    for low, high in pairwise(_edges(directory)):
        parts = []
        for row in np.flatnonzero((directory["first"] < high) & (directory["end"] > low)).tolist():
            number, unit = units[int(owner[row])]
            parts.append(moved(unit.read(int(chunk[row])), int(bases[number])).inside(low, high))
        yield net_of(*joined(parts))


def _edges(directory: Table) -> list[int]:
    """Cut the disk so that about a bounded number of extents begins in each range."""
    order = np.argsort(directory["first"], kind="stable")
    filled = np.cumsum(directory["count"][order]) // _AT_ONCE
    cuts = directory["first"][order][1:][np.diff(filled) > 0]
    edges = {int(directory["first"].min()), int(directory["end"].max()), *(int(cut) for cut in cuts)}
    return sorted(edges)
