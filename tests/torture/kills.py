"""The receiver dies with SIGKILL, at named places and at random instants; the tap connects to the next one."""

from __future__ import annotations

import random
import re
import ssl
import time
from collections import Counter
from pathlib import Path

from guesttap.channel import ChannelClosed
from tests.torture import verify
from tests.torture.receivers import Receivers
from tests.torture.tap import TortureTap

LONGEST_WAIT = 1.5  # seconds that a fail point is given to be reached
ROOT = Path(__file__).resolve().parents[2]
INGEST_SOURCES = ("journal/storage.py", "journal/direct.py", "journal/metalog.py")
NOT_ON_THIS_PATH = {"identity-upgraded"}
KILLS_PER_JOURNAL = 8
_REACH = re.compile(r'(?:\breach|_failure_at)\("([a-z0-9-]+)"\)')
LONGEST_LIFE = 0.5  # seconds that a receiver streams before it is killed from outside


def points_in(*names: str) -> list[str]:
    """Return the names of the fail points that stand in some sources (paths below the repository)."""
    found: set[str] = set()
    for name in names:
        if (ROOT / name).exists():
            found |= set(_REACH.findall((ROOT / name).read_text()))
    return sorted(found)


def ingest_points() -> list[str]:
    """Return the names of the fail points that a receiver comes by."""
    return [name for name in points_in(*INGEST_SOURCES) if name not in NOT_ON_THIS_PATH]


class KillTrial:
    """Kills receivers and looks at the journal after each. `ends`: how many died at which place."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.chance = chance
        self.receivers = Receivers(folder)
        self.ends: Counter[str] = Counter()
        self.resumed = self.begun = self.records = 0
        self._points = ingest_points()

    def run(self, kills: int) -> None:
        """Kill so many receivers."""
        try:
            done = 0
            while done < kills:
                done += self._one_journal(min(KILLS_PER_JOURNAL, kills - done))
        finally:
            self.receivers.close()

    def _one_journal(self, kills: int) -> int:
        vm = self.receivers.new_vm()
        folder = Path(vm.journal)
        self.receivers.start()
        tap = self.receivers.new_tap(vm, self.chance.getrandbits(32))
        self.receivers.kill()
        for _ in range(kills):
            self._one_life(tap)
            self._look(folder, tap)
            if self.chance.random() < 0.05:
                tap.reattach()
        self.receivers.start()
        tap.hello()
        tap.follow()
        tap.settle()
        tap.close()
        self.receivers.kill()
        self._look(folder, tap)
        self.records += tap.next_lsn - 1
        self.receivers.forget(vm)
        return kills

    def _one_life(self, tap: TortureTap) -> None:
        name = self._choose()
        if name.startswith("meta-") and tap.attached:
            tap.reattach()  # a new attachment gets a new fence, which is written to the metadata log
        spec = f"{name}:{self._count(name)}" if name else ""
        life = self.chance.uniform(0.0, LONGEST_LIFE)
        if self.receivers.start(spec):
            try:
                self._stream(tap, LONGEST_WAIT if name else life)
            except (ChannelClosed, ssl.SSLError, ConnectionError):
                self.receivers.ended(1.0)  # a broken connection is seen before the end of its process
        self.ends[name if self.receivers.kill() else "random instant"] += 1
        tap.close()

    def _choose(self) -> str:
        """Return a fail point, one that was not reached before if there is any; none in every third life."""
        fresh = [name for name in self._points if not self.ends[name]]
        return "" if self.chance.random() < 0.33 else self.chance.choice(fresh or self._points)

    def _count(self, name: str) -> int:
        often = name in ("append-half", "append-written", "sync-done")
        return self.chance.randint(1, 60 if often else 2)

    def _stream(self, tap: TortureTap, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        action = tap.hello()["action"]
        self.resumed += action == "resume"
        self.begun += action == "begin"
        verify.require(action != "dormant", f"the tap is told to be dormant: {tap.welcome}")
        tap.follow()
        while time.monotonic() < deadline:
            tap.step()

    def _look(self, folder: Path, tap: TortureTap) -> None:
        verify.require_frames(folder, tap.acknowledged)
        verify.whole(folder, tap.truth, tap.acked_lsn, self.chance, 2)
