"""Fixtures of the agent's tests."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from guesttap.agent import epochs
from guesttap.bpf import probe
from tests.agent.doubles import Desk
from tests.agent.rig import Rig
from tests.needs import missing

MakeRig = Callable[..., Rig]
MakeDesk = Callable[..., Desk]


@pytest.fixture
def kernel() -> None:
    """Ends the test where the machine cannot run it."""
    lacks = probe()
    if lacks:
        missing("; ".join(lack.what for lack in lacks))
    for tool in ("losetup", "mkfs.ext4", "mount", "umount", "blockdev"):
        if shutil.which(tool) is None:
            missing(f"no {tool}")
    if not Path("/dev/loop-control").exists():
        missing("no loop devices")


@pytest.fixture
def make_rig(kernel: None) -> Iterator[MakeRig]:
    """Makes rigs, and takes them away."""
    made: list[Rig] = []

    def make(**options: Any) -> Rig:
        made.append(Rig(**options))
        return made[-1]

    yield make
    for rig in made:
        rig.close()


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epochs, "CALM_NS", 20_000_000)
    monkeypatch.setattr("guesttap.agent.capture.MIN_CALM_NS", 20_000_000)


@pytest.fixture
def make_desk(tmp_path: Path) -> Iterator[MakeDesk]:
    made: list[Desk] = []

    def make(**tap: int) -> Desk:
        made.append(Desk(tmp_path / "desk", **tap))
        return made[-1]

    yield make
    for desk in made:
        desk.close()


@pytest.fixture
def desk(make_desk: MakeDesk) -> Desk:
    return make_desk()
