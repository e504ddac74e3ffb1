"""Lost writes that have not landed yet: until they have, a read of their place may show the old content.

The kernel keeps them in a map from the bio's address to its slot, and removes each when it completes
(requests.py, complete.py). It can fail to: not every completion is seen, and the map can be full. Both are
repaired here, on the safe side: at a moment when the disk is idle, or after longer than any I/O time-out.
"""

from __future__ import annotations

import struct
import time
from typing import Callable, Dict, Iterator

from guesttap.bpf import abi, syscall
from guesttap.bpf.disks import Disk, requests_in_flight
from guesttap.bpf.fragments import Maps

_UNSEEN_AFTER = 2_000_000_000  # ns: older than this on an idle disk, it has landed unseen
_GIVEN_UP_AFTER = 300_000_000_000  # ns: and on a busy one

Mark = Callable[[int, int, int], None]  # disk, byte offset, byte length


class LostWrites:
    """Reader of the pending map. `mark` makes an extent dirty."""

    def __init__(self, maps: Maps, disks: list[Disk], totals: memoryview, mark: Mark) -> None:
        self._fd = maps.pending
        self._disks = {disk.index: disk for disk in disks}
        self._totals = totals
        self._mark = mark
        self._untracked_settled = 0

    def count(self) -> int:
        """Return how many lost writes may still be in flight, after the repairs that are possible now."""
        unsettled = self._settle_untracked()
        if self._totals[abi.T["landed"] // 8] == self._totals[abi.T["tracked"] // 8]:
            return unsettled
        idle = {index: not requests_in_flight(disk) for index, disk in self._disks.items()}
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        return unsettled + sum(not self._landed_unseen(key, idle, now) for key in list(self._keys()))

    def _keys(self) -> Iterator[bytes]:
        key = syscall.next_key(self._fd, None, 8)
        seen = 0
        while key is not None and seen <= abi.PENDING_ENTRIES:  # the map changes meanwhile: bounded
            yield key
            seen += 1
            key = syscall.next_key(self._fd, key, 8)

    def _landed_unseen(self, key: bytes, idle: Dict[int, bool], now: int) -> bool:  # noqa: UP006
        """Return whether this one is gone, marking it once more if the kernel did not see it land."""
        slot = syscall.lookup(self._fd, key, abi.SLOT_BYTES)
        if slot is None:
            return True
        submitted, offset = struct.unpack_from("<QQ", slot, abi.S_TIME)
        (disk,) = struct.unpack_from("<I", slot, abi.S_DISK)
        (length,) = struct.unpack_from("<I", slot, abi.S_WHOLE)
        if now - submitted < (_UNSEEN_AFTER if idle.get(disk, False) else _GIVEN_UP_AFTER):
            return False
        self._mark(disk, offset, length)
        syscall.delete(self._fd, key)
        return True

    def _settle_untracked(self) -> int:
        """Return 1 while writes that were not remembered may be in flight; at the end all becomes dirty."""
        untracked = self._totals[abi.T["untracked"] // 8]
        if untracked == self._untracked_settled:
            return 0
        if any(requests_in_flight(disk) for disk in self._disks.values()):
            return 1
        for disk in self._disks.values():
            self._mark(disk.index, 0, disk.bytes)
        self._untracked_settled = untracked
        return 0
