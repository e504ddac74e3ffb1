"""A hypervisor that exists only in this process: for tests, and the shortest example of an adapter.

`memory://NAME` is one world per NAME, shared by all adapters of the process; `memory://` is one's own.
Nothing runs: guest commands go to a function, exports are recorded and not read.
"""

from __future__ import annotations

import dataclasses
import struct
import threading
import uuid
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from hypervisors.base import (
    EXEC_TIMEOUT_S,
    STOP_TIMEOUT_S,
    Capabilities,
    ExecResult,
    Hypervisor,
    NbdDisk,
    Power,
    Progress,
    Vm,
    VmDisk,
    VmSpec,
)
from hypervisors.errors import (
    BadVmSpecError,
    GuestFileError,
    HypervisorUnreachableError,
    NetworkNotFoundError,
    VmExistsError,
    VmNotRunningError,
    VmRunningError,
)
from hypervisors.model import paired

GuestProgram = Callable[[list[str], bytes], ExecResult]


@dataclass
class MemoryVm:
    """One VM of a world: what it is made of, its power, its guest's files and program, its exports."""

    id: str
    spec: VmSpec
    power: Power = Power.OFF
    frozen: bool = False
    files: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    program: GuestProgram = lambda argv, stdin: ExecResult(127, b"", b"not found\n")
    exports: dict[str, NbdDisk] = field(default_factory=dict)


@dataclass
class World:
    """What a memory hypervisor holds: its VMs by id and the networks that it has."""

    vms: dict[str, MemoryVm] = field(default_factory=dict)
    networks: set[str] = field(default_factory=lambda: {"default"})
    lock: threading.RLock = field(default_factory=threading.RLock)


_worlds: dict[str, World] = {}


