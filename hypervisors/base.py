"""The contract of a hypervisor adapter; docs/hypervisor-adapters.md tells how to write one.

Few methods are required. The others are optional: they raise NotCapableError unless the adapter
overrides them and says so in its `capabilities()`.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from types import TracebackType
from typing import ClassVar, NoReturn, Self

from hypervisors.errors import NotCapableError, VmNotFoundError
from hypervisors.model import (
    Capabilities,
    DiskSpec,
    ExecResult,
    Finding,
    NbdDisk,
    NicSpec,
    Power,
    Progress,
    Vm,
    VmDisk,
    VmSpec,
)
from lastwrite.errors import LastwriteError
from lastwrite.names import nearest_hint

__all__ = [
    "OPTIONAL_METHODS",
    "Capabilities",
    "DiskSpec",
    "ExecResult",
    "Finding",
    "Hypervisor",
    "NbdDisk",
    "NicSpec",
    "Power",
    "Progress",
    "Vm",
    "VmDisk",
    "VmSpec",
]

OPTIONAL_METHODS: dict[str, tuple[str, ...]] = {
    "guest_exec": ("guest_exec",),
    "guest_files": ("guest_write", "guest_read"),
    "freeze": ("freeze", "thaw"),
    "screenshot": ("screenshot",),
    "nbd_boot": ("boot_from_nbd", "pull_disks"),
}
"""Which methods each capability stands for; a capability that is not listed has no method yet."""

STOP_TIMEOUT_S = 120.0
EXEC_TIMEOUT_S = 30.0


class Hypervisor(abc.ABC):
    """One hypervisor host or cluster: `name` is what the administrator calls it, `url` how it is reached.

    Not connected until `connect()`; usable as a context manager. Calls may come from several threads. Every
    method raises HypervisorUnreachableError when there is no connection, and only errors of lastwrite.errors.
    """

    kind: ClassVar[str]
    schemes: ClassVar[tuple[str, ...]]
    """The URL schemes that belong to this adapter, without what follows a `+`."""

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self.url = url

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- required ----

    @abc.abstractmethod
    def connect(self) -> None:
        """Connect; nothing happens when there is a living connection."""

    @abc.abstractmethod
    def close(self) -> None:
        """Close the connection; nothing happens when there is none. VMs are not touched."""

    @abc.abstractmethod
    def capabilities(self) -> Capabilities:
        """Return what this hypervisor can do."""

    @abc.abstractmethod
    def version(self) -> str:
        """Return the hypervisor's product and version, for people."""

    @abc.abstractmethod
    def list_vms(self) -> list[Vm]:
        """Return all VMs, by name."""

    @abc.abstractmethod
    def get_vm(self, ref: str) -> Vm:
        """Return the VM with this id or name; raises VmNotFoundError offering the nearest names."""

    @abc.abstractmethod
    def describe(self, vm_id: str) -> VmSpec:
        """Return a portable description of the VM, from which a copy can be made elsewhere."""

    @abc.abstractmethod
    def start(self, vm_id: str) -> None:
        """Power the VM on (or let a paused one go on) and return at once; nothing happens when it runs."""

    @abc.abstractmethod
    def stop(self, vm_id: str, force: bool = False, timeout: float = STOP_TIMEOUT_S) -> None:
        """Shut the guest down and wait until the VM is off; nothing happens when it is.

        `force` cuts the power instead. Raises VmDidNotStopError after `timeout` seconds.
        """

    @abc.abstractmethod
    def create_vm(self, spec: VmSpec) -> Vm:
        """Make a VM with empty disks, off; whatever fails, nothing is left behind.

        Raises VmExistsError, BadVmSpecError, NetworkNotFoundError, NoStoragePoolError, NoAccelerationError.
        """

    @abc.abstractmethod
    def delete_vm(self, vm_id: str, storage: bool = False) -> None:
        """Delete a VM that is off; with `storage` also those disks that Lastwrite made for it, and no others.

        Raises VmRunningError when it is not off.
        """

    # ---- optional ----

    def guest_exec(
        self, vm_id: str, argv: Sequence[str], stdin: bytes = b"", timeout: float = EXEC_TIMEOUT_S
    ) -> ExecResult:
        """Run a command in the guest and wait `timeout` seconds for its end, else GuestExecTimeoutError.

        argv[0] is looked up in the guest's PATH; no shell is involved. Secrets belong into `stdin`.
        """
        self._not_capable("guest_exec")

    def guest_write(
        self, vm_id: str, path: str, data: bytes, mode: int, progress: Progress | None = None
    ) -> None:
        """Write a file in the guest, whole or not at all, with the permission bits `mode`."""
        self._not_capable("guest_files")

    def guest_read(self, vm_id: str, path: str) -> bytes:
        """Return the content of a file in the guest; raises GuestFileError."""
        self._not_capable("guest_files")

    def freeze(self, vm_id: str) -> int:
        """Flush and freeze the guest's file systems; returns how many. Always followed by `thaw`."""
        self._not_capable("freeze")

    def thaw(self, vm_id: str) -> int:
        """Thaw the guest's file systems; returns how many."""
        self._not_capable("freeze")

    def screenshot(self, vm_id: str) -> bytes:
        """Return a picture of the VM's screen as PNG."""
        self._not_capable("screenshot")

    def boot_from_nbd(self, spec: VmSpec, disks: Sequence[NbdDisk]) -> Vm:
        """Make and start a VM like `spec` whose disks are local overlays over NBD exports.

        It gets a new id and new MAC addresses. `spec.disks` and `disks` name the same targets, or
        `spec.disks` is empty. Whatever fails, no VM and no disk is left behind.
        Raises what `create_vm` raises, and NbdUnreachableError.
        """
        self._not_capable("nbd_boot")

    def pull_disks(self, vm_id: str, progress: Progress | None = None) -> None:
        """Copy what the VM's disks still have on NBD exports to the host while it runs, and wait for the end.

        Afterwards the VM needs no NBD server. May be called again after it failed; raises DiskPullError.
        """
        self._not_capable("nbd_boot")

    # ---- checking ----

    def check(self) -> list[Finding]:
        """Return what works and what does not, each with its remedy; raises nothing for what it finds."""
        try:
            self.connect()
            findings = [Finding("connection", True, self.url), Finding("version", True, self.version())]
            return findings + self.further_findings()
        except LastwriteError as error:
            return [Finding("connection", False, error.message, error.hint)]

    def further_findings(self) -> list[Finding]:
        """Return what `check` finds beyond connection and version; for adapters to override."""
        return []

    def _not_capable(self, capability: str) -> NoReturn:
        raise NotCapableError(f"{self.name}: {self.kind} does not offer {capability}", capability=capability)

    def _no_such_vm(self, ref: str, known: Sequence[str]) -> VmNotFoundError:
        hint = nearest_hint(ref, known, "It has no VM at all.")
        return VmNotFoundError(f"{self.name}: no VM with the name or id {ref!r}", hint=hint, vm=ref)
