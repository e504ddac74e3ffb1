"""What the agent knows of one epoch while it lives."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Mapping

from guesttap.agent.dirty import DirtySet
from guesttap.agent.sync import Plan

if TYPE_CHECKING:
    from guesttap.bpf.tap import BpfTap

CALM_NS = 1_000_000_000
PATIENCE_NS = 35_000_000_000
"""Longer than the longest time that Linux gives an I/O (30 s): after it nothing from before can still come."""


class Settling:
    """Waits until every write that was under way at an epoch's beginning has ended (rule 2 of the format).

    A disk has settled when it was seen with nothing in flight once, at least one second after the beginning
    (a request may sit in a plug, not yet counted); or after 35 s, whatever is counted.
    """

    def __init__(self, tap: BpfTap) -> None:
        self._tap = tap
        self._waiting = {disk.index for disk in tap.disks}
        self._began = time.monotonic_ns()

    def is_over(self) -> bool:
        """Look again; once True, it stays True."""
        waited = time.monotonic_ns() - self._began
        if waited >= PATIENCE_NS:
            self._waiting.clear()
        elif self._waiting and waited >= CALM_NS:
            flying = self._tap.inflight()
            self._waiting = {disk for disk in self._waiting if flying.get(disk)}
        return not self._waiting


class Epoch:
    """One epoch: `sync` is initial, full or bitmap; `baseline` the tap's lost counter at its mark.

    Until it is `valid` (its sync-end cut is durable on the appliance) it keeps its whole `plan` and every place
    that was `touched` since its beginning: if it breaks before, the journal leaves all of it out, and the next
    epoch must bring all of it again.
    """

    def __init__(
        self, number: int, sync: str, baseline: int, plan: Plan | None, sizes: Mapping[int, int]
    ) -> None:
        self.number = number
        self.sync = sync
        self.baseline = baseline
        self.plan = plan
        self.touched: DirtySet | None = DirtySet(sizes) if plan is not None else None
        self.settling: Settling | None = None
        self.end_marked = False
        self.end_position: int | None = None

    @property
    def valid(self) -> bool:
        """Whether its end of sync is durable."""
        return self.plan is None

    def become_valid(self) -> None:
        """Its sync-end cut is durable: what the sync knew is needed no more."""
        self.plan = self.touched = self.settling = None

    def forget_end(self) -> None:
        """The sync-end cut, if any was sent, did not become durable: mark it again."""
        self.end_marked = False
        self.end_position = None
