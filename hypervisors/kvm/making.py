"""Making domains, empty or over NBD exports, and deleting them: all of it happens, or nothing is left."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence

import libvirt
import structlog

from hypervisors.errors import BadVmSpecError, VmExistsError, VmRunningError
from hypervisors.kvm import domain_xml, domains, host, storage
from hypervisors.kvm.domain_xml import Backing
from hypervisors.model import DiskSpec, NbdDisk, Power, VmSpec, paired

log = structlog.get_logger(__name__)

UNDEFINE_FLAGS = (
    libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
    | libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
)


def create(connection: libvirt.virConnect, hypervisor: str, spec: VmSpec) -> libvirt.virDomain:
    """Define a domain with empty disks."""
    for disk in spec.disks:
        if disk.bytes is None:
            raise BadVmSpecError(f"{spec.name}: disks[{disk.target}].bytes: a new disk needs a size")
    return _make(connection, hypervisor, spec, [(disk, None) for disk in spec.disks], start=False)


def boot(
    connection: libvirt.virConnect, hypervisor: str, spec: VmSpec, disks: Sequence[NbdDisk]
) -> libvirt.virDomain:
    """Define and start a domain over NBD exports, with MAC addresses of its own."""
    pairs = [(dataclasses.replace(disk, bytes=nbd.bytes), nbd) for disk, nbd in paired(spec, disks)]
    nics = tuple(dataclasses.replace(nic, mac=None) for nic in spec.nics)
    return _make(connection, hypervisor, dataclasses.replace(spec, nics=nics), pairs, start=True)


def delete(
    connection: libvirt.virConnect, hypervisor: str, domain: libvirt.virDomain, with_storage: bool
) -> None:
    """Undefine a domain that is off, and delete the volumes that were made for it if `with_storage`."""
    state = domains.power(domain)
    if state is not Power.OFF:
        raise VmRunningError(f"{hypervisor}: {domain.name()} is {state} and cannot be deleted")
    volumes = domain_xml.made_volumes(domain.XMLDesc(0)) if with_storage else []
    domain.undefineFlags(UNDEFINE_FLAGS)
    for volume in volumes:
        storage.delete(connection, volume)


def _make(
    connection: libvirt.virConnect,
    hypervisor: str,
    spec: VmSpec,
    disks: Sequence[tuple[DiskSpec, NbdDisk | None]],
    *,
    start: bool,
) -> libvirt.virDomain:
    if domains.look_up(connection, spec.name) is not None:
        raise VmExistsError(f"{hypervisor}: there is a VM called {spec.name} already")
    host.require_networks(connection, hypervisor, spec)
    kind = host.domain_type(connection, hypervisor, spec)
    with contextlib.ExitStack() as undo:
        backings = _make_volumes(connection, hypervisor, spec, disks, undo)
        domain = connection.defineXML(domain_xml.build(spec, kind, backings))
        _at_failure(undo, "undefine", lambda: domain.undefineFlags(UNDEFINE_FLAGS))
        if start:
            domain.create()
        undo.pop_all()
    return domain


def _make_volumes(
    connection: libvirt.virConnect,
    hypervisor: str,
    spec: VmSpec,
    disks: Sequence[tuple[DiskSpec, NbdDisk | None]],
    undo: contextlib.ExitStack,
) -> list[Backing]:
    if not disks:
        return []
    pool = storage.find_pool(connection, hypervisor)
    backings = []
    for disk, nbd in disks:
        volume = storage.create(pool, spec.name, disk.target, disk.bytes or 0)
        _at_failure(
            undo, f"delete volume {volume.name}", functools.partial(storage.delete, connection, volume)
        )
        backings.append(Backing(disk, volume, nbd))
    return backings


def _at_failure(undo: contextlib.ExitStack, what: str, action: Callable[[], object]) -> None:
    """Have `action` done if the block fails; the failure that began it is what the caller is told."""

    def attempt() -> None:
        try:
            action()
        except libvirt.libvirtError as error:
            log.warning("could not clean up", what=what, reason=error.get_error_message())

    undo.callback(attempt)
