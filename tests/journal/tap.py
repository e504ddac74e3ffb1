"""A tap for tests: writes real frames into a journal, and a simulated guest whose disks say what must come back."""

from __future__ import annotations

import random
from typing import Any

from journal import frame
from journal.frame import CAPTURED, DISCARD, SECTOR, SYNC, WRITE, ZERO, FrameBuilder
from journal.writer import JournalWriter

WALL = 1_700_000_000_000_000_000
Disks = dict[int, int]
Images = dict[int, bytes]


def append(writer: JournalWriter, data: bytes | bytearray) -> None:
    header = frame.parse_header(data)
    writer.append(header, bytes(data[: header.head_bytes]), bytes(data[header.head_bytes :]))


def note(what: str, mono: int, **keys: Any) -> dict[str, Any]:
    return {"note": what, "wall": WALL + mono, "mono": mono, **keys}


class Tap:
    """Sends frames of one timeline. `mono` is its clock in ns; every record takes 1000 ns."""

    def __init__(self, writer: JournalWriter, disks: Disks, order: str = "total") -> None:
        self.writer = writer
        self.disks = disks
        self.order = order
        self.mono = 1_000_000

    def send(self, builder: FrameBuilder, epoch: int | None = None) -> None:
        epoch = self.writer.epoch if epoch is None else epoch
        fields = {"first_lsn": self.writer.next_lsn, "epoch": epoch, "position": self.writer.position + 1}
        append(self.writer, builder.finish(**fields, base_time=self.mono))

    def notes(self, *notes: dict[str, Any], epoch: int | None = None) -> None:
        builder = FrameBuilder(CAPTURED)
        builder.notes += notes
        self.send(builder, epoch)

    def epoch_note(self, epoch: int, sync: str = "initial", **keys: Any) -> dict[str, Any]:
        disks = [
            {"disk": d, "name": f"vd{'abcdef'[d]}", "bytes": n, "serial": None} for d, n in self.disks.items()
        ]
        said = {"epoch": epoch, "order": self.order, "generation": 7, "boot": "boot", "reason": "a test"}
        return note("epoch", self.mono, **said, sync=sync, disks=disks) | keys

    def begin(self, sync: str = "initial") -> None:
        epoch = self.writer.epoch + 1
        self.notes(self.epoch_note(epoch, sync), epoch=epoch)

    def cut_note(self, kind: str = "tick", label: str | None = None, **keys: Any) -> dict[str, Any]:
        said = {"number": self.writer.next_cut, "kind": kind, "label": label, "consistency": "crash"}
        return note("cut", self.mono, **said, offset=None, frozen=None, coordinates=None) | keys

    def cut(self, kind: str = "tick", label: str | None = None) -> None:
        self.notes(self.cut_note(kind, label))

    def gap(self, reason: str = "the ring was full") -> None:
        self.notes(note("gap", self.mono, reason=reason))

    def tick(self) -> int:
        self.mono += 1000
        return self.mono

    def write(self, disk: int, sector: int, data: bytes, kind: int = CAPTURED) -> None:
        builder = FrameBuilder(kind)
        builder.add_write(disk, sector, data, self.tick())
        self.send(builder)

    def protect(self, fill: bytes = b"\1") -> None:
        """An initial sync of every disk with one repeated byte, and its end."""
        self.begin()
        for disk, size in self.disks.items():
            self.write(disk, 0, fill * size, SYNC)
        self.cut("sync-end")


