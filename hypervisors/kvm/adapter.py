"""The contract of `hypervisors.base`, on libvirt's QEMU driver."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import ClassVar

import libvirt

from hypervisors.base import (
    EXEC_TIMEOUT_S,
    STOP_TIMEOUT_S,
    Capabilities,
    ExecResult,
    Finding,
    Hypervisor,
    NbdDisk,
    Power,
    Progress,
    Vm,
    VmSpec,
)
from hypervisors.errors import VmDidNotStopError, VmNotRunningError
from hypervisors.kvm import checks, domains, guest_files, host, making, screen
from hypervisors.kvm.agent import GuestAgent
from hypervisors.kvm.connection import Connection
from hypervisors.kvm.errors import translated
from hypervisors.kvm.pull import pull

POLL_S = 0.2
QEMU = Capabilities(guest_exec=True, guest_files=True, freeze=True, nbd_boot=True, screenshot=True)


@translated
class KvmHypervisor(Hypervisor):
    """A libvirt host with QEMU; `url` is a libvirt URI, as `virsh -c` takes it. Ids of VMs are UUIDs."""

    kind: ClassVar[str] = "kvm"
    schemes: ClassVar[tuple[str, ...]] = ("qemu", "test")

    def __init__(self, name: str, url: str = "qemu:///system") -> None:
        super().__init__(name, url)
        self._connection = Connection(name, url)

    def connect(self) -> None:
        """Connect to the libvirt daemon."""
        self._connection.open()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def capabilities(self) -> Capabilities:
        """Return what the driver behind the URL can do: libvirt's test driver can do next to nothing."""
        return QEMU if self._connection.get().getType() == "QEMU" else Capabilities()

    def version(self) -> str:
        """Return the versions of the emulator and of libvirt."""
        return host.version(self._connection.get())

    def list_vms(self) -> list[Vm]:
        """Return all domains, by name."""
        return domains.views(self._connection.get())

    def get_vm(self, ref: str) -> Vm:
        """Return the domain with this UUID or name."""
        return domains.view(self._domain(ref))

    def describe(self, vm_id: str) -> VmSpec:
        """Return the portable description of a domain."""
        return domains.describe(self._domain(vm_id))

    def start(self, vm_id: str) -> None:
        """Start the domain, resume it or wake it up."""
        domain = self._domain(vm_id)
        state = domain.state()[0]
        if state == libvirt.VIR_DOMAIN_PMSUSPENDED:
            domain.pMWakeup(0)
        elif state == libvirt.VIR_DOMAIN_PAUSED:
            domain.resume()
        elif not domain.isActive():
            domain.create()

    def stop(self, vm_id: str, force: bool = False, timeout: float = STOP_TIMEOUT_S) -> None:
        """Shut down by the agent or the power button, or cut the power."""
        domain = self._domain(vm_id)
        if not domain.isActive():
            return
        if force:
            self._cut_power(domain)
            return
        domain.shutdown()
        deadline = time.monotonic() + timeout
        while domain.isActive():
            if time.monotonic() > deadline:
                raise VmDidNotStopError(f"{self.name}: {domain.name()} has not shut down after {timeout:g} s")
            time.sleep(POLL_S)

    def create_vm(self, spec: VmSpec) -> Vm:
        """Define a domain with empty qcow2 volumes."""
        return domains.view(making.create(self._connection.get(), self.name, spec))

    def delete_vm(self, vm_id: str, storage: bool = False) -> None:
        """Undefine a domain, and delete the volumes made for it if `storage`."""
        making.delete(self._connection.get(), self.name, self._domain(vm_id), storage)

    def guest_exec(
        self, vm_id: str, argv: Sequence[str], stdin: bytes = b"", timeout: float = EXEC_TIMEOUT_S
    ) -> ExecResult:
        """Run a command through the guest agent; at most 2 MiB of input."""
        self._require("guest_exec")
        return self._agent(vm_id).run(argv, stdin, timeout)

    def guest_write(
        self, vm_id: str, path: str, data: bytes, mode: int, progress: Progress | None = None
    ) -> None:
        """Write a file through the guest agent (about 1 MB/s)."""
        self._require("guest_files")
        guest_files.write(self._agent(vm_id), self._where(vm_id), path, data, mode, progress)

    def guest_read(self, vm_id: str, path: str) -> bytes:
        """Read a file through the guest agent."""
        self._require("guest_files")
        return guest_files.read(self._agent(vm_id), self._where(vm_id), path)

    def freeze(self, vm_id: str) -> int:
        """Freeze the guest's file systems through its agent."""
        self._require("freeze")
        self._agent(vm_id).require_channel()
        return int(self._domain(vm_id).fsFreeze())

    def thaw(self, vm_id: str) -> int:
        """Thaw the guest's file systems through its agent."""
        self._require("freeze")
        self._agent(vm_id).require_channel()
        return int(self._domain(vm_id).fsThaw())

    def screenshot(self, vm_id: str) -> bytes:
        """Return the first screen."""
        self._require("screenshot")
        domain = self._domain(vm_id)
        if domains.power(domain) is Power.OFF:
            raise VmNotRunningError(f"{self._where(vm_id)} is off and has no screen")
        return screen.shoot(self._connection.get(), domain, self._where(vm_id))

    def boot_from_nbd(self, spec: VmSpec, disks: Sequence[NbdDisk]) -> Vm:
        """Start a domain on qcow2 overlays over the exports."""
        self._require("nbd_boot")
        return domains.view(making.boot(self._connection.get(), self.name, spec, disks))

    def pull_disks(self, vm_id: str, progress: Progress | None = None) -> None:
        """Block-pull every disk that reads from an NBD server."""
        self._require("nbd_boot")
        pull(self._domain(vm_id), self._where(vm_id), progress)

    def further_findings(self) -> list[Finding]:
        """Return what is found on storage, acceleration and guest agents."""
        return checks.findings(self._connection.get(), self.name)

    def _domain(self, ref: str) -> libvirt.virDomain:
        connection = self._connection.get()
        domain = domains.look_up(connection, ref)
        if domain is None:
            raise self._no_such_vm(ref, [each.name() for each in connection.listAllDomains()])
        return domain

    def _agent(self, vm_id: str) -> GuestAgent:
        return GuestAgent(self._domain(vm_id), self._where(vm_id))

    def _where(self, vm_id: str) -> str:
        return f"{self.name}: {self._domain(vm_id).name()}"

    def _cut_power(self, domain: libvirt.virDomain) -> None:
        try:
            domain.destroy()
        except libvirt.libvirtError:
            if domain.isActive():  # otherwise it went off by itself in between
                raise

    def _require(self, capability: str) -> None:
        if not getattr(self.capabilities(), capability):
            self._not_capable(capability)
