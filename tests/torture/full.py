"""The journal's file system runs full, for real and by injected errors; ingest must go on by itself afterwards."""

from __future__ import annotations

import os
import random
import ssl
import time
from collections import Counter
from pathlib import Path

from guesttap.channel import ChannelClosed
from tests.torture import places, verify
from tests.torture.kills import ingest_points
from tests.torture.receivers import Receivers, until
from tests.torture.tap import RING_FRAMES, TortureTap

DISK_BYTES = 80 << 20
LEFT_BYTES = 3 << 20
TRIALS_PER_JOURNAL = 4
STANDSTILL = 2.5  # seconds without an acknowledgement: the receiver tries again every second


class FullTrial:
    """Fills the file system, looks, kills the receiver while it is full, makes space, looks again."""

    def __init__(self, folder: Path, kind: str, chance: random.Random) -> None:
        self.folder = folder
        self.kind = kind
        self.chance = chance
        self.receivers = Receivers(folder)
        self.seen: Counter[str] = Counter()

    def run(self, rounds: int) -> None:
        """Fill it so often."""
        try:
            with places.small_file_system(self.folder, self.kind, DISK_BYTES) as place:
                try:
                    self.receivers.start()
                    vm = self.receivers.new_vm(place / "journal")
                    tap = self.receivers.new_tap(vm, self.chance.getrandbits(32))
                    for number in range(rounds):
                        self._round(place, tap, killed=number % 2 == 1)
                    tap.close()
                finally:
                    self.receivers.close()
        finally:
            if self.receivers.pid:
                self.receivers.close()

    def _round(self, place: Path, tap: TortureTap, killed: bool) -> None:
        journal = place / "journal"
        self._connect(tap)
        while tap.valid_from is None:
            tap.step()
        tap.settle()
        ballast = _fill(place)
        self._until_standstill(tap)
        verify.require_frames(journal, tap.acknowledged)
        verify.whole(journal, tap.truth, tap.acked_lsn, self.chance)
        self.seen[f"{self.kind} ran full"] += 1
        if killed:
            self.receivers.kill()
            verify.whole(journal, tap.truth, tap.acked_lsn, self.chance)
            self.receivers.start()
            self._connect(tap)
            self.seen["the receiver was killed while it was full"] += 1
        session = tap.channel
        ballast.unlink()
        tap.settle()
        verify.require(tap.channel is session, "it did not go on by itself")
        for _ in range(100):
            tap.step()
        tap.settle()
        verify.require_frames(journal, tap.acknowledged)
        verify.whole(journal, tap.truth, tap.acked_lsn, self.chance)

    def _connect(self, tap: TortureTap) -> None:
        tap.hello()
        tap.follow()

    def _until_standstill(self, tap: TortureTap) -> None:
        """Write until nothing is acknowledged any more."""
        acked, since, deadline = tap.acked_lsn, time.monotonic(), until(60)
        while time.monotonic() - since < STANDSTILL:
            verify.require(time.monotonic() < deadline, "the file system does not run full")
            tap.step()
            if tap.acked_lsn != acked or len(tap.ring) < RING_FRAMES:
                acked, since = tap.acked_lsn, time.monotonic()


def _fill(place: Path) -> Path:
    """Leave little space."""
    ballast = place / "ballast"
    free = os.statvfs(place)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(4096, free.f_bavail * free.f_frsize - LEFT_BYTES))
    return ballast


class ErrorTrial:
    """Every system call on the path to an acknowledgement fails once, or for a while."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.chance = chance
        self.receivers = Receivers(folder)
        self.seen: Counter[str] = Counter()

    def run(self, trials: int) -> None:
        """Let so many calls fail."""
        names = [name for name in ingest_points() if not name.startswith("meta-")]
        try:
            for first in range(0, trials, TRIALS_PER_JOURNAL):
                numbers = range(first, min(trials, first + TRIALS_PER_JOURNAL))
                self._one_journal([names[number % len(names)] for number in numbers])
        finally:
            self.receivers.close()

    def _one_journal(self, names: list[str]) -> None:
        self.receivers.start()
        vm = self.receivers.new_vm()
        tap = self.receivers.new_tap(vm, self.chance.getrandbits(32))
        self.receivers.kill()
        for name in names:
            error = self.chance.choice(("ENOSPC", "EIO"))
            often = name in ("append-half", "append-written", "sync-done")
            spec = f"{name}:{self.chance.randint(1, 30 if often else 2)}=error:{error}"
            log = self.receivers.appliance.log
            before = log.stat().st_size
            self._one(Path(vm.journal), tap, spec)
            came = f"fail point {name}".encode() in log.read_bytes()[before:]
            self.seen[f"{error} at {name}" if came else f"{name} was not reached"] += 1
        self.receivers.forget(vm)

    def _one(self, folder: Path, tap: TortureTap, spec: str) -> None:
        self.receivers.start(spec)
        try:
            deadline = until(0.6)
            while time.monotonic() < deadline:
                self._session(tap, deadline)
            tap.close()
            self.receivers.kill()
            verify.require_frames(folder, tap.acknowledged)
            verify.whole(folder, tap.truth, tap.acked_lsn, self.chance)
        except verify.Lost as lost:
            raise verify.Lost(f"with {spec}: {lost}") from lost

    def _session(self, tap: TortureTap, deadline: float) -> None:
        try:
            tap.hello()
            tap.follow()
            while time.monotonic() < deadline:
                tap.step()
            tap.settle()
        except (ChannelClosed, ssl.SSLError, ConnectionError):
            self.seen["sessions ended"] += 1
