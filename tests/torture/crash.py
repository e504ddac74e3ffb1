"""Crash images: what a disk may hold when the power fails at a place of the captured stream of its writes.

Everything before the last completed flush is there. A write after it is there, or not, or (sector by sector) in part.
A flush counts as completed when something was submitted after it; a FUA write in the same way. Two writes of one
place keep their order: nobody submits the second while the first is in flight.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from guesttap.bpf import DATA, DISCARD, FLUSH, MARK, ZERO
from guesttap.bpf.abi import FIRST
from guesttap.bpf.layout import FlagMasks
from tests.bpf.kit import Captured

_CHUNK = 1 << 20
Bytes = np.ndarray[tuple[int], np.dtype[np.uint8]]


class Pending(NamedTuple):
    """A write that no completed flush covers. `sure`: it was FUA, and has completed."""

    offset: int
    data: Bytes
    sure: bool


class CrashDisk:
    """The disk at growing places of the stream. `tear`: bytes that the disk writes at once."""

    def __init__(self, content: bytes, stream: Sequence[Captured], masks: FlagMasks, tear: int) -> None:
        self.durable: Bytes = np.frombuffer(content, np.uint8).copy()
        self.pending: list[Pending] = []
        self.newest_mark = -1
        self._stream = stream
        self._masks = masks
        self._tear = tear
        self._place = 0

    def advance(self, place: int) -> None:
        """Go on until the records before `place` were submitted, the last of them not completed."""
        while self._place < place:
            record = self._stream[self._place]
            self._complete_before()
            self._submit(record)
            self._place += 1

    def _complete_before(self) -> None:
        """What was submitted last has completed: a flush makes durable, a FUA write is."""
        if not self._place:
            return
        last = self._stream[self._place - 1]
        if last.kind == FLUSH:
            self._flush(len(self.pending))
        elif last.kind == DATA and last.opf & self._masks.fua:
            self.pending[-1] = self.pending[-1]._replace(sure=True)

    def _submit(self, record: Captured) -> None:
        if record.kind == MARK:
            self.newest_mark = record.bio
        elif record.kind == DATA:
            if record.opf & self._masks.preflush and record.flags & FIRST:
                self._flush(len(self.pending))
            self.pending.append(Pending(record.offset, np.frombuffer(record.data, np.uint8), False))
        elif record.kind in (DISCARD, ZERO):
            self.pending.append(Pending(record.offset, np.zeros(record.length, np.uint8), False))

    def _flush(self, count: int) -> None:
        for write in self.pending[:count]:
            self.durable[write.offset : write.offset + len(write.data)] = write.data
        del self.pending[:count]

    def image(self, chance: random.Random) -> Bytes:
        """Return a disk as the power failure may have left it."""
        image = self.durable.copy()
        keep = chance.choice((0.0, 0.1, 0.5, 0.9, 1.0))
        torn = chance.choice((0.0, 0.05, 0.5))
        last = chance.randrange(len(self.pending) + 1) if chance.random() < 0.25 else len(self.pending)
        for number, write in enumerate(self.pending):
            if write.sure:
                self._put(image, write, None)
            elif number < last and chance.random() < keep:
                self._put(image, write, chance if chance.random() < torn else None)
        return image

    def _put(self, image: Bytes, write: Pending, chance: random.Random | None) -> None:
        if chance is None:
            image[write.offset : write.offset + len(write.data)] = write.data
            return
        keep = chance.random()
        for at in range(0, len(write.data), self._tear):
            if chance.random() < keep:
                piece = write.data[at : at + self._tear]
                image[write.offset + at : write.offset + at + len(piece)] = piece


def save(image: Bytes, path: Path) -> None:
    """Write an image into a sparse file."""
    with path.open("wb") as file:
        for at in range(0, len(image), _CHUNK):
            if image[at : at + _CHUNK].any():
                file.seek(at)
                file.write(image[at : at + _CHUNK].data)
        file.truncate(len(image))


def places(
    stream: Sequence[Captured], chance: random.Random, count: int, delicate: Sequence[tuple[int, int]] = ()
) -> list[int]:
    """Return where the power fails: anywhere, soon after a mark, at a flush, and between two marks of a delicate work.

    `delicate`: pairs of marks (their tokens).
    """
    marks = [at + 1 for at, record in enumerate(stream) if record.kind == MARK]
    flushes = [at + 1 for at, record in enumerate(stream) if record.kind == FLUSH]
    where = {record.bio: at for at, record in enumerate(stream) if record.kind == MARK}
    spans = [(where[first], where[last]) for first, last in delicate]
    chosen = []
    for number in range(count):
        kind = number % 4
        if kind == 0 or (kind == 3 and not spans):
            chosen.append(chance.randint(1, len(stream)))
        elif kind == 3:
            chosen.append(min(len(stream), chance.randint(*chance.choice(spans)) + 2))
        else:
            at = chance.choice(marks if kind == 1 else flushes)
            chosen.append(min(len(stream), at + chance.choice((0, 0, 1, 2, 5))))
    return sorted(chosen)
