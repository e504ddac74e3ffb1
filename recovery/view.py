"""A view: one disk at one recovery point, readable with no copying.

Owns the choice of the disk; what a block holds is the journal's business (`journal.map`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from journal.pins import Hold
from lastwrite.names import nearest_hint
from recovery.errors import DiskNotFound
from recovery.points import RecoveryPoint

if TYPE_CHECKING:
    from journal.notes import JournalDisk
    from journal.reader import JournalReader


class Readable(Protocol):
    """What can be exported or written out: a disk that never changes. Offsets and lengths in bytes.

    Every method that reads raises an IntegrityError (naming the frame) rather than give a wrong byte.
    """

    @property
    def disk_bytes(self) -> int:
        """Length of the disk."""

    def pieces(self, offset: int, length: int) -> list[memoryview]:
        """Return the content as buffers in order, without copying."""

    def extents(self, offset: int, length: int) -> Iterator[tuple[int, int, bool]]:
        """Yield (offset, length, whether data may be there) in order, covering the range."""


class View:
    """One disk of a VM at one recovery point. Read only, and for any number of threads."""

    def __init__(self, reader: JournalReader, point: RecoveryPoint, disk: str) -> None:
        """Resolve `disk` (its name, such as vda) at `point`.

        Raises DiskNotFound, or the journal's NotRecoverable when damage makes this point unusable.
        """
        self.point = point
        self.disk = find_disk(reader, point, disk)
        self._hold = Hold(
            reader.folder, point.timeline, point.lsn
        )  # retention keeps it as long as this lives
        self._map = reader.resolve(point.lsn, self.disk.disk, point.timeline)

    @property
    def disk_bytes(self) -> int:
        """Length of the disk."""
        return self._map.disk_bytes

    def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes at `offset`. Raises FrameError when they are damaged."""
        return self._map.read(offset, length)

    def pieces(self, offset: int, length: int) -> list[memoryview]:
        """Return the content as buffers, each verified before its first byte. Raises FrameError when it is damaged."""
        return self._map.pieces(offset, length)

    def extents(self, offset: int, length: int) -> Iterator[tuple[int, int, bool]]:
        """Yield (offset, length, whether data is there) in order, covering the range."""
        return self._map.extents(offset, length)


def disks_at(reader: JournalReader, point: RecoveryPoint) -> tuple[JournalDisk, ...]:
    """Return the disks that the VM had in the journal at `point`: they may be others than today's."""
    return reader.point(point.lsn, point.timeline).disks


def find_disk(reader: JournalReader, point: RecoveryPoint, name: str) -> JournalDisk:
    """Return the disk that had that name at `point`. Raises DiskNotFound with the nearest names."""
    disks = {disk.name: disk for disk in disks_at(reader, point)}
    if name not in disks:
        hint = nearest_hint(name, disks, "The journal holds no disk at this point.")
        raise DiskNotFound(f"{reader.name} has no disk {name!r} in its journal at {point.pinned}", hint=hint)
    return disks[name]