class Guest:
    """A guest that writes, its tap, and the truth: `expected[lsn]` is every disk after that record."""

    def __init__(self, seed: int, tap: Tap, images: Images | None = None) -> None:
        self.random = random.Random(seed)
        self.tap = tap
        self.images = {d: bytearray(images[d] if images else bytes(n)) for d, n in tap.disks.items()}
        self.queue: list[tuple[int, int, int, int, bytes, Images]] = []
        self.dirty: set[tuple[int, int]] = set()
        self.expected: dict[int, Images] = {}
        self.refused: set[int] = set()

    def snapshot(self) -> Images:
        return {disk: bytes(image) for disk, image in self.images.items()}

    def guest_write(self, captured: bool = True) -> None:
        disk = self.random.choice(list(self.images))
        total = len(self.images[disk]) // SECTOR
        start = self.random.randrange(total)
        sectors = self.random.randint(1, min(self.random.choice([1, 8, 40]), total - start))
        if self.random.random() < 0.4 and total - start // 8 * 8 >= 8:
            start, sectors = start // 8 * 8, 8
        kind = self.random.choice([WRITE, WRITE, WRITE, DISCARD, ZERO])
        data = self.random.randbytes(sectors * SECTOR) if kind == WRITE else bytes(sectors * SECTOR)
        self.images[disk][start * SECTOR : start * SECTOR + len(data)] = data
        self.dirty |= {(disk, block) for block in range(start // 8, (start + sectors + 7) // 8)}
        if captured:
            self.queue.append((disk, start, sectors, kind, data, self.snapshot()))

    def send_captured(self, valid: bool) -> None:
        if not self.queue:
            return
        builder = FrameBuilder(CAPTURED)
        lsn = self.tap.writer.next_lsn
        for _ in range(self.random.randint(1, len(self.queue))):
            disk, start, sectors, kind, data, after = self.queue.pop(0)
            if kind == WRITE:
                builder.add_write(disk, start, data, self.tap.tick())
            else:
                builder.add_extent(kind, disk, start, sectors, self.tap.tick())
            if valid:
                self.expected[lsn] = after
            else:
                self.refused.add(lsn)
            lsn += 1
        if valid and self.random.random() < 0.3:
            builder.notes.append(self.tap.cut_note())
        self.tap.send(builder)

    def send_sync(self, blocks: list[tuple[int, int]]) -> None:
        """Read some blocks from the disk as it is now: ahead of what was sent of the captured writes."""
        builder = FrameBuilder(SYNC)
        for _ in range(min(len(blocks), self.random.randint(1, 6))):
            disk, block = blocks.pop()
            data = bytes(self.images[disk][block * 4096 : block * 4096 + 4096])
            self.refused.add(self.tap.writer.next_lsn + builder.records)
            if any(data):
                builder.add_write(disk, block * 8, data, self.tap.tick())
            else:
                builder.add_extent(ZERO, disk, block * 8, len(data) // SECTOR, self.tap.tick())
        self.tap.send(builder)

    def epoch(self, *, valid: bool) -> None:
        """One whole epoch, which reaches its sync-end or not, and then writes that nobody captured."""
        writer = self.tap.writer
        sync = self.random.choice(["bitmap", "delta", "full"]) if writer.valid_base else "initial"
        self.tap.begin(sync)
        every = {(d, b) for d, image in self.images.items() for b in range(-(-len(image) // 4096))}
        blocks = sorted(self.dirty if sync in ("bitmap", "delta") else every)
        self.random.shuffle(blocks)
        while blocks:
            if not valid and len(blocks) < 3:
                break
            what = self.random.randrange(3)
            if what == 0:
                self.guest_write()
            elif what == 1:
                self.send_captured(False)
            else:
                self.send_sync(blocks)
        if valid:
            self._live()
        if not valid or self.random.random() < 0.5:
            self.tap.gap()
        self.queue.clear()
        for _ in range(self.random.randint(0, 5)):
            self.guest_write(captured=False)

    def _live(self) -> None:
        while self.queue:
            self.send_captured(False)
        self.tap.cut("sync-end")
        lsn = self.tap.writer.next_lsn - 1
        self.expected[lsn] = self.snapshot()
        self.refused.discard(lsn)
        self.dirty.clear()
        for _ in range(self.random.randint(5, 25)):
            self.random.choice([self.guest_write, lambda: self.send_captured(True)])()
        # What was written but not sent is lost to this epoch: the kernel keeps it marked as dirty.
        self.dirty = {
            (disk, block)
            for disk, start, sectors, *_ in self.queue
            for block in range(start // 8, (start + sectors + 7) // 8)
        }
