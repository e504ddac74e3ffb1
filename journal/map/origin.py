"""Where the blocks of a map come from: the frames that hold them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from journal.data import SegmentData
from journal.frame import SECTOR
from journal.map.blockmap import BlockMap
from journal.map.net import ZERO_PLACE
from journal.table import Int64s


class FrameOf(NamedTuple):
    """One frame: the file, and its number there, from 0."""

    data: SegmentData
    number: int

    @property
    def first_lsn(self) -> int:
        """LSN of its first record; of a net frame: of its interval."""
        return int(self.data.scan.frames.array()["first_lsn"][self.number])


def frames_of(blocks: BlockMap) -> set[FrameOf]:
    """Return every frame whose data the map needs."""
    found: set[FrameOf] = set()
    for window in blocks.windows():
        for places in (window.table, window.patches):
            if places is not None:
                found |= _frames(blocks, np.asarray(places[places > ZERO_PLACE], np.int64))
    return found


def _frames(blocks: BlockMap, places: Int64s) -> set[FrameOf]:
    found: set[FrameOf] = set()
    for number, mine in by_file(blocks, places):
        data = blocks.space.sources[number]
        found |= {FrameOf(data, index) for index in np.unique(indexes(blocks, number, places[mine])).tolist()}
    return found


def by_file(blocks: BlockMap, places: Int64s) -> list[tuple[int, Int64s]]:
    """Return (number of the file, positions in `places`) for each file that places lie in; zeros are left out."""
    numbers = np.searchsorted(blocks.space.bases, places, "right") - 1
    numbers[places <= ZERO_PLACE] = -1
    return [
        (number, np.flatnonzero(numbers == number)) for number in np.unique(numbers).tolist() if number >= 0
    ]


def indexes(blocks: BlockMap, number: int, places: Int64s) -> Int64s:
    """Return the indexes of the frames that places of one file lie in."""
    data = blocks.space.sources[number].scan.frames.array()["data"]
    offsets = (places - int(blocks.space.bases[number])) * SECTOR
    # The last frame whose payload begins at or before the place; one without payload shares no bytes.
    found: Int64s = np.searchsorted(data, offsets, "right") - 1
    return found
