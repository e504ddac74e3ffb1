"""From a point to the place of every block of a disk: newest record wins, exact to the sector.

Files that count as a whole come as nets, from their index, from net maps, or made here; only the file that the point
cuts through is looked at record by record. A window of the disk is filled when it is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from journal.data import SegmentData
from journal.index.chunks import CHUNK, BadCache, FileUnit, MemoryUnit, Part, Unit
from journal.index.filenets import unit_of
from journal.index.netmap import Maps
from journal.map.blockmap import BlockMap, Space
from journal.map.net import PER_BLOCK, distinct, is_among
from journal.map.window import Filling, Window
from journal.scan import SegmentScan
from journal.table import Table

_NEVER = 1 << 62
_READ_AHEAD = 256 << 30  # of larger disks, most often only a part is asked for


class Source(NamedTuple):
    """One file of a lineage, and how far it counts."""

    data: SegmentData
    last_lsn: int
    last_epoch: int

    @property
    def scan(self) -> SegmentScan:
        """What the file's heads say."""
        return self.data.scan


class _Placed(NamedTuple):
    """A unit with the numbers of the first file that it is made of, and of the one after the last."""

    unit: Unit
    first: int
    end: int


class _CutUnit:
    """The net of a file's records up to a point, made when it is first asked for."""

    def __init__(self, scan: SegmentScan, last_lsn: int, disk: int) -> None:
        self._scan = scan
        self._last_lsn = last_lsn
        self._disk = disk

    @cached_property
    def _made(self) -> MemoryUnit:
        return unit_of(self._scan, self._last_lsn, self._disk)

    @property
    def directory(self) -> Table:
        """Its chunks. Raises DamagedJournal."""
        return self._made.directory

    def read(self, index: int) -> Part:
        """Return a chunk."""
        return self._made.read(index)

    def expect(self) -> None:
        """Let the kernel begin to read what the net is made of."""
        self._scan.expect_records()


def resolve(
    sources: Sequence[Source], epochs: Sequence[int], lsn: int, disk: int, disk_bytes: int
) -> BlockMap:
    """Return the map of `disk` at `lsn` made of the records of `epochs`. Raises DamagedJournal.

    The files are open when this returns: the map stays readable when they are deleted.
    """
    space = Space([source.data for source in sources], [source.data.sectors for source in sources])
    layers = Layers(sources, epochs, lsn, disk, space, ahead=disk_bytes <= _READ_AHEAD)
    return BlockMap(disk_bytes, space, layers.fill)


class Layers:
    """What a map is made of: chunks of nets, in the order in which they are laid over one another.

    With `ahead` the kernel begins to read, at once, what every window will need.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        epochs: Sequence[int],
        lsn: int,
        disk: int,
        space: Space,
        *,
        ahead: bool = False,
    ) -> None:
        self._sources = sources
        self._epochs = distinct(np.array(epochs, np.int64))
        self._lsn = lsn
        self._disk = disk
        self._space = space
        self._units = self._gather()
        if ahead:
            self._expect()
        self._plan, self._unit_of, self._chunk_of = self._planned()

    def _gather(self) -> list[_Placed]:
        """Return the units in the order of the files, and open the files that they need."""
        units: list[_Placed] = []
        oldest = int(self._epochs.min(initial=_NEVER))
        maps, runs = Maps(), self._runs()
        number = 0
        while number < len(self._sources):
            scan = self._sources[number].data.scan
            if not scan.frame_count or scan.first_lsn > self._last(number) or scan.epoch < oldest:
                number += 1
                continue
            whole = [source.data for source in self._sources[number : number + runs[number]]]
            found = maps.best(whole)
            end = number + (found.files if found else 1)
            for source in self._sources[number:end]:
                source.data.hold()
            units.append(_Placed(found.unit if found else self._of_file(number), number, end))
            number = end
        return units

    def _expect(self) -> None:
        # The last first: the file that the point cuts through is needed before the others.
        for placed in reversed(self._units):
            if isinstance(placed.unit, FileUnit | _CutUnit):
                placed.unit.expect()

    def _last(self, number: int) -> int:
        return min(self._lsn, self._sources[number].last_lsn)

    def _is_whole(self, number: int) -> bool:
        return self._sources[number].data.scan.following_lsn - 1 <= self._last(number)

    def _runs(self) -> list[int]:
        """Return for each file how many from it on are sealed, count as a whole, and are of one timeline."""
        runs = [0] * (len(self._sources) + 1)
        for number in reversed(range(len(self._sources))):
            data = self._sources[number].data
            if data.scan.sealed and self._is_whole(number):
                goes_on = (
                    runs[number + 1]
                    and data.scan.path.parent == self._sources[number + 1].data.scan.path.parent
                )
                runs[number] = 1 + (runs[number + 1] if goes_on else 0)
        return runs

    def _of_file(self, number: int) -> Unit:
        scan = self._sources[number].data.scan
        if scan.sealed and self._is_whole(number):
            return scan.unit()
        return _CutUnit(scan, self._last(number), self._disk)

    def _planned(self) -> tuple[Table, list[int], list[int]]:
        """Return the chunks that count, in their order, with the numbers of their units and in these."""
        directories = [placed.unit.directory for placed in self._units]
        plan = np.frombuffer(b"".join(directory.tobytes() for directory in directories), CHUNK)
        length = np.array([len(directory) for directory in directories], np.int64)
        unit = np.repeat(np.arange(len(length)), length)
        chunk = np.arange(len(plan)) - np.repeat(np.cumsum(length) - length, length)
        last = np.array([self._sources[placed.first].last_epoch for placed in self._units], np.int64)
        counted = is_among(plan["epoch"], self._epochs) & (plan["disk"] == self._disk)
        at = np.flatnonzero(counted & (plan["epoch"] <= last[unit]))
        order = at[np.lexsort((unit[at], plan["rank"][at], plan["epoch"][at]))]
        return plan[order], unit[order].tolist(), chunk[order].tolist()

    def fill(self, first: int, blocks: int) -> Window:
        """Return the window of so many blocks from `first` on. Raises DamagedJournal."""
        while True:
            filling = Filling(first, blocks, self._space.dtype)
            bad = self._lay_all(filling, first * PER_BLOCK, (first + blocks) * PER_BLOCK)
            if bad is None:
                return filling.window()
            self._replace(bad)

    def _lay_all(self, filling: Filling, low: int, high: int) -> int | None:
        """Lay every chunk that reaches into a range of sectors; return the number of a unit that is bad."""
        if not len(self._plan):
            return None
        for at in np.flatnonzero((self._plan["first"] < high) & (self._plan["end"] > low)).tolist():
            placed = self._units[self._unit_of[at]]
            try:
                part = placed.unit.read(self._chunk_of[at])
            except BadCache:
                return self._unit_of[at]
            filling.lay(part, int(self._space.bases[placed.first]))
        return None

    def _replace(self, bad: int) -> None:
        """Put what a bad cache was made of in its place."""
        first, end = self._units[bad][1:]
        units = []
        for number in range(first, end):
            scan = self._sources[number].data.scan
            units.append(
                _Placed(scan.unit() if end - first > 1 else scan.unit_from_heads(), number, number + 1)
            )
        self._units[bad : bad + 1] = units
        self._plan, self._unit_of, self._chunk_of = self._planned()
