"""The layout of a qcow2 image (version 3) that is written once, from front to back.

Owns the format's tables, built with numpy before any data is written: header, refcount table and blocks, L1,
L2, then the data clusters in the order of the disk. Reads no data and writes no file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BLOCK = 4096
SMALL, LARGE = 4096, 65536
# Scattered blocks: 64 KiB clusters would write up to sixteen times the data, so 4 KiB ones are used. Dense data:
# 64 KiB ones, because QEMU's cache of L2 tables then covers sixteen times as much of the disk. The line
# is drawn where large clusters would make the file half as large again.
MAX_GROWTH = 1.5
# With 4 KiB clusters QEMU's largest L1 table (32 MiB) ends at 8 TiB.
MAX_SMALL_DISK = 8 << 40

_HEADER = struct.Struct(">4sIQIIQIIQQIIQQQQII")
_VERSION = 3
_REFCOUNT_ORDER = 4  # 16 bits each
_COPIED = np.uint64(1 << 63)

Flags = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Layout:
    """Where everything goes. `clusters`: numbers of the disk's clusters that have data, ascending."""

    disk_bytes: int
    cluster_bytes: int
    clusters: Numbers
    refcount_table_clusters: int
    refcount_blocks: int
    l1_clusters: int
    l2_tables: Numbers

    @property
    def _l1_offset(self) -> int:
        return (1 + self.refcount_table_clusters + self.refcount_blocks) * self.cluster_bytes

    @property
    def _l2_offset(self) -> int:
        return self._l1_offset + self.l1_clusters * self.cluster_bytes

    @property
    def data_offset(self) -> int:
        """Place of the first data cluster in the file, bytes."""
        return self._l2_offset + len(self.l2_tables) * self.cluster_bytes

    @property
    def data_bytes(self) -> int:
        """Length of all data clusters."""
        return len(self.clusters) * self.cluster_bytes

    @property
    def file_bytes(self) -> int:
        """Length of the whole file."""
        return self.data_offset + self.data_bytes

    def runs(self) -> Iterator[tuple[int, int]]:
        """Yield (offset, length) on the disk, bytes, of each run of data clusters, in order."""
        if not len(self.clusters):
            return
        breaks = np.flatnonzero(np.diff(self.clusters) != 1) + 1
        firsts = self.clusters[np.concatenate(([0], breaks))]
        lengths = np.diff(np.concatenate(([0], breaks, [len(self.clusters)])))
        for first, length in zip(firsts.tolist(), lengths.tolist(), strict=True):
            yield first * self.cluster_bytes, length * self.cluster_bytes

    def metadata(self) -> Iterator[tuple[int, bytes]]:
        """Yield (offset, bytes) of the header and each table."""
        yield 0, self._header()
        yield self.cluster_bytes, self._refcount_table()
        yield (1 + self.refcount_table_clusters) * self.cluster_bytes, self._refcounts()
        yield self._l1_offset, self._l1()
        yield self._l2_offset, self._l2()

    def _header(self) -> bytes:
        bits = self.cluster_bytes.bit_length() - 1
        return _HEADER.pack(
            b"QFI\xfb",
            _VERSION,
            0,  # backing file: none
            0,
            bits,
            self.disk_bytes,
            0,  # encryption: none
            _l1_entries(self.disk_bytes, self.cluster_bytes),
            self._l1_offset,
            self.cluster_bytes,
            self.refcount_table_clusters,
            0,  # internal snapshots: none
            0,
            0,  # incompatible, compatible, autoclear features: none
            0,
            0,
            _REFCOUNT_ORDER,
            _HEADER.size,
        ).ljust(_HEADER.size + 8, b"\0")  # then the end of the header extensions

    def _refcount_table(self) -> bytes:
        first = (1 + self.refcount_table_clusters) * self.cluster_bytes
        blocks = np.arange(self.refcount_blocks, dtype=np.uint64) * np.uint64(self.cluster_bytes)
        return (blocks + np.uint64(first)).astype(">u8").tobytes()

    def _refcounts(self) -> bytes:
        counts = np.zeros(self.refcount_blocks * self.cluster_bytes // 2, dtype=">u2")
        counts[: self.file_bytes // self.cluster_bytes] = 1
        return counts.tobytes()

    def _l1(self) -> bytes:
        table = np.zeros(_l1_entries(self.disk_bytes, self.cluster_bytes), dtype=np.uint64)
        places = np.arange(len(self.l2_tables), dtype=np.uint64) * np.uint64(self.cluster_bytes)
        table[self.l2_tables] = (places + np.uint64(self._l2_offset)) | _COPIED
        return table.astype(">u8").tobytes()

    def _l2(self) -> bytes:
        per_table = self.cluster_bytes // 8
        table = np.zeros(len(self.l2_tables) * per_table, dtype=">u8")
        rank = np.searchsorted(self.l2_tables, self.clusters // per_table)
        places = np.arange(len(self.clusters), dtype=np.uint64) * np.uint64(self.cluster_bytes)
        table[rank * per_table + self.clusters % per_table] = (places + np.uint64(self.data_offset)) | _COPIED
        return table.tobytes()


def plan(disk_bytes: int, extents: Iterable[tuple[int, int, bool]]) -> Layout:
    """Return the layout of a disk whose data lies in `extents`: (offset, length, data) in bytes."""
    blocks = _blocks(disk_bytes, extents)
    cluster_bytes = choose_cluster_bytes(disk_bytes, blocks)
    clusters = np.flatnonzero(_group(blocks, cluster_bytes // BLOCK)).astype(np.int64)
    l2_tables = np.unique(clusters // (cluster_bytes // 8))
    l1_clusters = _ceil(_l1_entries(disk_bytes, cluster_bytes) * 8, cluster_bytes)
    rest = 1 + l1_clusters + len(l2_tables) + len(clusters)
    table_clusters, refcount_blocks = _refcount_sizes(rest, cluster_bytes)
    return Layout(
        disk_bytes, cluster_bytes, clusters, table_clusters, refcount_blocks, l1_clusters, l2_tables
    )


def choose_cluster_bytes(disk_bytes: int, blocks: Flags) -> int:
    """Return 4096 for scattered data, 65536 for dense data; `blocks` says which 4 KiB blocks have data."""
    if disk_bytes > MAX_SMALL_DISK:
        return LARGE
    large = int(_group(blocks, LARGE // BLOCK).sum()) * LARGE
    return LARGE if large <= int(blocks.sum()) * BLOCK * MAX_GROWTH else SMALL


def _blocks(disk_bytes: int, extents: Iterable[tuple[int, int, bool]]) -> Flags:
    found = np.zeros(_ceil(disk_bytes, BLOCK), dtype=np.bool_)
    for offset, length, data in extents:
        if data:
            found[offset // BLOCK : _ceil(offset + length, BLOCK)] = True
    return found


def _group(blocks: Flags, size: int) -> Flags:
    """Return for each group of `size` blocks whether any has data."""
    padded = np.zeros(_ceil(len(blocks), size) * size, dtype=np.bool_)
    padded[: len(blocks)] = blocks
    found: Flags = np.logical_or.reduce(padded.reshape(-1, size), axis=1)
    return found


def _refcount_sizes(rest: int, cluster_bytes: int) -> tuple[int, int]:
    """Return (clusters of the refcount table, refcount blocks) of a file with `rest` other clusters."""
    table = blocks = 0
    while True:  # they count themselves: grow until it fits (two or three rounds)
        needed_blocks = _ceil(rest + table + blocks, cluster_bytes // 2)
        needed_table = _ceil(needed_blocks * 8, cluster_bytes)
        if (needed_table, needed_blocks) == (table, blocks):
            return table, blocks
        table, blocks = max(table, needed_table), max(blocks, needed_blocks)


def _l1_entries(disk_bytes: int, cluster_bytes: int) -> int:
    return _ceil(disk_bytes, cluster_bytes * (cluster_bytes // 8))


def _ceil(value: int, unit: int) -> int:
    return -(-value // unit)
