"""Journals made straight from docs/journal-format.md, without the journal's writer, with a model of what they hold."""

from __future__ import annotations

import json
import struct
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack
import xxhash

from journal.frame import BLOCK, CAPTURED, DISCARD, SECTOR, SYNC, FrameBuilder

SECOND = 10**9
START = 1795341600 * SECOND  # 2026-11-22T10:00:00Z
OFFSET = 7 * SECOND  # the source's clock is seven seconds ahead of the appliance's


def _summed(fields: bytes) -> bytes:
    return (fields + struct.pack("<Q", xxhash.xxh3_64_intdigest(fields))).ljust(BLOCK, b"\0")


@dataclass
class JournalMaker:
    """Appends frames to the one segment of a journal. `clock` (ns) is the source's wall and monotonic time."""

    folder: Path
    name: str = "web01"
    disks: Sequence[tuple[str, int]] = (("vda", 1 << 20),)
    order: str = "total"
    clock: int = START
    next_lsn: int = 1
    epoch: int = 0
    next_cut: int = 1
    model: dict[int, bytearray] = field(default_factory=dict)
    history: dict[int, dict[int, bytes]] = field(default_factory=dict)
    keep_model: bool = True

    def __post_init__(self) -> None:
        identity = uuid.uuid4()
        (self.folder / "timelines/0001").mkdir(parents=True)
        facts = {
            "format": 1,
            "journal": str(identity),
            "vm": self.name,
            "created": "2026-11-22T10:00:00+00:00",
        }
        (self.folder / "JOURNAL").write_text(json.dumps(facts))
        self.segment = self.folder / "timelines/0001" / f"{1:020d}.seg"
        header = struct.pack("<8s16sIIQQ16s", b"LWSEG001", identity.bytes, 1, 0, 1, START, bytes(16))
        self.segment.write_bytes(_summed(header))
        self.meta("timeline", timeline=1, name="main", parent=None, fork_lsn=0, fork_epoch=0, created=START)
        if self.keep_model:
            self.model = {number: bytearray(size) for number, (_, size) in enumerate(self.disks)}

    def meta(self, kind: str, **fields: Any) -> None:
        body = msgpack.packb({"meta": kind, **fields})
        length = struct.pack("<I", len(body))
        record = b"LWM1" + length + struct.pack("<Q", xxhash.xxh3_64_intdigest(length + body)) + body
        with open(self.folder / "meta.log", "ab") as file:
            file.write(record + bytes(-len(record) % 8))

    def append(self, builder: FrameBuilder) -> int:
        """Append a frame; return its place in the segment."""
        frame = builder.finish(first_lsn=self.next_lsn, epoch=self.epoch, position=0, base_time=self.clock)
        self.next_lsn += builder.records
        with open(self.segment, "ab") as file:
            file.write(frame)
            return file.tell() - len(frame)

    def note(self, what: str, **fields: Any) -> None:
        builder = FrameBuilder(CAPTURED)
        builder.notes = [{"note": what, "wall": self.clock, "mono": self.clock, **fields}]
        self.append(builder)

    def begin(self, sync: str = "initial") -> None:
        """Begin an epoch."""
        self.epoch += 1
        disks = [
            {"disk": number, "name": name, "bytes": size, "serial": None}
            for number, (name, size) in enumerate(self.disks)
        ]
        facts = {"epoch": self.epoch, "order": self.order, "generation": 1, "boot": "b", "reason": "a test"}
        self.note("epoch", sync=sync, disks=disks, **facts)

    def cut(self, kind: str = "tick", label: str | None = None, consistency: str = "crash") -> int:
        """Make a cut at the present time; return its number."""
        facts = {"offset": OFFSET, "frozen": None, "coordinates": None}
        self.note("cut", number=self.next_cut, kind=kind, label=label, consistency=consistency, **facts)
        self.next_cut += 1
        return self.next_cut - 1

    def writes(
        self, writes: Sequence[tuple[int, int, bytes | int]], kind: int = CAPTURED, step: int = 1000
    ) -> int:
        """Append (disk, sector, data, or a number of sectors to discard), one every `step` ns; one frame."""
        builder = FrameBuilder(kind)
        for number, (disk, sector, data) in enumerate(writes):
            self.clock += step
            if isinstance(data, int):
                builder.add_extent(DISCARD, disk, sector, data, self.clock)
                self._apply(disk, sector, bytes(data * SECTOR))
            else:
                builder.add_write(disk, sector, data, self.clock)
                self._apply(disk, sector, data)
            if self.keep_model and kind == CAPTURED:
                self.history[self.next_lsn + number] = {
                    d: bytes(content) for d, content in self.model.items()
                }
        return self.append(builder)

    def _apply(self, disk: int, sector: int, data: bytes) -> None:
        if self.keep_model:
            self.model[disk][sector * SECTOR : sector * SECTOR + len(data)] = data

    def write(self, sector: int, data: bytes, disk: int = 0) -> int:
        """Append one write in a frame of its own."""
        return self.writes([(disk, sector, data)])

    def synced(self, images: Sequence[bytes] | None = None) -> None:
        """Begin with an initial sync of the disks' content (default: one block each), and end it."""
        self.begin()
        contents = images or [b"\x01" * BLOCK for _ in self.disks]
        for disk, content in enumerate(contents):
            for first in range(0, len(content), 1 << 20):
                part = content[first : first + (1 << 20)]
                if part.strip(b"\0"):
                    self.writes([(disk, first // SECTOR, part)], kind=SYNC)
        self.clock += SECOND
        self.cut("sync-end")


def block(fill: int) -> bytes:
    """Return a block of one byte."""
    return bytes([fill]) * BLOCK
