"""What the services of the control process work with: settings, catalog, and the ways to the other parts.

The ways are attributes, so that a test can put something of its own in their place.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lastwrite.catalog import Catalog, NameTakenError, VmRow
from lastwrite.config import Settings
from plugins.errors import OperationRunningError

if TYPE_CHECKING:
    from guesttap.ingest_client import IngestClient
    from hypervisors.base import Hypervisor
    from journal.reader import JournalReader


class Emit(Protocol):
    """How a long operation tells what it does. Texts are for people."""

    def step(self, text: str) -> None:
        """Say what begins now."""

    def progress(self, text: str, done: int, total: int | None, unit: str = "bytes") -> None:
        """Say how far it is; `unit` is `bytes`, `items` or `percent`."""

    def check(self) -> None:
        """Raise CancelledError when whoever asked has gone: called where stopping is safe."""


class Context:
    """One per control process."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.catalog = Catalog(settings.catalog_url)
        self._lock = threading.Lock()
        self._busy: set[str] = set()
        self._names: set[tuple[str, str]] = set()

    def ingest(self) -> IngestClient:
        """Return a client of the ingest process."""
        from guesttap.ingest_client import IngestClient

        return IngestClient(self.settings.ingest_socket)

    def deployment(self) -> Any:
        """Return what puts the tap into guests: a module with probe, deploy and remove."""
        from guesttap import deploy

        return deploy

    def ca_pem(self) -> str:
        """Return the certificate of the appliance's authority, made on its first use."""
        from guesttap.authority import Authority

        return Authority(self.settings.pki_dir).ca_pem

    @contextmanager
    def hypervisor(self, name: str) -> Iterator[Hypervisor]:
        """Give a connection to a hypervisor of the catalog. Raises UnknownHypervisorError, or its own."""
        from hypervisors.registry import open_hypervisor

        row = self.catalog.hypervisor(name)
        with open_hypervisor(row.name, row.kind, row.url) as connected:
            yield connected

    def reader(self, vm: VmRow) -> JournalReader:
        """Return a reader of a VM's journal. Raises NotAJournal."""
        from journal.reader import JournalReader

        return JournalReader(Path(vm.journal))

    @contextmanager
    def naming(self, vm: VmRow, label: str) -> Iterator[None]:
        """Let one request at a time give a name to a point of a VM. Raises NameTakenError."""
        with self._lock:
            if (vm.id, label) in self._names:
                raise NameTakenError(f"another point of {vm.name} is getting the name {label} right now")
            self._names.add((vm.id, label))
        try:
            yield
        finally:
            with self._lock:
                self._names.discard((vm.id, label))

    @contextmanager
    def exclusive(self, name: str) -> Iterator[None]:
        """Let one operation at a time begin or end the protection of a VM. Raises OperationRunningError."""
        with self._lock:
            if name in self._busy:
                raise OperationRunningError(f"another operation on {name} is running")
            self._busy.add(name)
        try:
            yield
        finally:
            with self._lock:
                self._busy.discard(name)
