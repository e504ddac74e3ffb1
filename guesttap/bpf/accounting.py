"""Proof that nothing was missed: what was captured or marked dirty equals what the kernel itself counted.

The tap counts a write when it is submitted, the kernel when it completes (also if the disk failed it). A
bio that was refused before it became a request is counted by the tap alone, so it is subtracted. At a quiet
moment the numbers are therefore equal to the sector. While I/O is in flight the tap is ahead by at most that
I/O, and a kernel that is ahead of the tap has always seen a write that the tap missed.
"""

from __future__ import annotations

import time
from typing import Callable, Dict, NamedTuple, Optional

from guesttap.bpf.disks import (
    Disk,
    KernelCounts,
    counts_kept,
    kernel_counts,
    largest_request,
    requests_in_flight,
)

_SECTOR = 512
_PAUSE = 0.005

Counters = Callable[[Disk], Dict[str, int]]


class Point(NamedTuple):
    """Both sides' counts of one disk at one moment, in sectors; `quiet`: nothing was in flight then."""

    captured: int
    dirty: int
    refused: int
    kernel: int
    in_flight: int
    quiet: bool

    @property
    def tap(self) -> int:
        """What the kernel should count once all is completed."""
        return self.captured + self.dirty - self.refused


class DiskAccount(NamedTuple):
    """One disk since its baseline, in sectors of 512 bytes (writes, zeroings and discards)."""

    disk: int
    captured: int
    dirty: int
    refused: int
    kernel: int
    in_flight: int
    quiet: bool
    tolerance: int  # sectors by which the tap may be ahead: 0 at a quiet moment
    known: bool  # False: the kernel keeps no statistics for it, or no quiet moment came since attach

    @property
    def difference(self) -> int:
        """Sectors by which the tap's count is ahead of the kernel's; negative: writes were missed."""
        return self.captured + self.dirty - self.refused - self.kernel

    @property
    def balanced(self) -> bool:
        """Return whether nothing can have been missed, as far as can be told now."""
        return self.known and 0 <= self.difference <= self.tolerance


class Accounting(NamedTuple):
    """The accounts of all tapped disks."""

    disks: list[DiskAccount]

    @property
    def balanced(self) -> bool:
        """Return whether every disk's account balances."""
        return all(account.balanced for account in self.disks)

    @property
    def quiet(self) -> bool:
        """Return whether every account was taken at a quiet moment: then `balanced` is exact."""
        return all(account.quiet for account in self.disks)

    @property
    def difference(self) -> int:
        """Return the sum of the disks' differences, in sectors."""
        return sum(account.difference for account in self.disks)


def _sectors(counters: dict[str, int], kind: str) -> int:
    return (counters[kind + "write_bytes"] + counters[kind + "discard_bytes"]) // _SECTOR


def _total(counts: KernelCounts) -> int:
    return counts.write_sectors + counts.discard_sectors


def observe(disk: Disk, counters: Counters, patience: float) -> Point:
    """Read both sides of one disk, at a quiet moment if one comes within `patience` seconds.

    Quiet means: nothing in flight, and neither count changed over a few milliseconds around that.
    """
    deadline = time.monotonic() + patience
    before = _read(disk, counters)
    while True:
        time.sleep(_PAUSE)
        after = _read(disk, counters)
        if before == after and not after.in_flight:
            return after._replace(quiet=True)
        if time.monotonic() >= deadline:
            return after
        before = after


def _read(disk: Disk, counters: Counters) -> Point:
    in_flight = requests_in_flight(disk)
    kernel = _total(kernel_counts(disk))
    mine = counters(disk)  # last: so the kernel can be ahead only if a write was missed
    captured, dirty, refused = (_sectors(mine, kind) for kind in ("", "dirty_", "refused_"))
    return Point(captured, dirty, refused, kernel, in_flight, False)


def account(disk: Disk, base: Optional[Point], now: Point) -> DiskAccount:  # noqa: UP045
    """Compare a point with the disk's baseline."""
    known = base is not None and counts_kept(disk)
    start = base if base is not None else now
    # A request is counted when it ends; as much again may sit in plugs, not yet requests.
    tolerance = 0 if now.quiet else 2 * (now.in_flight + 16) * largest_request(disk) // _SECTOR
    return DiskAccount(
        disk.index,
        now.captured - start.captured,
        now.dirty - start.dirty,
        now.refused - start.refused,
        now.kernel - start.kernel,
        now.in_flight,
        now.quiet,
        tolerance,
        known,
    )
