"""Places that may differ from what the appliance has: a byte per 64 KiB of disk, in the agent's memory."""

from __future__ import annotations

from typing import Iterable, Iterator, Mapping, NamedTuple

GRAIN_SHIFT = 16
GRAIN = 1 << GRAIN_SHIFT


class Extent(NamedTuple):
    """A range of one disk, in bytes."""

    disk: int
    offset: int
    length: int


class DirtySet:
    """A set of 64 KiB grains. `sizes`: bytes of each disk by its index."""

    def __init__(self, sizes: Mapping[int, int]) -> None:
        self._sizes = dict(sizes)
        self._grains = {disk: bytearray((size + GRAIN - 1) >> GRAIN_SHIFT) for disk, size in sizes.items()}

    def add(self, disk: int, offset: int, length: int) -> None:
        """Add every grain that the range touches; what lies beyond the disk's end is left out."""
        grains = self._grains.get(disk)
        if grains is None or length <= 0:
            return
        first = offset >> GRAIN_SHIFT
        end = min(len(grains), ((offset + length - 1) >> GRAIN_SHIFT) + 1)
        if end - first == 1:
            grains[first] = 1
        elif end > first:
            grains[first:end] = b"\1" * (end - first)

    def add_all(self, extents: Iterable[tuple[int, int, int]]) -> None:
        """Add many ranges (disk, offset, length)."""
        for disk, offset, length in extents:
            self.add(disk, offset, length)

    def update(self, other: DirtySet) -> None:
        """Add everything that `other` holds; both are of the same disks."""
        for disk, grains in other._grains.items():
            mine = self._grains[disk]
            joined = int.from_bytes(mine, "little") | int.from_bytes(grains, "little")
            mine[:] = joined.to_bytes(len(mine), "little")

    def extents(self) -> Iterator[Extent]:
        """Yield the ranges in order of disk and place, neighbours merged, clipped to the disk."""
        for disk in sorted(self._grains):
            grains = self._grains[disk]
            start = grains.find(1)
            while start >= 0:
                end = grains.find(0, start)
                end = len(grains) if end < 0 else end
                offset = start << GRAIN_SHIFT
                yield Extent(disk, offset, min(end << GRAIN_SHIFT, self._sizes[disk]) - offset)
                start = grains.find(1, end)

    def __bool__(self) -> bool:
        return any(1 in grains for grains in self._grains.values())
