"""A VM made of a point: booted from NBD exports that are pinned to one LSN, then freed of them.

Owns the order of the steps and the waiting; how a hypervisor makes a VM over an export is its adapter's.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from hypervisors.base import DiskSpec, Hypervisor, NbdDisk, Vm, VmSpec
from lastwrite.address import parse_address
from lastwrite.errors import LastwriteError, UsageError
from recovery.errors import BootFailed, DiskNotFound
from recovery.points import RecoveryPoint
from recovery.view import View, disks_at, find_disk

if TYPE_CHECKING:
    from journal.reader import JournalReader

ANSWER_SECONDS = 300.0
POLL_SECONDS = 1.0


@dataclasses.dataclass(frozen=True)
class BootEvent:
    """One step that was taken: `step` is resolve, boot, wait or answering; `seconds` since the beginning."""

    step: str
    text: str
    seconds: float


Report = Callable[[BootEvent], None]


class _Steps:
    """Tells the caller each step, with the time since the first."""

    def __init__(self, report: Report | None) -> None:
        self._report = report
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def __call__(self, step: str, text: str) -> None:
        if self._report:
            self._report(BootEvent(step, text, self.seconds))


def pinned_disks(
    spec: VmSpec,
    reader: JournalReader,
    point: RecoveryPoint,
    nbd_address: str,
    *,
    vm_name: str | None = None,
    disks: Mapping[str, str] | None = None,
) -> list[NbdDisk]:
    """Return an export, pinned to the point's LSN, for every disk of `spec`, then for what else the point has.

    `disks` maps a target of the hypervisor to the journal's name of the same disk where the two differ;
    `vm_name` is the name that the NBD server knows the VM by (default: the journal's). Every disk is
    resolved, so a point that cannot be used fails here and not in the guest.
    Raises DiskNotFound, UsageError, and the journal's NotRecoverable.
    """
    try:
        address = parse_address(nbd_address)
    except ValueError as error:
        raise UsageError(f"NBD address {nbd_address!r}: {error}") from error
    names = dict(disks or {})
    wanted = {disk.target: names.get(disk.target, disk.target) for disk in spec.disks}
    # A disk that the description does not name, for it was taken away since, is a part of the point all the same.
    for name in sorted({disk.name for disk in disks_at(reader, point)}.difference(wanted.values())):
        if name in wanted:
            raise UsageError(f"disk {name} of the point has no place: {wanted[name]} is booted as {name}")
        wanted[name] = name
    found = []
    for target, name in wanted.items():
        disk = find_disk(reader, point, name)
        view = View(reader, point, disk.name)
        export = f"{vm_name or reader.name}/{disk.name}@{point.pinned}"
        found.append(NbdDisk(target, address.host, address.port, export, view.disk_bytes))
    if not spec.disks:
        raise DiskNotFound(f"the description of {spec.name} names no disk, so there is nothing to boot from")
    return found


def boot(
    hv: Hypervisor,
    spec: VmSpec,
    reader: JournalReader,
    point: RecoveryPoint,
    nbd_address: str,
    name: str,
    progress: Report | None = None,
    *,
    vm_name: str | None = None,
    disks: Mapping[str, str] | None = None,
) -> Vm:
    """Make and start a VM `name` like `spec` from `point`; its disks are overlays over NBD exports.

    `nbd_address` is "host:port" of the NBD server as the hypervisor reaches it. See `pinned_disks` for the
    rest. Returns as soon as it was started: `wait_until_answering` waits for the guest. Raises what
    `pinned_disks` and the adapter raise.
    """
    steps = _Steps(progress)
    exports = pinned_disks(spec, reader, point, nbd_address, vm_name=vm_name, disks=disks)
    steps("resolve", f"{len(exports)} disk(s) of {reader.name} as of {point.description}")
    named = {disk.target for disk in spec.disks}
    bus = spec.disks[0].bus
    further = tuple(DiskSpec(each.target, each.bytes, bus) for each in exports if each.target not in named)
    vm = hv.boot_from_nbd(dataclasses.replace(spec, name=name, disks=spec.disks + further), exports)
    steps("boot", f"{vm.name} was started on {hv.name}")
    return vm


def wait_until_answering(
    hv: Hypervisor, vm_id: str, timeout: float = ANSWER_SECONDS, progress: Report | None = None
) -> float:
    """Wait until the guest's agent runs a command; return the seconds that it took.

    Raises UnsupportedError's NotCapable when the adapter cannot run commands, BootFailed after `timeout` seconds.
    """
    steps = _Steps(progress)
    reason = "no answer yet"
    while True:
        left = timeout - steps.seconds
        if left <= 0:
            raise BootFailed(f"VM {vm_id} on {hv.name} did not answer within {timeout:.0f} s: {reason}")
        answered, reason = _ping(hv, vm_id, left)
        if answered:
            steps("answering", f"the guest answers after {steps.seconds:.1f} s")
            return steps.seconds
        steps("wait", reason)
        time.sleep(min(POLL_SECONDS, max(0.0, timeout - steps.seconds)))


def _ping(hv: Hypervisor, vm_id: str, left: float) -> tuple[bool, str]:
    try:
        result = hv.guest_exec(vm_id, ["/bin/true"], timeout=min(10.0, left))
    except LastwriteError as error:
        if error.exit_code in (2, 3, 7):  # it will never answer: no such VM, or an adapter that cannot ask
            raise
        return False, error.message
    return result.rc == 0, f"/bin/true ended with {result.rc}"


def finish(hv: Hypervisor, vm_id: str, progress: Callable[[int, int], None] | None = None) -> None:
    """Copy what the VM still reads from its exports to its own disks while it runs. `progress`: (done, total) bytes.

    Afterwards it needs the NBD server no more. Raises what the adapter raises; the VM goes on in any case.
    """
    hv.pull_disks(vm_id, progress)
