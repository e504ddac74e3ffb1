"""Disks as the tap sees them: whole block devices, their numbers, and the kernel's own statistics of each."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Iterator, NamedTuple

from guesttap.bpf.abi import MAX_DISKS
from guesttap.bpf.errors import DiskMissingError, UntappableDiskError

_SECTOR = 512
_NEVER = ("ram", "zram", "sr", "fd")
_REMAPPED_RAID = ("raid0", "linear")


class Disk(NamedTuple):
    """A tapped disk; `index` is its number in records, `bytes` its size at attach."""

    index: int  # type: ignore[assignment]  # hides tuple.index, on purpose
    name: str
    path: str
    major: int
    minor: int
    bytes: int


class KernelCounts(NamedTuple):
    """What the kernel counted on a whole disk since boot: sectors of 512 bytes, at completion."""

    write_sectors: int
    discard_sectors: int


def _sys(major: int, minor: int) -> Path:
    return Path(f"/sys/dev/block/{major}:{minor}")


def resolve_disks(paths: list[str]) -> list[Disk]:
    """Return the disks behind the paths, numbered in that order.

    Raises DiskMissingError; UntappableDiskError for a partition, a zoned or empty disk, one named twice.
    """
    if not 0 < len(paths) <= MAX_DISKS:
        raise UntappableDiskError(f"{len(paths)} disks were named; a tap takes 1 to {MAX_DISKS}")
    found = [_resolve(index, path) for index, path in enumerate(paths)]
    seen: dict[tuple[int, int], Disk] = {}
    for disk in found:
        other = seen.setdefault((disk.major, disk.minor), disk)
        if other is not disk:
            raise UntappableDiskError(f"{other.path} and {disk.path} are the same disk")
    return found


def _resolve(index: int, path: str) -> Disk:
    try:
        status = Path(path).stat()
    except OSError as error:
        raise DiskMissingError(f"{path}: {error.strerror}") from None
    if not stat.S_ISBLK(status.st_mode):
        raise DiskMissingError(f"{path} is no block device")
    major, minor = os.major(status.st_rdev), os.minor(status.st_rdev)
    folder = _sys(major, minor)
    if (folder / "partition").exists():
        raise UntappableDiskError(f"{path} is a partition, and records count from the whole disk's start")
    zoned = folder / "queue" / "zoned"
    if zoned.exists() and zoned.read_text().strip() != "none":
        raise UntappableDiskError(f"{path} is a zoned disk, which tells where data went only afterwards")
    size = int((folder / "size").read_text()) * _SECTOR
    if size == 0:
        raise UntappableDiskError(f"{path} holds no medium (0 bytes)")
    return Disk(index, folder.resolve().name, path, major, minor, size)


def current_bytes(disk: Disk) -> int:
    """Return the disk's size now."""
    return int((_sys(disk.major, disk.minor) / "size").read_text()) * _SECTOR


def kernel_counts(disk: Disk) -> KernelCounts:
    """Read the whole disk's statistics: its partitions are in them, write zeroes count as writes."""
    fields = (_sys(disk.major, disk.minor) / "stat").read_text().split()
    return KernelCounts(int(fields[6]), int(fields[13]) if len(fields) > 13 else 0)


def counts_kept(disk: Disk) -> bool:
    """Return whether the kernel keeps statistics for this disk (queue/iostats)."""
    switch = _sys(disk.major, disk.minor) / "queue" / "iostats"
    return not switch.exists() or switch.read_text().strip() != "0"


def requests_in_flight(disk: Disk) -> int:
    """Return how many reads and writes the disk is working on."""
    return sum(int(word) for word in (_sys(disk.major, disk.minor) / "inflight").read_text().split())


def largest_request(disk: Disk) -> int:
    """Return the bytes that one request of this disk can cover at most."""
    queue = _sys(disk.major, disk.minor) / "queue"
    sizes = [1 << 20]
    for name, unit in (("max_sectors_kb", 1024), ("discard_max_bytes", 1), ("write_zeroes_max_bytes", 1)):
        if (queue / name).exists():
            sizes.append(int((queue / name).read_text()) * unit)
    return max(sizes)


def disks_to_tap(loops: bool = False) -> list[str]:
    """Return the paths of the whole disks that carry a mounted file system, sorted.

    LVM and other device-mapper volumes are followed down to their disks, where their bios show up too; md
    raid0 and linear are tapped themselves, since they redirect bios without a new submission. A disk that is
    only swap is left out. Loop devices count only if asked for.
    """
    names: set[str] = set()
    for folder in _mounted_devices():
        names.update(_carriers(folder))
    wanted = (n for n in names if not n.startswith(_NEVER) and (loops or not n.startswith("loop")))
    return sorted("/dev/" + name.replace("!", "/") for name in wanted)


def _mounted_devices() -> Iterator[Path]:
    """Yield the sysfs folder of each block device that a mount or a btrfs volume uses."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        source = fields[fields.index("-") + 2]
        by_number = Path("/sys/dev/block") / fields[2]
        if by_number.exists():
            yield by_number.resolve()
        elif source.startswith("/dev/") and os.path.exists(source):  # noqa: PTH110
            status = Path(source).stat()
            if stat.S_ISBLK(status.st_mode):
                yield _sys(os.major(status.st_rdev), os.minor(status.st_rdev)).resolve()
    yield from (member.resolve() for member in Path("/sys/fs/btrfs").glob("*/devices/*"))


def _carriers(folder: Path) -> Iterator[str]:
    """Yield the names of the whole disks under a block device."""
    if (folder / "partition").exists():
        folder = folder.parent
    level = folder / "md" / "level"
    slaves = list((folder / "slaves").glob("*"))
    if not slaves or (level.exists() and level.read_text().strip() in _REMAPPED_RAID):
        yield folder.name
        return
    for slave in slaves:
        yield from _carriers(slave.resolve())
