"""The change stream of a made-up tap, built before anything is measured: random 4 KiB writes in full frames.

A frame has 1020 writes: head (4 blocks, without waste) and payload are 4 MiB together.
"""

from __future__ import annotations

import os
import random
import time
from typing import NamedTuple

from journal.frame import BLOCK, CAPTURED, SECTOR, SYNC, ZERO, FrameBuilder, Note

WRITES_PER_FRAME = 1020
PAYLOAD_BYTES = WRITES_PER_FRAME * BLOCK
DISK_BYTES = 100 << 30
TICK_FRAMES = 64
_NEVER = {"label": None, "offset": None, "frozen": None, "coordinates": None}


class Stream(NamedTuple):
    """Frames in order: `preamble` begins an epoch and ends its sync, `frames` are what is measured.

    Any prefix of `frames` may be sent; `next_lsn(count)` is what must be acknowledged then.
    """

    preamble: list[bytes]
    frames: list[bytes]

    def next_lsn(self, count: int) -> int:
        """Return the LSN after the first `count` frames: the sync is one record, number 1."""
        return 2 + count * WRITES_PER_FRAME


def make_stream(count: int, seed: int = 1) -> Stream:
    """Return a stream of `count` frames of captured writes."""
    draw = random.Random(seed)
    data = memoryview(os.urandom(2 * PAYLOAD_BYTES))
    frames = [_frame(index, draw, data) for index in range(count)]
    return Stream(_preamble(), frames)


def _note(which: str, **keys: object) -> Note:
    return {"note": which, "wall": time.time_ns(), "mono": time.monotonic_ns(), **keys}


def _preamble() -> list[bytes]:
    disks = [{"disk": 0, "name": "vda", "bytes": DISK_BYTES, "serial": "bench"}]
    told = {"order": "total", "generation": 1, "boot": "bench", "reason": "benchmark", "sync": "initial"}
    begins, sync, ends = FrameBuilder(CAPTURED), FrameBuilder(SYNC), FrameBuilder(CAPTURED)
    begins.notes.append(_note("epoch", epoch=1, disks=disks, **told))
    sync.add_extent(ZERO, 0, 0, DISK_BYTES // SECTOR, time.monotonic_ns())
    ends.notes.append(_note("cut", number=1, kind="sync-end", consistency="crash", **_NEVER))
    return [
        bytes(begins.finish(first_lsn=1, epoch=1, position=1)),
        bytes(sync.finish(first_lsn=1, epoch=1, position=1)),
        bytes(ends.finish(first_lsn=2, epoch=1, position=2)),
    ]


def _frame(index: int, draw: random.Random, data: memoryview) -> bytes:
    builder = FrameBuilder(CAPTURED)
    start = draw.randrange(WRITES_PER_FRAME) * BLOCK
    for place in range(start, start + PAYLOAD_BYTES, BLOCK):
        sector = draw.randrange(DISK_BYTES // BLOCK) * (BLOCK // SECTOR)
        builder.add_write(0, sector, data[place : place + BLOCK], time.monotonic_ns())
    if index % TICK_FRAMES == TICK_FRAMES - 1:
        number = 2 + index // TICK_FRAMES
        builder.notes.append(_note("cut", number=number, kind="tick", consistency="crash", **_NEVER))
    first_lsn = 2 + index * WRITES_PER_FRAME
    return bytes(builder.finish(first_lsn=first_lsn, epoch=1, position=3 + index))
