"""What is known of one VM's protection, in the words of the vocabulary; lives on between its sessions.

RPO is measured: the appliance's clock, moved onto the source's by the measured offset, minus the source's
time of the newest thing that is durable here and recoverable. Such a thing is a record or a note of a valid
epoch, or a `pong` that says the ring was empty: ring space is given back by an `ack` alone, so an empty ring
means that everything written up to that instant is durable, however long ago it was. While a sync runs, or
the tap is away, nothing newer becomes recoverable and the RPO grows.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from guesttap.protocol import Message
from guesttap.receiver.contents import Contents
from journal.notes import CutNote, EpochNote, GapNote, Parsed
from lastwrite.text import size

_SYNC_STATES = {"initial": "InitialSync", "full": "InitialSync", "bitmap": "BitmapSync", "delta": "DeltaSync"}
_SHOWN = ("ring_used", "ring_bytes", "lost", "accounting", "synced_bytes", "sync_bytes", "unreadable_bytes")


class VmStatus:
    """The status of one VM. Written by its session's two threads, read by others; each field stands alone."""

    def __init__(self) -> None:
        self.connected = False
        self.protected = True
        self.alarm: str | None = None
        self.no_journal: str | None = None
        self.enrolments = 0
        self.epoch = 0
        self.next_lsn = 1
        self.sync: str | None = None
        self.valid = False
        self.durable_wall: int | None = None
        self.recoverable_wall: int | None = None
        self.clock_offset: int | None = None
        self.received_bytes = 0
        self.refused: str | None = None
        self._pong: dict[str, Any] = {}
        self._pair: tuple[int, int] | None = None

    def begin_session(self, epoch: int, next_lsn: int, *, valid: bool, sync: str | None) -> None:
        """Note that a tap was let in."""
        self.connected, self.alarm, self.refused = True, None, None
        self.epoch, self.next_lsn, self.valid, self.sync = epoch, next_lsn, valid, sync
        self._pong, self._pair = {}, None

    def begin_enrolment(self) -> None:
        """Note that a new tap was enrolled: what was said of the former one no longer counts."""
        self.enrolments += 1
        self.alarm = self.refused = None
        self._pong = {}

    def end_session(self) -> None:
        """Note that the tap is away; what was measured last stays."""
        self.connected = False

    def durable(self, next_lsn: int, batch: Iterable[Contents]) -> None:
        """Note that these frames, in order, are durable."""
        self.next_lsn = next_lsn
        for contents in batch:
            self.epoch = contents.header.epoch
            if contents.last_mono is not None:
                self._reached(self._wall_at(contents.last_mono))
            for note in contents.notes:
                self._note(note)

    def pong(self, message: Message, offset: int | None) -> None:
        """Take a tap's own report; times in ns."""
        shown = message.get("status")
        self._pong = shown if isinstance(shown, dict) else {}
        self.clock_offset = offset
        self._pair = (message["wall"], message["mono"])
        if self._pong.get("ring_used") == 0:
            self._reached(message["wall"])

    def _note(self, note: Parsed) -> None:
        if isinstance(note, EpochNote):
            self.valid, self.sync = False, note.sync
        elif isinstance(note, GapNote):
            self.valid = False
        elif isinstance(note, CutNote) and note.kind == "sync-end":
            self.valid, self.sync = True, None
        self._pair = (note.wall, note.mono)
        self._reached(note.wall)

    def _wall_at(self, mono: int) -> int | None:
        return self._pair[0] + mono - self._pair[1] if self._pair else None

    def _reached(self, wall: int | None) -> None:
        if wall is None:
            return
        self.durable_wall = wall
        if self.valid:
            self.recoverable_wall = wall

    @property
    def state(self) -> str:
        """One word of the vocabulary."""
        if not self.protected:
            return "Unprotected"
        if self.no_journal or self.alarm:
            return "Error"
        if not self.connected:
            return "Disconnected"
        return "Protected" if self.valid else _SYNC_STATES.get(self.sync or "initial", "InitialSync")

    @property
    def alarms(self) -> str | None:
        """Everything that somebody must look at, in plain words; None when there is nothing."""
        found = [self.no_journal, self.alarm, _unreadable(self._pong.get("unreadable_bytes"))]
        return "; ".join(alarm for alarm in found if alarm) or None

    def rpo_ms(self, now: int | None = None) -> int | None:
        """Age of the newest recoverable point, ms, at our wall clock `now` (ns); None while there is none."""
        if self.recoverable_wall is None:
            return None
        now = time.time_ns() if now is None else now
        return max(0, (now + (self.clock_offset or 0) - self.recoverable_wall) // 1_000_000)

    def as_dict(self) -> dict[str, Any]:
        """Return what the ingest socket tells."""
        shown = {key: _plain(self._pong.get(key)) for key in _SHOWN}
        return shown | {
            "connected": self.connected,
            "state": self.state,
            "epoch": self.epoch,
            "next_lsn": self.next_lsn,
            "sync": self.sync,
            "durable_wall": self.durable_wall,
            "recoverable_wall": self.recoverable_wall,
            "rpo_ms": self.rpo_ms(),
            "clock_offset_ns": self.clock_offset,
            "alarm": self.alarms,
            "enrolments": self.enrolments,
            "refused": self.refused,
            "received_bytes": self.received_bytes,
        }


def _unreadable(count: Any) -> str | None:
    """Return what it means that a tap could not read `count` bytes of a disk."""
    if type(count) is not int or count <= 0:
        return None
    return (
        f"{size(count)} of the guest's disks could not be read and are zeros in the copy: "
        "replace the bad disk, then protect the VM again"
    )


def _plain(value: Any) -> Any:
    """What a tap reports is shown to people: keep numbers and short texts, and maps of them."""
    if isinstance(value, dict):
        return {str(key)[:40]: _plain(inner) for key, inner in list(value.items())[:64]}
    if isinstance(value, str):
        return value[:200]
    return value if isinstance(value, bool | int | float) else None
