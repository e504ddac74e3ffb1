"""One image of a rescue: what can be read is written, what cannot is left as zeros and listed."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from journal.errors import DamagedJournal
from journal.frame import FrameError
from journal.map.blockmap import BlockMap
from journal.offline.doubt import Doubt

STEP_BYTES = 4 << 20
ZEROS, OLD = "zeros", "may be old"


@dataclass(frozen=True, slots=True)
class BadBytes:
    """Bytes of an image that nobody can vouch for. `content`: `zeros` (put there) or `may be old`."""

    offset: int
    length: int
    content: str
    reason: str


@dataclass
class RescuedDisk:
    """One image: its path, the disk's length and how much of it is data (bytes), what is doubtful in it."""

    disk: str
    path: Path
    bytes: int
    data_bytes: int = 0
    damaged: list[BadBytes] = field(default_factory=list)
    damage_list: Path | None = None


def write_image(blocks: BlockMap, file: int, written: RescuedDisk, best_effort: bool) -> Iterator[int]:
    """Write one image; yield how far it is (bytes). Raises FrameError unless `best_effort`."""
    os.ftruncate(file, blocks.disk_bytes)
    for offset, length, data in blocks.extents():
        if not data:
            yield offset + length
            continue
        for start in range(offset, offset + length, STEP_BYTES):
            size = min(STEP_BYTES, offset + length - start)
            try:
                put(file, blocks.pieces(start, size), start)
                written.data_bytes += size
            except (FrameError, DamagedJournal):
                if not best_effort:
                    raise
                _write_what_is_good(blocks, file, written, start, size)
            yield start + size


def _write_what_is_good(blocks: BlockMap, file: int, written: RescuedDisk, offset: int, length: int) -> None:
    """Write the runs of a range that can be read; leave zeros for the others, and list them."""
    for run in blocks.runs(offset, length):
        try:
            put(file, blocks.pieces(run.offset, run.length), run.offset)
            written.data_bytes += run.length
        except (FrameError, DamagedJournal) as error:
            _join(written.damaged, BadBytes(run.offset, run.length, ZEROS, error.message))


def put(file: int, pieces: list[memoryview], offset: int) -> None:
    """Write pieces one after the other at a place of a file, all of them. Raises OSError."""
    data = memoryview(b"".join(pieces))
    while data:
        count = os.pwrite(file, data, offset)
        data, offset = data[count:], offset + count


def _join(found: list[BadBytes], new: BadBytes) -> None:
    """Append a range; lengthen the last one when the new one only goes on with it."""
    last = found[-1] if found else None
    if (
        last
        and last.offset + last.length == new.offset
        and (last.content, last.reason) == (new.content, new.reason)
    ):
        found[-1] = BadBytes(last.offset, last.length + new.length, last.content, last.reason)
    else:
        found.append(new)


def take_doubts(written: RescuedDisk, found: list[Doubt]) -> None:
    """Add the ranges that may be older than the point; where zeros were put, that is what is told."""
    zeroed = list(written.damaged)  # by offset
    ends = [entry.offset + entry.length for entry in zeroed]
    for doubt in found:
        at, end = doubt.offset, doubt.offset + doubt.length
        index = bisect_right(ends, at)
        while index < len(zeroed) and zeroed[index].offset < end:
            if at < zeroed[index].offset:
                written.damaged.append(BadBytes(at, zeroed[index].offset - at, OLD, doubt.reason))
            at, index = ends[index], index + 1
        if at < end:
            written.damaged.append(BadBytes(at, end - at, OLD, doubt.reason))
    written.damaged.sort(key=lambda entry: entry.offset)