class MemoryHypervisor(Hypervisor):
    """VMs in a dictionary; `world` is open to tests."""

    kind: ClassVar[str] = "memory"
    schemes: ClassVar[tuple[str, ...]] = ("memory",)

    def __init__(self, name: str, url: str = "memory://") -> None:
        super().__init__(name, url)
        place = url.partition("://")[2]
        self.world = _worlds.setdefault(place, World()) if place else World()
        self._connected = False

    def connect(self) -> None:
        """Connect."""
        self._connected = True

    def close(self) -> None:
        """Close the connection."""
        self._connected = False

    def capabilities(self) -> Capabilities:
        """Return what is imitated."""
        return Capabilities(guest_exec=True, guest_files=True, freeze=True, nbd_boot=True, screenshot=True)

    def version(self) -> str:
        """Return the name of the adapter: there is no product behind it."""
        self._require_connection()
        return "memory"

    def list_vms(self) -> list[Vm]:
        """Return all VMs, by name."""
        self._require_connection()
        with self.world.lock:
            return sorted(map(_view, self.world.vms.values()), key=lambda vm: vm.name)

    def get_vm(self, ref: str) -> Vm:
        """Return one VM by id or name."""
        return _view(self.find(ref))

    def describe(self, vm_id: str) -> VmSpec:
        """Return the description that the VM was made from."""
        return self.find(vm_id).spec

    def start(self, vm_id: str) -> None:
        """Power on."""
        self.find(vm_id).power = Power.ON

    def stop(self, vm_id: str, force: bool = False, timeout: float = STOP_TIMEOUT_S) -> None:
        """Power off; takes no time."""
        vm = self.find(vm_id)
        vm.power, vm.frozen = Power.OFF, False

    def create_vm(self, spec: VmSpec) -> Vm:
        """Make a VM, off."""
        for disk in spec.disks:
            if disk.bytes is None:
                raise BadVmSpecError(f"{spec.name}: disks[{disk.target}].bytes: a new disk needs a size")
        return _view(self._add(spec))

    def delete_vm(self, vm_id: str, storage: bool = False) -> None:
        """Delete a VM that is off."""
        vm = self.find(vm_id)
        if vm.power is not Power.OFF:
            raise VmRunningError(f"{self.name}: {vm.spec.name} is {vm.power} and cannot be deleted")
        del self.world.vms[vm.id]

    def guest_exec(
        self, vm_id: str, argv: Sequence[str], stdin: bytes = b"", timeout: float = EXEC_TIMEOUT_S
    ) -> ExecResult:
        """Call the guest's program with the arguments and the input."""
        return self._running(vm_id).program(list(argv), stdin)

    def guest_write(
        self, vm_id: str, path: str, data: bytes, mode: int, progress: Progress | None = None
    ) -> None:
        """Keep the bytes under the path."""
        self._running(vm_id).files[path] = (bytes(data), mode)
        if progress:
            progress(len(data), len(data))

    def guest_read(self, vm_id: str, path: str) -> bytes:
        """Return the bytes under the path."""
        vm = self._running(vm_id)
        if path not in vm.files:
            raise GuestFileError(f"{self.name}: {vm.spec.name}: {path}: no such file in the guest")
        return vm.files[path][0]

    def freeze(self, vm_id: str) -> int:
        """Note that the guest is frozen."""
        self._running(vm_id).frozen = True
        return 1

    def thaw(self, vm_id: str) -> int:
        """Note that the guest is not frozen."""
        vm = self._running(vm_id)
        was, vm.frozen = vm.frozen, False
        return int(was)

    def screenshot(self, vm_id: str) -> bytes:
        """Return a picture of one black pixel."""
        self._running(vm_id)
        return _black_pixel()

    def boot_from_nbd(self, spec: VmSpec, disks: Sequence[NbdDisk]) -> Vm:
        """Make a running VM that remembers its exports."""
        made = tuple(dataclasses.replace(disk, bytes=nbd.bytes) for disk, nbd in paired(spec, disks))
        nics = tuple(dataclasses.replace(nic, mac=None) for nic in spec.nics)
        vm = self._add(dataclasses.replace(spec, disks=made, nics=nics))
        vm.exports = {disk.target: disk for disk in disks}
        vm.power = Power.ON
        return _view(vm)

    def pull_disks(self, vm_id: str, progress: Progress | None = None) -> None:
        """Forget the exports."""
        vm = self._running(vm_id)
        total = sum(disk.bytes for disk in vm.exports.values())
        vm.exports = {}
        if progress:
            progress(total, total)

    def find(self, ref: str) -> MemoryVm:
        """Return the VM itself, for tests to look at and to change; raises VmNotFoundError."""
        self._require_connection()
        with self.world.lock:
            for vm in self.world.vms.values():
                if ref in (vm.id, vm.spec.name):
                    return vm
            raise self._no_such_vm(ref, [vm.spec.name for vm in self.world.vms.values()])

    def _add(self, spec: VmSpec) -> MemoryVm:
        self._require_connection()
        with self.world.lock:
            if any(vm.spec.name == spec.name for vm in self.world.vms.values()):
                raise VmExistsError(f"{self.name}: there is a VM called {spec.name} already")
            for nic in spec.nics:
                if nic.kind == "network" and nic.source not in self.world.networks:
                    raise NetworkNotFoundError(
                        f"{self.name}: no network {nic.source!r}, which {spec.name} needs"
                    )
            vm = MemoryVm(str(uuid.uuid4()), spec)
            self.world.vms[vm.id] = vm
            return vm

    def _running(self, ref: str) -> MemoryVm:
        vm = self.find(ref)
        if vm.power is not Power.ON:
            raise VmNotRunningError(f"{self.name}: {vm.spec.name} is {vm.power}")
        return vm

    def _require_connection(self) -> None:
        if not self._connected:
            raise HypervisorUnreachableError(
                f"{self.name}: not connected to {self.url}", hint="Connect first."
            )


def _view(vm: MemoryVm) -> Vm:
    def source(target: str) -> str:
        nbd = vm.exports.get(target)
        return f"nbd://{nbd.host}:{nbd.port}/{nbd.export}" if nbd else f"memory:{vm.id}/{target}"

    disks = tuple(VmDisk(disk.target, disk.bytes, source(disk.target)) for disk in vm.spec.disks)
    has_agent = True if vm.power is Power.ON else None
    return Vm(vm.id, vm.spec.name, vm.power, vm.spec.memory_bytes, vm.spec.vcpus, disks, has_agent)


def _black_pixel() -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0\0")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
