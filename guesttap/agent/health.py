"""Proof, every few seconds, that the tap missed nothing: its own count of sectors against the kernel's."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from guesttap.bpf.tap import BpfTap

INTERVAL_NS = 5_000_000_000


class Health:
    """Compares the accounts of one tap. A mismatch counts when it is seen twice in a row with nothing in flight."""

    def __init__(self, tap: BpfTap) -> None:
        self._tap = tap
        self._next = 0
        self._suspected: dict[int, int] = {}
        self._settled: dict[int, int] = {}  # differences that were answered with a new epoch already
        self.words = "not checked yet"

    def check(self) -> str | None:
        """Return what is wrong, once; None when nothing is, or it is not yet time. Takes a few milliseconds."""
        now = time.monotonic_ns()
        if now < self._next:
            return None
        self._next = now + INTERVAL_NS
        if any(self._tap.inflight().values()):
            return None
        accounts = self._tap.accounting(patience=0.0)
        wrong = {a.disk: a.difference for a in accounts.disks if a.known and a.quiet and not a.balanced}
        wrong = {disk: off for disk, off in wrong.items() if self._settled.get(disk) != off}
        self.words = "balanced" if accounts.balanced else "not balanced" if wrong else "not known"
        sure = {disk: off for disk, off in wrong.items() if self._suspected.get(disk) == off}
        self._suspected = wrong
        if not sure:
            return None
        self._settled.update(sure)
        disk, off = next(iter(sure.items()))
        name = next((one.name for one in self._tap.disks if one.index == disk), disk)
        return f"the kernel counted {-off} sectors written to disk {name} that the tap did not"
