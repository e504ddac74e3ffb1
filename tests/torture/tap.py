"""A tap of the test's own over real TLS: several disks, unaligned writes, discards, cuts, syncs, gaps. Seeded.

It follows the protocol (resume or begin as the welcome says), keeps every frame until it is acknowledged, and tells the
truth (truth.py) of all that it sends. A sync reads its blocks ahead of captured writes that wait to be sent.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from journal.frame import CAPTURED, DISCARD, FUA, SYNC, WRITE, ZERO, FrameBuilder
from tests.receiver.double import TapDouble, cut_note, epoch_note, note
from tests.torture.truth import BLOCK, SECTOR, Made, Truth

SIZES = {0: 768 << 10, 1: (256 << 10) + 3 * SECTOR, 4: 96 << 10}
NAMES = {0: "vda", 1: "vdb", 4: "vdc"}
DISKS = [
    {"disk": disk, "name": NAMES[disk], "bytes": size, "serial": f"serial-{disk}"}
    for disk, size in SIZES.items()
]
RING_FRAMES = 48

Place = tuple[int, int]


class TortureTap(TapDouble):
    """A guest and its tap. `truth` knows what must come back; step() does one random thing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.truth = Truth(SIZES)
        self.images = {disk: bytearray(self.random.randbytes(size)) for disk, size in SIZES.items()}
        self.images[1][: 64 << 10] = bytes(64 << 10)
        self.waiting: deque[tuple[int, int, int, bytes]] = deque()
        self.to_sync: list[Place] = []
        self.synced: set[Place] = set()
        """The blocks that the running or last sync was to send."""
        self.touched: list[tuple[int, Place]] = []
        """(LSN, block) of what was captured in this epoch and is not acknowledged, or came before its sync-end was."""
        self.valid_from: int | None = None
        self.sync_end_position = 0
        self.acknowledged: list[bytes] = []
        """Every frame that the journal said is durable."""

    # the guest

    def guest_write(self) -> None:
        """Write, discard or zero somewhere; often one block, often unaligned, sometimes long."""
        disk = self.random.choice(list(SIZES))
        total = SIZES[disk] // SECTOR
        start = self.random.randrange(total)
        sectors = self.random.randint(1, min(self.random.choice((1, 8, 8, 70)), total - start))
        if self.random.random() < 0.5 and start // 8 * 8 + 8 <= total:
            start, sectors = start // 8 * 8, 8
        kind = self.random.choice((WRITE, WRITE, WRITE, WRITE, DISCARD, ZERO))
        data = self.random.randbytes(sectors * SECTOR) if kind == WRITE else bytes(sectors * SECTOR)
        self.images[disk][start * SECTOR : start * SECTOR + len(data)] = data
        self.waiting.append((kind, disk, start, data))

    def copy(self) -> dict[int, bytes]:
        """Return the disks as they are."""
        return {disk: bytes(image) for disk, image in self.images.items()}

    # the stream

    def follow(self) -> None:
        """Do what the welcome says: go on with the ring, or begin an epoch."""
        if self.welcome["action"] == "resume":
            super().follow()
            if not self.ring:
                self.next_cut = self.welcome["next_cut"]
            return
        next_lsn = self.welcome["next_lsn"]
        lost_end = self.sync_end_acknowledged and not self.welcome.get("valid", True)
        base = self.welcome["base"] and next_lsn >= self.acked_lsn and not lost_end  # as the agent does it
        self.acked_lsn = min(self.acked_lsn, next_lsn)
        self.begin(self.welcome["epoch"], next_lsn, base)
        self.next_cut = self.welcome["next_cut"]

    def begin(self, epoch: int, next_lsn: int, base: bool) -> None:
        """Begin an epoch behind what is durable, with a sync of every block, or of what may differ."""
        places = self.dirty() if base else self.every_block()
        self.attached, self.ring, self.next_lsn = True, [], next_lsn
        self.start(
            epoch,
            self.random.choice(["bitmap", "delta"]) if base else "full" if self.truth.epochs else "initial",
            places,
        )

    def start(self, epoch: int, sync: str, places: set[Place]) -> None:
        """Send the note that begins an epoch; what waits is left to its sync."""
        self.waiting.clear()
        self.epoch, self.touched, self.valid_from = epoch, [], None
        self.to_sync, self.synced = sorted(places, reverse=True), places
        self.truth.begin(epoch, self.next_lsn - 1, sync)
        said = epoch_note(epoch, self.generation, sync, disks=DISKS, boot=self.boot)
        self.emit(FrameBuilder(CAPTURED), [said])

    def every_block(self) -> set[Place]:
        """Return every block of every disk."""
        return {(disk, block) for disk, size in SIZES.items() for block in range(-(-size // BLOCK))}

    def dirty(self) -> set[Place]:
        """Return what may differ from the end of the last valid epoch: what nobody acknowledged, at least."""
        places = set() if self.sync_end_acknowledged else set(self.synced)
        places |= {place for _, place in self.touched}
        for _, disk, start, data in self.waiting:
            places |= blocks_of(disk, start, len(data))
        return places

    @property
    def sync_end_acknowledged(self) -> bool:
        """Whether the frame that made this epoch valid is durable."""
        return self.valid_from is not None and self.sync_end_position <= self.resume

    def emit(self, builder: FrameBuilder, notes: list[dict[str, Any]] | None = None) -> None:
        """Close a frame, put it into the ring and send it."""
        builder.notes.extend(notes or [])
        told = {"first_lsn": self.next_lsn, "epoch": self.epoch or 1, "position": self.head + 1}
        self.add(builder.finish(**told, base_time=time.monotonic_ns()))

    def captured(self) -> None:
        """Send some of what waits, in its order."""
        builder = FrameBuilder(CAPTURED)
        for _ in range(self.random.randint(1, 12)):
            if not self.waiting:
                break
            kind, disk, start, data = self.waiting.popleft()
            lsn = self.next_lsn + builder.records
            if kind == WRITE:
                builder.add_write(disk, start, data, time.monotonic_ns(), self.random.choice((0, 0, FUA)))
            else:
                builder.add_extent(kind, disk, start, len(data) // SECTOR, time.monotonic_ns())
            self.touched += [(lsn, place) for place in blocks_of(disk, start, len(data))]
            self.truth.record(lsn, Made(self.epoch or 1, False, disk, start, data))
        self.emit(builder, [self.tick()] if self.random.random() < 0.2 else None)

    def tick(self) -> dict[str, Any]:
        """Return a cut with the next number."""
        self.next_cut += 1
        return cut_note(self.next_cut - 1)

    def sync_some(self) -> None:
        """Read the next blocks as they are now; after the last, send all that waits and end the sync."""
        builder = FrameBuilder(SYNC)
        for _ in range(min(len(self.to_sync), self.random.randint(4, 40))):
            disk, block = self.to_sync.pop()
            data = bytes(self.images[disk][block * BLOCK : block * BLOCK + BLOCK])
            lsn = self.next_lsn + builder.records
            if any(data):
                builder.add_write(disk, block * 8, data, time.monotonic_ns())
            else:
                builder.add_extent(ZERO, disk, block * 8, len(data) // SECTOR, time.monotonic_ns())
            self.truth.record(lsn, Made(self.epoch or 1, True, disk, block * 8, data))
        if self.to_sync:
            disk, block = self.to_sync[-1]
            self.emit(builder, [note("sync", disk=disk, sector=block * 8)])
            return
        if builder.records:
            self.emit(builder)
        while self.waiting:
            self.captured()
        self.next_cut += 1
        self.emit(FrameBuilder(CAPTURED), [cut_note(self.next_cut - 1, "sync-end")])
        self.sync_end_position = self.head
        self.valid_from = self.next_lsn - 1
        self.truth.sync_end(self.valid_from, self.copy())

    def overflow(self) -> None:
        """The ring was full: end the epoch, lose some writes, begin the next in the same connection."""
        assert self.epoch is not None
        self.emit(FrameBuilder(CAPTURED), [note("gap", reason="the ring was full")])
        for _ in range(3):
            self.guest_write()
        self.start(self.epoch + 1, "bitmap", self.dirty())

    def step(self) -> None:
        """Do one random thing; waits for acknowledgements when the ring is long."""
        if len(self.ring) >= RING_FRAMES:
            self.pump(0.05)
            return
        what = self.random.random()
        if self.valid_from is None:
            self.guest_write() if what < 0.4 else self.captured() if what < 0.6 else self.sync_some()
        elif what < 0.55:
            self.guest_write()
        elif what < 0.995:
            self.captured()
        else:
            self.overflow()
        self.pump()

    def drop_before(self, position: int) -> None:
        """Give ring space back; remember what was in it."""
        self.acknowledged += self.ring[: position - self.resume]
        super().drop_before(position)
        if self.sync_end_acknowledged and not self.truth.epochs[-1].certain:
            self.truth.epochs[-1].certain = True

    def pump(self, seconds: float = 0.0) -> list[Any]:
        """Send and receive; forget what is durable now."""
        rest = super().pump(seconds)
        self.forget()
        return rest

    def forget(self) -> None:
        """Forget which blocks the journal is known to hold."""
        if self.sync_end_acknowledged:
            self.synced = set()
            self.touched = [(lsn, place) for lsn, place in self.touched if lsn >= self.acked_lsn]

    def reattach(self) -> None:
        """The machine was started anew: another generation, an empty ring, nothing known."""
        self.close()
        self.generation, self.boot = self.generation + 1, f"boot-{self.generation}"
        self.attached, self.epoch, self.ring = False, None, []
        for _ in range(5):
            self.guest_write()
        self.waiting.clear()


def blocks_of(disk: int, sector: int, length: int) -> set[Place]:
    """Return the blocks that a range of a disk touches; `length` in bytes."""
    return {(disk, block) for block in range(sector // 8, (sector * SECTOR + length - 1) // BLOCK + 1)}
