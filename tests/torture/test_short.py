"""The short form of the torture: the same trials as `make torture`, fewer of each."""

from __future__ import annotations

import secrets

import pytest

from tests.needs import missing
from tests.torture import places, trials


@pytest.fixture
def seed() -> int:
    """A seed of its own for each run; a failure shows it."""
    return secrets.randbelow(1 << 32)


@pytest.fixture(autouse=True)
def _cleared() -> None:
    places.remove_leftovers()


def test_nothing_acknowledged_is_lost_by_kills_bad_connections_failing_calls_and_damage(
    seed: int,
) -> None:
    print(f"seed {seed}")
    with places.workplace() as folder:
        outcomes = {trial.kind: trial.run(folder, seed) for trial in trials.plain_trials(trials.SHORT)}
    assert sum(outcomes["kills"].counts.values()) >= 20
    for outcome in outcomes.values():
        print(outcome.line())


@pytest.mark.kernel
def test_nothing_acknowledged_is_lost_by_full_disks_and_power_loss(seed: int) -> None:
    lacks = trials.lacks()
    if lacks:
        missing("; ".join(lacks))
    print(f"seed {seed}")
    with places.workplace() as folder:
        outcomes = [trial.run(folder, seed) for trial in trials.kernel_trials(trials.SHORT)]
    assert sum(outcome.counts["images"] for outcome in outcomes) >= 40
    for outcome in outcomes:
        print(outcome.line())
