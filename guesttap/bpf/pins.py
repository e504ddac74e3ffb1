"""The tap's place in the bpf file system: what is pinned there outlives every process.

DIR/map_NAME      each map (abi.py, maps.py)
DIR/program_NAME  the programs; DIR/link_NAME their attachments
DIR/ready         the meta map once more, pinned last: a directory without it is a torso
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from guesttap.bpf import syscall
from guesttap.bpf.errors import AlreadyAttachedError, BpfCallError, BrokenTapError, TapUnsupportedError
from guesttap.bpf.fragments import Maps

PIN_DIRECTORY = "/sys/fs/bpf/lastwrite"
_ROOT = "/sys/fs/bpf"
_READY = "ready"


class Pins:
    """One directory of pins."""

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def _path(self, name: str) -> str:
        return self.directory + "/" + name

    def is_ready(self) -> bool:
        """Return whether a complete tap is pinned here."""
        return os.path.exists(self._path(_READY))  # noqa: PTH110

    def create(self) -> None:
        """Make the directory; clears a torso left by an attach that was killed.

        Raises AlreadyAttachedError, TapUnsupportedError if there is no bpf file system to be had.
        """
        if self.is_ready():
            raise AlreadyAttachedError(f"a tap is attached already, pinned under {self.directory}")
        try:
            if self.directory.startswith(_ROOT + "/") and not syscall.is_bpf_mount(_ROOT):
                syscall.mount_bpf(_ROOT)
            self.remove()
            Path(self.directory).mkdir(mode=0o700, parents=True)
        except OSError as error:
            raise TapUnsupportedError(f"no place for pins at {self.directory}: {error.strerror}") from None
        if not syscall.is_bpf_mount(self.directory):
            Path(self.directory).rmdir()
            raise TapUnsupportedError(
                f"{self.directory} does not lie in a bpf file system",
                hint="Name a directory under /sys/fs/bpf.",
            )

    def pin(self, name: str, fd: int) -> None:
        """Pin one thing."""
        syscall.pin(fd, self._path(name))

    def pin_maps(self, maps: Maps) -> None:
        """Pin all maps."""
        for name, fd in maps._asdict().items():
            self.pin("map_" + name, fd)

    def finish(self, maps: Maps) -> None:
        """Declare the tap complete."""
        self.pin(_READY, maps.meta)

    def open(self, name: str) -> int:
        """Open one pinned thing; raises BrokenTapError if it is not there."""
        try:
            return syscall.open_pin(self._path(name))
        except BpfCallError as error:
            if error.details["errno"] == errno.ENOENT:
                raise BrokenTapError(f"the pinned tap at {self.directory} lacks {name}") from None
            raise

    def open_maps(self) -> Maps:
        """Open all maps; raises BrokenTapError."""
        made: dict[str, int] = {}
        try:
            for name in Maps._fields:
                made[name] = self.open("map_" + name)
        except Exception:
            for fd in made.values():
                os.close(fd)
            raise
        return Maps(**made)

    def remove(self) -> None:
        """Unpin everything, `ready` and the links first; with the last descriptors the programs go too."""
        if not os.path.isdir(self.directory):  # noqa: PTH112
            return
        names = sorted(os.listdir(self.directory), key=lambda n: (n != _READY, not n.startswith("link"), n))  # noqa: PTH208
        for name in names:
            Path(self._path(name)).unlink()
        Path(self.directory).rmdir()
