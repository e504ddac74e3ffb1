"""Random interleavings of everything that is done to a journal, against a plain dictionary."""

from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.journal.machine import Machine

SEEDS = st.integers(0, 1 << 32).map(random.Random)
PICKS = st.integers(0, 1 << 16)


class JournalMachine(RuleBasedStateMachine):
    """The rules; what they do is in machine.py."""

    @initialize(seed=SEEDS)
    def begin(self, seed: random.Random) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="lastwrite-machine-"))
        self.machine = Machine(self.root)
        self.machine.epoch(seed, whole=True)

    def teardown(self) -> None:
        if hasattr(self, "machine"):
            try:
                self.machine.check_all()
            finally:
                self.machine.writer.close()
                shutil.rmtree(self.root)

    def _valid(self) -> bool:
        return self.machine.line.valid

    def _open(self) -> bool:
        return self.machine.writer.epoch_open

    def _has_points(self) -> bool:
        return bool(self.machine.points())

    def _point(self, pick: int) -> int:
        points = self.machine.points()
        return points[pick % len(points)]

    @precondition(_valid)
    @rule(seed=SEEDS, frames=st.integers(1, 6))
    def write(self, seed: random.Random, frames: int) -> None:
        for _ in range(frames):
            self.machine.write(seed)

    @precondition(_open)
    @rule()
    def cut(self) -> None:
        self.machine.tap.cut()
        self.machine.save()

    @rule(seed=SEEDS, whole=st.sampled_from((True, True, False)))
    def epoch(self, seed: random.Random, whole: bool) -> None:
        self.machine.epoch(seed, whole)

    @precondition(_open)
    @rule(seed=SEEDS)
    def gap(self, seed: random.Random) -> None:
        self.machine.gap(seed)

    @rule()
    def commit(self) -> None:
        self.machine.commit()

    @precondition(_valid)
    @rule(seed=SEEDS)
    def seal(self, seed: random.Random) -> None:
        self.machine.seal(seed)

    @precondition(_has_points)
    @rule(pick=PICKS)
    def bookmark(self, pick: int) -> None:
        self.machine.bookmark(self._point(pick))

    @precondition(_has_points)
    @rule(pick=PICKS)
    def pin(self, pick: int) -> None:
        self.machine.pin(self._point(pick))

    @rule(pick=PICKS)
    def unpin(self, pick: int) -> None:
        ids = [name for name in self.machine.needed if "-" in name and not name.startswith("name-")]
        if ids:
            self.machine.unpin(ids[pick % len(ids)])

    @precondition(lambda self: len(self.machine.lines) < 5 and self._has_points())
    @rule(pick=PICKS)
    def fork(self, pick: int) -> None:
        self.machine.fork(self._point(pick))

    @rule(pick=PICKS)
    def switch(self, pick: int) -> None:
        lines = list(self.machine.lines)
        self.machine.switch(lines[pick % len(lines)])

    @rule(pick=PICKS, seed=SEEDS)
    def thin(self, pick: int, seed: random.Random) -> None:
        lines = list(self.machine.lines)
        self.machine.thin(lines[pick % len(lines)], seed)

    @rule()
    def fold(self) -> None:
        self.machine.fold()

    @rule(pick=PICKS)
    def prune(self, pick: int) -> None:
        lines = self.machine.prunable()
        if lines:
            self.machine.prune(lines[pick % len(lines)])

    @rule(seed=SEEDS)
    def crash(self, seed: random.Random) -> None:
        self.machine.crash(seed)

    @invariant()
    def the_newest_point_is_right(self) -> None:
        if hasattr(self, "machine"):
            self.machine.check_newest()


TestJournal = JournalMachine.TestCase
TestJournal.settings = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
