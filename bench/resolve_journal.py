"""Journals of any number of records for benchmarks, written in a fraction of the time that a tap would need.

The files are those that a writer would have written, byte by byte; with `holes` the payloads are holes in the files,
that is zeros, so that a long history takes little room on the disk.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from journal import frame, layout
from journal.frame import BLOCK, CAPTURED, SYNC, WRITE, ZERO, FrameBuilder
from journal.index import netmap
from journal.index.make import write_index
from journal.table import RECORD
from journal.writer import JournalWriter

RECORDS = 256  # in a frame: 1 MiB of 4 KiB writes
WRITES_PER_SECOND = 10_000
WALL = 1_700_000_000 * 10**9


class Story(NamedTuple):
    """What is written: `records` writes of 4 KiB to a disk of so many bytes, nine of ten to the first `hot` blocks."""

    records: int
    disk_bytes: int
    hot: int
    segment_bytes: int = 1 << 30
    holes: bool = False


def write_journal(folder: Path, story: Story, *, indexed: bool = True) -> None:
    """Write a journal, its indexes and its net maps."""
    JournalWriter.create(folder, "bench").close()
    _Writing(folder, story).run()
    if indexed:
        for _, path in layout.segments(folder, layout.MAIN):
            write_index(path)
        netmap.build(folder, layout.MAIN)


def blocks_of(story: Story, number: int) -> npt.NDArray[np.int64]:
    """Return the blocks that frame `number` writes to."""
    choices = np.random.default_rng(number)
    anywhere = choices.integers(0, story.disk_bytes // BLOCK, RECORDS)
    return np.where(choices.random(RECORDS) < 0.9, choices.integers(0, story.hot, RECORDS), anywhere)


class _Writing:
    def __init__(self, folder: Path, story: Story) -> None:
        self.folder, self.story = folder, story
        self.journal = layout.read_identity(folder).journal.bytes
        self.payload = bytearray(RECORDS * BLOCK) if story.holes else bytearray(os.urandom(RECORDS * BLOCK))
        self.payload_sum = xxhash.xxh3_64_intdigest(self.payload)
        self.lsn, self.cut, self.previous = 1, 1, layout.NO_DIGEST
        self.fd = -1

    def run(self) -> None:
        """Write every frame; the last segment is left open, as a tap would."""
        self._begin_segment()
        self._begin_epoch()
        for number in range(self.story.records // RECORDS):
            if self.place + (1 << 21) > self.story.segment_bytes:
                self._seal()
                self._begin_segment()
            self._frame_of_writes(number)
            if number % (WRITES_PER_SECOND // RECORDS) == 0:
                self._notes(self._note("cut", self._mono(number + 1), **self._cut("tick")))
        os.close(self.fd)

    def _mono(self, number: int) -> int:
        return 10**9 + number * RECORDS * (10**9 // WRITES_PER_SECOND)

    def _begin_segment(self) -> None:
        path = layout.segment_path(self.folder, layout.MAIN, self.lsn)
        path.parent.mkdir(parents=True, exist_ok=True)
        header = layout.pack_segment_header(
            layout.SegmentHeader(self.journal, layout.MAIN, self.lsn, WALL, self.previous)
        )
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.pwrite(self.fd, header, 0)
        self.place, self.frames, self.first_lsn = len(header), 0, self.lsn
        self.digest = xxhash.xxh3_128(header)

    def _seal(self) -> None:
        self.previous = self.digest.digest()
        records = self.lsn - self.first_lsn
        footer = layout.Footer(self.frames, records, self.lsn, self.place, self.previous)
        os.pwrite(self.fd, layout.pack_footer(footer), self.place)
        os.close(self.fd)

    def _append(self, head: bytes | bytearray, records: int, payload: bytes | bytearray = b"") -> None:
        os.pwrite(self.fd, head, self.place)
        if payload and not self.story.holes:
            os.pwrite(self.fd, payload, self.place + len(head))
        self.digest.update(head[: frame.HEADER_BYTES])
        self.place += len(head) + len(payload)
        os.ftruncate(self.fd, self.place)
        self.frames += 1
        self.lsn += records

    def _note(self, which: str, mono: int, **keys: object) -> dict[str, object]:
        return {"note": which, "wall": WALL + mono, "mono": mono, **keys}

    def _cut(self, kind: str) -> dict[str, object]:
        said = {"number": self.cut, "kind": kind, "label": None, "consistency": "crash", "offset": 0}
        self.cut += 1
        return {**said, "frozen": None, "coordinates": None}

    def _notes(self, *notes: dict[str, object]) -> None:
        builder = FrameBuilder(CAPTURED)
        builder.notes += notes
        self._append(builder.finish(first_lsn=self.lsn, epoch=1, position=self.lsn), 0)

    def _begin_epoch(self) -> None:
        """An initial sync of an empty disk: one record of zeros."""
        disks = [{"disk": 0, "name": "vda", "bytes": self.story.disk_bytes, "serial": None}]
        said = {"epoch": 1, "order": "total", "generation": 1, "boot": "boot", "reason": "protected"}
        self._notes(self._note("epoch", 10**9, **said, sync="initial", disks=disks))
        sync = FrameBuilder(SYNC)
        sync.add_extent(ZERO, 0, 0, self.story.disk_bytes // frame.SECTOR, 10**9)
        self._append(sync.finish(first_lsn=self.lsn, epoch=1, position=self.lsn), 1)
        self._notes(self._note("cut", 10**9, **self._cut("sync-end")))

    def _frame_of_writes(self, number: int) -> None:
        if not self.story.holes:  # each block begins with the LSN of its record
            stamps = np.frombuffer(self.payload, "<u8").reshape(RECORDS, -1)
            stamps[:, 0] = np.arange(self.lsn, self.lsn + RECORDS)
            self.payload_sum = xxhash.xxh3_64_intdigest(self.payload)
        table = np.zeros(RECORDS, RECORD)
        table["place"] = blocks_of(self.story, number) * (BLOCK // frame.SECTOR)
        table["sectors"] = BLOCK // frame.SECTOR
        table["how"] = WRITE | (np.arange(RECORDS) * (10**6 // WRITES_PER_SECOND) << 8)
        head = bytearray(frame.round_up(frame.HEADER_BYTES + table.nbytes))
        fields = (RECORDS, 0, len(self.payload), 1, self.lsn, self.lsn, self._mono(number))
        frame._HEADER.pack_into(head, 0, frame.MAGIC, CAPTURED, 0, 0, *fields, self.payload_sum, 0)
        head[frame.HEADER_BYTES : frame.HEADER_BYTES + table.nbytes] = table.tobytes()
        struct.pack_into("<Q", head, 56, frame._head_sum(head))
        self._append(head, RECORDS, self.payload)
