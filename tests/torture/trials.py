"""The kinds of trial, how many of each a run makes, and one line about each."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from guesttap.bpf import probe
from tests.torture import places
from tests.torture.flips import DamageTrial
from tests.torture.full import ErrorTrial, FullTrial
from tests.torture.kills import KillTrial
from tests.torture.powerloss import PowerLoss
from tests.torture.retention import RetentionTrial
from tests.torture.tails import TailTrial
from tests.torture.wire import WireTrial


class Plan(NamedTuple):
    """How much of each kind a run makes."""

    kills: int
    wire: int
    errors: int
    tails: int
    retention: int
    full: int
    damage: int
    commits: int
    images: int


LONG = Plan(
    kills=200, wire=90, errors=48, tails=40, retention=72, full=4, damage=350, commits=300, images=260
)
SHORT = Plan(kills=20, wire=9, errors=6, tails=4, retention=9, full=1, damage=42, commits=100, images=20)


class Outcome(NamedTuple):
    """What a kind of trial did."""

    kind: str
    counts: Counter[str]
    seconds: float

    def line(self) -> str:
        """Return it for people."""
        counts = ", ".join(f"{what} {count}" for what, count in sorted(self.counts.items()))
        return f"{self.kind:<20} {self.seconds:6.1f} s  {counts}"


def lacks() -> list[str]:
    """Return why the trials that need the kernel cannot run here; nothing when they can."""
    if os.geteuid() != 0:
        return ["mounting and bpf need root"]
    found = [f"no {tool}" for tool in ("losetup", "mount", "e2fsck", "mkfs.ext4") if not shutil.which(tool)]
    return found + [lack.what for lack in probe()]


class Trial(NamedTuple):
    """A kind of trial: its name, and how to make and run it in a folder, by a random of its own."""

    kind: str
    start: Callable[[Path, random.Random], tuple[Callable[[], None], Counter[str]]]

    def run(self, folder: Path, seed: int) -> Outcome:
        """Run it. What is random in it is made of the seed and its name."""
        place = folder / self.kind.replace(" ", "-")
        place.mkdir()
        begin = time.monotonic()
        work, counts = self.start(place, random.Random(f"{seed} {self.kind}"))
        work()
        return Outcome(self.kind, counts, time.monotonic() - begin)


def plain_trials(plan: Plan) -> list[Trial]:
    """Return the kinds that any machine can run."""

    def kills(folder: Path, chance: random.Random) -> tuple[Callable[[], None], Counter[str]]:
        trial = KillTrial(folder, chance)
        return lambda: trial.run(plan.kills), trial.ends

    return [
        Trial("kills", kills),
        Trial("connections", _of(WireTrial, plan.wire)),
        Trial("failing calls", _of(ErrorTrial, plan.errors)),
        Trial("lost tails", _of(TailTrial, plan.tails)),
        Trial("retention", _of(RetentionTrial, plan.retention)),
        Trial("damaged files", _of(DamageTrial, plan.damage)),
    ]


def kernel_trials(plan: Plan) -> list[Trial]:
    """Return the kinds that need loop devices and bpf, on each file system that can be made here."""
    return [trial for kind in places.file_systems() for trial in _on(kind, plan)]


def _of(
    made: Callable[[Path, random.Random], Any], count: int
) -> Callable[[Path, random.Random], tuple[Callable[[], None], Counter[str]]]:
    def start(folder: Path, chance: random.Random) -> tuple[Callable[[], None], Counter[str]]:
        trial = made(folder, chance)
        return lambda: trial.run(count), trial.seen

    return start


def _on(kind: str, plan: Plan) -> list[Trial]:
    def power_loss(folder: Path, chance: random.Random) -> tuple[Callable[[], None], Counter[str]]:
        trial = PowerLoss(folder, kind, chance)
        return lambda: trial.run(plan.commits, plan.images), trial.seen

    full = _of(lambda folder, chance: FullTrial(folder, kind, chance), plan.full)
    return [Trial(f"full {kind}", full), Trial(f"power loss {kind}", power_loss)]
