"""The truth about a simulated guest: what each of its disks held after each record. Shares no code with journal/."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

SECTOR, BLOCK = 512, 4096
_SNAPSHOT_EVERY = 400

Images = dict[int, bytes]


class Made(NamedTuple):
    """One record as the tap sent it; `data` is zeros for a discard or a zeroing."""

    epoch: int
    sync: bool
    disk: int
    sector: int
    data: bytes


@dataclass
class EpochTruth:
    """An epoch: the disks at its sync-end (LSN `valid_from`), the newest LSN that its tap gave out."""

    number: int
    begins: int
    sync: str
    valid_from: int | None = None
    base: Images = field(default_factory=dict)
    last: int = 0
    certain: bool = False
    """Whether the sync-end was acknowledged."""


class Truth:
    """What was written, by LSN. `sizes`: bytes of each disk."""

    def __init__(self, sizes: dict[int, int]) -> None:
        self.sizes = sizes
        self.epochs: list[EpochTruth] = []
        self.made: dict[int, Made] = {}
        self._snapshots: dict[int, Images] = {}

    def begin(self, number: int, after_lsn: int, sync: str) -> None:
        """An epoch begins behind an LSN; what was given out after that LSN never came to be."""
        for lsn in [lsn for lsn in self.made if lsn > after_lsn]:
            del self.made[lsn]
        self._snapshots = {lsn: images for lsn, images in self._snapshots.items() if lsn <= after_lsn}
        self.epochs = [epoch for epoch in self.epochs if epoch.number < number]
        for epoch in self.epochs:
            epoch.last = min(epoch.last, after_lsn)
            if epoch.valid_from is not None and epoch.valid_from > after_lsn:
                epoch.valid_from = None
        self.epochs.append(EpochTruth(number, after_lsn, sync, last=after_lsn))

    def record(self, lsn: int, made: Made) -> None:
        """A record was given out."""
        self.made[lsn] = made
        self.epochs[-1].last = lsn

    def sync_end(self, lsn: int, images: Images) -> None:
        """The sync of the newest epoch ends at an LSN, where the disks are as `images` says."""
        self.epochs[-1].valid_from, self.epochs[-1].base = lsn, images
        self._snapshots[lsn] = images

    def epoch_at(self, lsn: int) -> EpochTruth | None:
        """Return the epoch whose points an LSN is among, None when it is no recovery point."""
        for epoch in reversed(self.epochs):
            if epoch.valid_from is not None and epoch.valid_from <= lsn <= epoch.last:
                return epoch
        return None

    def points(self, before_lsn: int) -> list[tuple[int, int]]:
        """Return the ranges (first, last) of the recovery points before an LSN, oldest first."""
        spans = [(e.valid_from, min(e.last, before_lsn - 1)) for e in self.epochs if e.valid_from is not None]
        return [(first, last) for first, last in spans if first <= last]

    def settle(self, valid: set[int]) -> None:
        """Take from the journal which epochs are valid whose sync-end was sent but never acknowledged."""
        for epoch in self.epochs[:-1]:
            if not epoch.certain and epoch.number not in valid:
                epoch.valid_from = None

    def state(self, lsn: int) -> Images:
        """Return every disk as it was at a recovery point."""
        epoch = self.epoch_at(lsn)
        assert epoch is not None, lsn
        assert epoch.valid_from is not None
        known = sorted(at for at in self._snapshots if epoch.valid_from <= at <= lsn)
        start, images = (known[-1], self._snapshots[known[-1]]) if known else (epoch.valid_from, epoch.base)
        disks = {disk: bytearray(image) for disk, image in images.items()}
        for at in range(start + 1, lsn + 1):
            made = self.made[at]
            if made.epoch == epoch.number:
                place = made.sector * SECTOR
                disks[made.disk][place : place + len(made.data)] = made.data
        result = {disk: bytes(image) for disk, image in disks.items()}
        if lsn - start > _SNAPSHOT_EVERY:
            self._snapshots[lsn] = result
        return result

    def owners(self, lsn: int, disk: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Return for each sector of a disk the LSN of the record whose data a point shows (0: none).

        By the rule of the format: valid epochs in order, in each its sync records, then its captured ones.
        """
        epoch = self.epoch_at(lsn)
        assert epoch is not None, lsn
        owner = np.zeros(-(-self.sizes[disk] // SECTOR), np.int64)
        layers = [e for e in self.epochs if e.valid_from is not None and e.number <= epoch.number]
        numbers = {e.number: rank for rank, e in enumerate(layers)}
        ordered = sorted(
            (numbers[made.epoch], not made.sync, at)
            for at, made in self.made.items()
            if made.disk == disk and made.epoch in numbers and at <= lsn
        )
        for _, _, at in ordered:
            made = self.made[at]
            owner[made.sector : made.sector + len(made.data) // SECTOR] = at
        return owner

    def whole_since(self, lsn: int) -> int:
        """Return the epoch that a point needs nothing before: the newest valid one that sent every block."""
        epoch = self.epoch_at(lsn)
        assert epoch is not None, lsn
        numbers = [
            e.number for e in self.epochs if e.valid_from is not None and e.sync not in ("bitmap", "delta")
        ]
        return numbers[bisect_right(numbers, epoch.number) - 1]
