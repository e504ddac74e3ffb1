"""The file systems on the tapped disks: which can be written, in which order to freeze them, and freezing itself."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
from pathlib import Path
from typing import Iterable, Iterator, NamedTuple

FIFREEZE, FITHAW = 0xC0045877, 0xC0045878
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOSYS)
_SYS = Path("/sys/dev/block")


class Mount(NamedTuple):
    """A mounted file system: where, of what kind, and the sysfs folder of its block device."""

    point: str
    kind: str
    device: Path


def mounts_on(disks: Iterable[str]) -> list[Mount]:
    """Return the writable file systems on these whole disks (names such as vda), in the order of mounting.

    Each file system once, whatever it is bound to besides. LVM and other mapped volumes are followed.
    """
    wanted = set(disks)
    found: dict[Path, Mount] = {}
    for mount, writable in _parse(Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape")):
        if writable and mount.device not in found and wanted & set(_carriers(mount.device)):
            found[mount.device] = mount
    return list(found.values())


def _parse(text: str) -> Iterator[tuple[Mount, bool]]:
    for line in text.splitlines():
        fields = line.split(" ")
        dash = fields.index("-")
        kind, source, options = fields[dash + 1 : dash + 4]
        device = _device(fields[2], _unescape(source))
        if device is not None:
            yield Mount(_unescape(fields[4]), kind, device), "ro" not in options.split(",")


def _device(number: str, source: str) -> Path | None:
    if not (_SYS / number).exists():
        # btrfs shows a number of its own.
        try:
            status = os.stat(source) if source.startswith("/dev/") else None  # noqa: PTH116
        except OSError:
            status = None
        if status is None:
            return None
        number = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    return (_SYS / number).resolve() if (_SYS / number).exists() else None


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), text)


def _carriers(device: Path) -> Iterator[str]:
    """Yield the names of the whole disks under a block device, and of what lies between."""
    if (device / "partition").exists():
        device = device.parent
    yield device.name
    for slave in (device / "slaves").glob("*"):
        yield from _carriers(slave.resolve())


class OpenMount:
    """One file system, held open, so that thawing it needs no path any more."""

    def __init__(self, mount: Mount) -> None:
        self.mount = mount
        self._fd = os.open(mount.point, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def flush(self) -> None:
        """Write everything out, so that freezing takes no time. Raises OSError."""
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syncfs(self._fd) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def freeze(self) -> bool:
        """Freeze it; False when this kind of file system cannot be frozen. Raises OSError."""
        try:
            fcntl.ioctl(self._fd, FIFREEZE, 0)
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                return False
            raise
        return True

    def thaw(self) -> bool:
        """Thaw it; False when it was not frozen any more."""
        try:
            fcntl.ioctl(self._fd, FITHAW, 0)
        except OSError:
            return False
        return True

    def written(self) -> str:
        """Return what changes with each write: the device's counters of completed and running writes."""
        stat = (self.mount.device / "stat").read_text("ascii").split()
        return " ".join([stat[4], *(self.mount.device / "inflight").read_text("ascii").split()[1:2]])


def open_mounts(mounts: Iterable[Mount]) -> tuple[list[OpenMount], list[str]]:
    """Open the mount points; returns those, and in words which could not be opened."""
    opened, problems = [], []
    for mount in mounts:
        try:
            opened.append(OpenMount(mount))
        except OSError as error:
            problems.append(f"{mount.point} could not be opened: {error.strerror}")
    return opened, problems
