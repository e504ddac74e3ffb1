"""Doubles for the unit tests: a tap whose ring is a list, and an appliance that only does what a test tells it.

No kernel and no TLS here; test_end_to_end.py has the real ones.
"""

from __future__ import annotations

import io
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

from guesttap.agent.capture import Capture
from guesttap.agent.health import Health
from guesttap.agent.log import Log
from guesttap.agent.session import Session
from guesttap.agent.settings import Settings, parse
from guesttap.agent.store import Store
from guesttap.bpf.disks import Disk
from guesttap.bpf.errors import RingFullError
from guesttap.bpf.layout import FlagMasks
from guesttap.bpf.ring import DATA, DISCARD, FAILED, FLUSH, MARK, RingRecord
from guesttap.bpf.tap import BpfTap
from guesttap.channel import Channel, Frame
from journal import frame

HEAD = 56
FUA_BIT, META_BIT = 1 << 17, 1 << 12
DISK_BYTES = 1 << 20


class FakeTap:
    """A double of BpfTap over a file as its one disk. The test writes; nothing happens by itself."""

    def __init__(self, path: Path, ring_bytes: int = 1 << 20, size: int = DISK_BYTES) -> None:
        path.write_bytes(bytes(size))
        self.path = path
        self.generation = 77
        self.disks = [Disk(0, "vda", str(path), 7, 0, size)]
        self.opf_masks = FlagMasks(1 << 11, META_BIT, FUA_BIT, 1 << 18)
        self.ring_bytes = ring_bytes
        self.consumer_position = 0
        self.producer_position = 0
        self.flying = 0
        self.landing = 0
        self.confirmed = 0
        self.detached = False
        self.account = SimpleNamespace(balanced=True, quiet=True, disks=[])
        self._records: list[RingRecord] = []
        self._lost = 0
        self._dirty: list[tuple[int, int, int]] = []
        self._bios = 1000

    # what a machine does

    def write(
        self, offset: int, data: bytes, *, opf: int = 1, bio: int | None = None, disk: bool = True
    ) -> int:
        """Write to the disk and into the ring, or mark it dirty when the ring is full. Returns the bio."""
        if disk:
            self.put_on_disk(offset, data)
        self._bios += 1
        return self._push(DATA, offset, len(data), data, opf, bio or self._bios)

    def put_on_disk(self, offset: int, data: bytes) -> None:
        with self.path.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    def lose(self, offset: int, data: bytes) -> None:
        """A write that the tap cannot capture."""
        self.put_on_disk(offset, data)
        self._lost += 1
        self._dirty.append((0, offset, len(data)))

    def discard(self, offset: int, length: int) -> None:
        self.put_on_disk(offset, bytes(length))
        self._bios += 1
        self._push(DISCARD, offset, length, b"", 3, self._bios)

    def flush(self) -> None:
        self._push(FLUSH, 0, 0, b"", 1, 1)

    def fail(self, offset: int, length: int, bio: int, flags: int = 0) -> None:
        """A bio that was captured ends with an error."""
        self._push(FAILED, offset, length, b"", 1, bio, flags)

    def _push(
        self, kind: int, offset: int, length: int, data: bytes, opf: int, bio: int, flags: int = 0
    ) -> int:
        size = HEAD + (len(data) + 7 & ~7)
        if self.producer_position + size - self.consumer_position > self.ring_bytes:
            if kind == MARK:
                raise RingFullError("the ring is full")
            self._lost += 1
            self._dirty.append((0, offset, length))
            return bio
        self.producer_position += size
        now = time.monotonic_ns()
        disk = 0xFFFFFFFF if kind == MARK else 0
        fields = (now, offset, bio, disk, opf, length, flags, self._lost, kind)
        self._records.append(RingRecord(*fields, memoryview(data), self.producer_position))
        return bio

    # what BpfTap does

    def records(self, position: int, limit_bytes: int) -> Iterator[RingRecord]:
        assert self.consumer_position <= position <= self.producer_position
        stop = min(self.producer_position, position + limit_bytes)
        for record in list(self._records):
            start = record.end - HEAD - (len(record.data) + 7 & ~7)
            if start >= position and start < stop:
                yield record

    def release(self, position: int) -> None:
        assert self.consumer_position <= position <= self.producer_position
        self.consumer_position = position
        self._records = [record for record in self._records if record.end > position]

    def mark(self, token: int) -> None:
        self._push(MARK, 0, 0, b"", 0, token)

    def lost(self) -> int:
        return self._lost

    def lost_in_flight(self) -> int:
        return self.landing

    def take_dirty(self) -> list[tuple[int, int, int]]:
        taken, self._dirty = self._dirty, []
        return taken

    def confirm_dirty(self) -> None:
        self.confirmed += 1

    def counters(self) -> dict[str, int]:
        return {"bytes": 512, "dirty_write_bytes": 0, "dirty_discard_bytes": 0}

    def inflight(self) -> dict[int, int]:
        return {0: self.flying}

    def accounting(self, patience: float = 0.0) -> Any:
        return self.account

    def close(self) -> None:
        pass

    def detach(self) -> None:
        self.detached = True


class Got(NamedTuple):
    """A frame that came, taken apart."""

    header: frame.FrameHeader
    records: list[tuple[frame.Record, bytes]]
    notes: list[dict[str, Any]]


