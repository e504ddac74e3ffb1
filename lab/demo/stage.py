"""The demo's stage: two hosts, the guest, the appliance; built, and always taken down."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lab import guests
from lab.appliance import Appliance
from lab.hosts import Host
from lab.paths import lab_dir
from lab.run import locked, say

VM = "web01"
COPY = "web01-recovered"


@dataclass(frozen=True)
class Stage:
    """What the story plays on; `folder` holds everything, and goes when the demo ends."""

    folder: Path
    source: Host
    target: Host
    guest: guests.Guest
    appliance: Appliance

    @property
    def copy(self) -> guests.Guest:
        """The recovered VM, once it exists."""
        return guests.Guest(self.target, COPY)


@contextlib.contextmanager
def built(keep: bool = False) -> Iterator[Stage]:
    """Build the stage, and take it down afterwards whatever happens (unless `keep`).

    What an interrupted earlier demo left is taken down first.
    """
    folder = lab_dir() / "demo"
    with locked(folder.parent / ".demo.lock", timeout_s=5):
        source, target = Host("source", folder=folder / "source"), Host("target", folder=folder / "target")
        stage = Stage(folder, source, target, guests.Guest(source, VM), Appliance(folder / "appliance"))
        _take_down(stage)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            source.up()
            target.up()
            guests.boot(source, VM)
            yield stage
        finally:
            if keep:
                say(f"kept: {folder} (the next `make demo` removes it)")
            else:
                _take_down(stage)


def _take_down(stage: Stage) -> None:
    stage.appliance.stop()
    for host in (stage.source, stage.target):
        host.down()
    shutil.rmtree(stage.folder, ignore_errors=True)
