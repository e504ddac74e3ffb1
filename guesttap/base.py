"""The contract of a tap: what captures a VM's writes, whatever its kind.

A tap sends its change stream to the receiver by itself (docs/protocol.md); this contract is how the rest of
the appliance asks something of it. `ReceiverTap` is the one behind the ingest socket: the bpf tap in a guest.
"""

from __future__ import annotations

import abc
import enum
from typing import Any, ClassVar

from guesttap.ingest_client import IngestClient


class Order(enum.StrEnum):
    """What a tap's order of records means (docs/journal-format.md, note `epoch`)."""

    TOTAL = "total"
    PER_DISK = "per-disk"
    CYCLE = "cycle"

    @property
    def exact(self) -> bool:
        """Whether every record is a point, at least of its own disk; otherwise only cuts are."""
        return self is not Order.CYCLE


class Tap(abc.ABC):
    """A tap of one VM.

    Every method raises errors of lastwrite.errors only, TapNotConnectedError when the tap is not there.
    """

    kind: ClassVar[str]
    order: ClassVar[Order]

    @abc.abstractmethod
    def cut(self, label: str | None, *, quiesced: bool = False) -> dict[str, Any]:
        """Set a cut now and return lsn, number, wall (ns), mono (ns), consistency; it is durable then.

        `quiesced` asks for an AppShot: the consistency in the result is the one that it really has.
        """

    @abc.abstractmethod
    def detach(self) -> None:
        """Take the tap off the VM's disks: nothing is captured any more."""

    @abc.abstractmethod
    def status(self) -> dict[str, Any]:
        """Return how it goes (guesttap/receiver/status.py names the keys)."""


class ReceiverTap(Tap):
    """The bpf tap of one VM, reached through the receiver that it streams to."""

    kind = "bpf"
    order = Order.TOTAL

    def __init__(self, client: IngestClient, vm_id: str) -> None:
        self._client = client
        self._vm_id = vm_id

    def cut(self, label: str | None, *, quiesced: bool = False) -> dict[str, Any]:
        """Set a bookmark or an AppShot."""
        ask = self._client.appshot if quiesced else self._client.mark
        return ask(self._vm_id, label)

    def detach(self) -> None:
        """Have the agent detach its tap."""
        self._client.detach(self._vm_id)

    def status(self) -> dict[str, Any]:
        """Return this VM's part of the receiver's status."""
        return self._client.status().get(self._vm_id, {})