class Desk:
    """The agent's inner parts at one end of a socket pair, an appliance double at the other; one thread."""

    def __init__(self, folder: Path, **tap: Any) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.tap = FakeTap(folder / "disk", **tap)
        self.settings: Settings = parse(
            {
                "appliance": "127.0.0.1:1",
                "vm": "0" * 32,
                "ca": "none",
                "state_dir": str(folder / "state"),
                "run_dir": str(folder / "run"),
                "hooks_dir": str(folder / "hooks"),
            }
        )
        self.frames: list[Got] = []
        self.messages: list[dict[str, Any]] = []
        self.log = io.StringIO()
        self.session: Session | None = None
        self.auto_ack = True
        self._captures: list[Capture] = []
        self.restart_agent()

    def restart_agent(self) -> None:
        """As after kill -9: nothing is left but the state folder, the tap and its ring."""
        self.disconnect()
        for capture in self._captures:
            capture.reader.close()
        self.store = Store(self.settings.state_dir)
        disks = [{"disk": 0, "name": "vda", "bytes": self.tap.disks[0].bytes, "serial": None}]
        self.capture = Capture(cast(BpfTap, self.tap), self.store, "boot-1", disks)
        self._captures.append(self.capture)

    def disconnect(self) -> None:
        if self.session is not None:
            self.session = None
            self.near.close()
            self.far.close()

    def close(self) -> None:
        self.disconnect()
        self.capture.reader.close()

    def connect(self, **welcome: Any) -> None:
        """A new connection with this welcome."""
        self.disconnect()
        one, two = socket.socketpair()
        self.near, self.far = Channel(one), Channel(two)
        message: dict[str, Any] = {
            "type": "welcome", "action": "begin", "reason": "the journal is empty", "epoch": 1, "next_lsn": 1,
            "next_cut": 1, "position": 0, "syncing": True, "cursor": None, "base": False, "fence": "fence-1",
        }  # fmt: skip
        health = Health(cast(BpfTap, self.tap))
        self.session = Session(
            self.settings, self.near, self.capture, {**message, **welcome}, Log(self.log), health
        )

    def turn(self, count: int = 1) -> None:
        """Let the agent do some rounds, and the appliance take what came (and acknowledge it)."""
        for _ in range(count):
            assert self.session is not None
            self.session.turn()
            self._receive()

    def _receive(self) -> None:
        items = self.far.pump(0)
        frames = [_take_apart(item) for item in items if isinstance(item, Frame)]
        self.frames += frames
        self.messages += [item for item in items if isinstance(item, dict)]
        if frames and self.auto_ack:
            self.acknowledge(frames[-1])

    def acknowledge(self, got: Got) -> None:
        self.say(type="ack", lsn=got.header.next_lsn, position=got.header.position)

    def say(self, **message: Any) -> None:
        self.far.send_message(message)
        self.far.pump(0)

    def until(self, what: Any, seconds: float = 10.0) -> None:
        """Turn until `what()` is true."""
        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline, (self.log.getvalue(), [f.notes for f in self.frames])
            self.turn()

    def protect(self) -> None:
        """Connect for the first time and go on until the epoch is valid."""
        self.connect()
        self.until(lambda: self.capture.valid)

    # what came

    def notes(self, kind: str) -> list[dict[str, Any]]:
        return [note for got in self.frames for note in got.notes if note["note"] == kind]

    def cuts(self, kind: str) -> list[dict[str, Any]]:
        return [note for note in self.notes("cut") if note["kind"] == kind]

    def captured(self) -> list[tuple[frame.Record, bytes]]:
        return [pair for got in self.frames if got.header.kind == frame.CAPTURED for pair in got.records]

    def place_of(self, kind: str, /, **keys: Any) -> int:
        """The index of the frame that carries such a note."""
        for index, got in enumerate(self.frames):
            for note in got.notes:
                if note["note"] == kind and keys.items() <= note.items():
                    return index
        raise AssertionError(f"no note {kind} {keys}")

    def image(self) -> bytes:
        """The newest state by the format's rules: valid epochs, in each first the sync, then what was captured."""
        valid = {got.header.epoch for got in self.frames for n in got.notes if n.get("kind") == "sync-end"}
        content = bytearray(self.tap.disks[0].bytes)
        for epoch in sorted(valid):
            for kind in (frame.SYNC, frame.CAPTURED):
                for got in self.frames:
                    if (got.header.epoch, got.header.kind) == (epoch, kind):
                        _apply(content, got)
        return bytes(content)

    def check_numbering(self) -> None:
        """LSNs have no hole, positions never go back, every epoch begins with its note."""
        lsn, position, epoch = 1, 0, 0
        for got in self.frames:
            assert got.header.first_lsn == lsn
            assert got.header.position >= position
            if got.header.epoch != epoch:
                assert got.header.epoch == epoch + 1 and not got.records
                assert got.notes[0]["note"] == "epoch"
            lsn, position, epoch = got.header.next_lsn, got.header.position, got.header.epoch


def _take_apart(item: Frame) -> Got:
    frame.verify(*item)
    records = []
    for record, place in frame.records(item.header, item.head):
        length = record.sectors * 512 if record.kind == frame.WRITE else 0
        records.append((record, bytes(item.payload[place : place + length])))
    return Got(item.header, records, [dict(note) for note in frame.notes(item.header, item.head)])


def _apply(content: bytearray, got: Got) -> None:
    for record, data in got.records:
        start, length = record.sector * 512, record.sectors * 512
        content[start : start + length] = data if record.kind == frame.WRITE else bytes(length)


def block(word: str, length: int = 4096) -> bytes:
    """Content that is easy to recognise."""
    return (word.encode() * length)[:length]


def random_block(length: int = 4096) -> bytes:
    return os.urandom(length)


def resume(desk: Desk, **keys: object) -> None:
    """Connect again, and the appliance says `resume`."""
    welcome = {"action": "resume", "epoch": 1, "syncing": False, "base": True, "next_cut": 1}
    desk.connect(**{**welcome, **keys})
