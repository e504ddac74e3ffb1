"""The plain data that crosses the contract: VMs, their portable descriptions, exports to boot from, findings.

No value of a vendor's library is ever in them. Sizes are bytes, times are seconds.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hypervisors.errors import BadVmSpecError

Progress = Callable[[int, int], None]
"""Called now and then with (bytes done, bytes in all)."""

SECTOR = 512
MIB = 1 << 20
MAX_NAME = 200
FIRMWARES = ("bios", "uefi")
ACCELERATIONS = ("kvm", "tcg", None)


class Power(enum.StrEnum):
    """Whether a VM runs."""

    ON = "on"
    OFF = "off"
    PAUSED = "paused"


@dataclass(frozen=True)
class Capabilities:
    """What a hypervisor can do beyond the required methods; False where nothing is implemented."""

    guest_exec: bool = False
    guest_files: bool = False
    freeze: bool = False
    disk_read: bool = False
    changed_blocks: bool = False
    host_tap: bool = False
    nbd_boot: bool = False
    import_image: bool = False
    isolated_network: bool = False
    screenshot: bool = False
    hot_add: bool = False

    def names(self) -> tuple[str, ...]:
        """Return the names of those that are there."""
        return tuple(name for name, there in dataclasses.asdict(self).items() if there)


@dataclass(frozen=True)
class VmDisk:
    """A disk of a VM: `target` is its name in the VM (vda), `bytes` its size if known, `source` its place."""

    target: str
    bytes: int | None
    source: str


@dataclass(frozen=True)
class Vm:
    """A VM as it is now. `has_agent`: whether its guest agent is connected; None where nobody can tell."""

    id: str
    name: str
    power: Power
    memory_bytes: int
    vcpus: int
    disks: tuple[VmDisk, ...]
    has_agent: bool | None


@dataclass(frozen=True)
class DiskSpec:
    """A disk to be made: `bytes` is a multiple of 512; None (unknown) will do for booting from an export."""

    target: str
    bytes: int | None
    bus: str = "virtio"
    serial: str | None = None


@dataclass(frozen=True)
class NicSpec:
    """A network card: `kind` is "user", "network" or "bridge" (others are kept as data, not made).

    `source` names the network or bridge; `mac` None lets the hypervisor choose; a card that is not
    `connected` has its cable out.
    """

    kind: str
    source: str | None = None
    model: str = "virtio"
    mac: str | None = None
    connected: bool = True


@dataclass(frozen=True)
class VmSpec:
    """A portable description of a VM, good for making one like it on another host.

    `accel` is "kvm", "tcg" (emulation) or None for the best that the host has; `cpu` a CPU model or mode of
    the hypervisor, None for its choice; `clock` what the hardware clock shows ("utc" or "localtime");
    `serial_log` a file on the host for the first serial port. Raises BadVmSpecError naming the field.
    """

    name: str
    memory_bytes: int
    vcpus: int
    firmware: str = "bios"
    disks: tuple[DiskSpec, ...] = ()
    nics: tuple[NicSpec, ...] = ()
    arch: str = "x86_64"
    accel: str | None = None
    cpu: str | None = None
    clock: str = "utc"
    serial_log: str | None = None

    def __post_init__(self) -> None:
        _require(_is_name(self.name), self.name, "name", "1 to 200 printable characters without /", self.name)
        _require(self.memory_bytes >= MIB, self.name, "memory_bytes", "at least 1 MiB", self.memory_bytes)
        _require(self.vcpus >= 1, self.name, "vcpus", "at least 1", self.vcpus)
        _require(self.firmware in FIRMWARES, self.name, "firmware", "bios or uefi", self.firmware)
        _require(self.accel in ACCELERATIONS, self.name, "accel", "kvm, tcg or None", self.accel)
        targets = [disk.target for disk in self.disks]
        _require(len(set(targets)) == len(targets), self.name, "disks", "each target once", targets)
        for disk in self.disks:
            good = disk.bytes is None or _is_size(disk.bytes)
            _require(good, self.name, f"disks[{disk.target}].bytes", "a positive multiple of 512", disk.bytes)


@dataclass(frozen=True)
class NbdDisk:
    """A disk to boot from: the NBD export `export` at `host`:`port`, as the hypervisor's host reaches it."""

    target: str
    host: str
    port: int
    export: str
    bytes: int

    def __post_init__(self) -> None:
        _require(_is_size(self.bytes), self.target, "bytes", "a positive multiple of 512", self.bytes)
        _require(0 < self.port < 65536, self.target, "port", "1 to 65535", self.port)
        _require(bool(self.host), self.target, "host", "not empty", self.host)


@dataclass(frozen=True)
class ExecResult:
    """How a command in a guest ended: `rc` its exit status, or minus the signal that ended it.

    `truncated`: the guest agent cut off part of the output.
    """

    rc: int
    out: bytes
    err: bytes
    truncated: bool = False


@dataclass(frozen=True)
class Finding:
    """One line of `lastwrite hypervisor check`: `remedy` says what to do when it is not `ok`."""

    capability: str
    ok: bool
    detail: str
    remedy: str = ""


def paired(spec: VmSpec, disks: Sequence[NbdDisk]) -> list[tuple[DiskSpec, NbdDisk]]:
    """Return each disk of `spec` with its export, in its order; a spec without disks takes the exports'.

    Raises BadVmSpecError when one side has a disk that the other has not, because a guest that misses a
    disk does not boot, or boots wrongly.
    """
    exports = {disk.target: disk for disk in disks}
    wanted = spec.disks or tuple(DiskSpec(disk.target, disk.bytes) for disk in disks)
    expected = f"exports for exactly {sorted(disk.target for disk in wanted)}, each once"
    same = len(exports) == len(disks) and exports.keys() == {disk.target for disk in wanted}
    _require(bool(disks) and same, spec.name, "disks", expected, [disk.target for disk in disks])
    return [(disk, exports[disk.target]) for disk in wanted]


def _is_name(name: str) -> bool:
    return 0 < len(name) <= MAX_NAME and name.isprintable() and "/" not in name and name.strip() == name


def _is_size(count: int) -> bool:
    return count > 0 and count % SECTOR == 0


def _require(good: bool, owner: str, field: str, expected: str, value: object) -> None:
    if not good:
        raise BadVmSpecError(f"{owner!r}: {field}: must be {expected} (got {value!r})", field=field)
