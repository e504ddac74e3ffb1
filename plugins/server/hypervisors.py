"""Hypervisors of the catalog, and the VMs on them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from lastwrite.catalog import HypervisorRow
from lastwrite.errors import LastwriteError
from lastwrite.ids import valid_name
from plugins.errors import NoHypervisorError
from plugins.models import (
    DiskInfo,
    FindingInfo,
    HypervisorCheck,
    HypervisorInfo,
    HypervisorList,
    Problem,
    Removed,
    VmInfo,
    VmList,
)
from plugins.server.context import Context

if TYPE_CHECKING:
    from hypervisors.base import Vm


def add(context: Context, name: str, url: str) -> HypervisorInfo:
    """Add a hypervisor that answers. Raises what connecting to it raises, NameTakenError."""
    from hypervisors.registry import kind_of, open_hypervisor

    valid_name(name, "hypervisor")
    kind = kind_of(url)
    with open_hypervisor(name, kind, url) as connected:
        connected.version()
    return _info(context.catalog.add_hypervisor(name, kind, url))


def listed(context: Context) -> HypervisorList:
    """Return all hypervisors of the catalog."""
    return HypervisorList(hypervisors=[_info(row) for row in context.catalog.hypervisors()])


def remove(context: Context, name: str) -> Removed:
    """Forget a hypervisor. Raises UnknownHypervisorError, HypervisorInUseError."""
    context.catalog.remove_hypervisor(name)
    return Removed(name=name)


def check(context: Context, name: str) -> HypervisorCheck:
    """Return what a hypervisor is and can do. Raises what connecting to it raises."""
    import dataclasses

    began = time.monotonic()
    row = context.catalog.hypervisor(name)
    with context.hypervisor(name) as connected:
        findings = [FindingInfo(**dataclasses.asdict(finding)) for finding in connected.check()]
        return HypervisorCheck(
            name=row.name,
            kind=row.kind,
            url=row.url,
            version=connected.version(),
            vms=len(connected.list_vms()),
            seconds=time.monotonic() - began,
            capabilities=dataclasses.asdict(connected.capabilities()),
            findings=findings,
        )


def vms(context: Context, hypervisor: str | None) -> VmList:
    """Return the VMs on one hypervisor, or on all; one of many that fails becomes a problem of the answer."""
    if hypervisor is not None:
        return VmList(vms=_vms_on(context, hypervisor), problems=[])
    rows = context.catalog.hypervisors()
    if not rows:
        raise NoHypervisorError("no hypervisor was added yet")
    found: list[VmInfo] = []
    problems: list[Problem] = []
    for row in rows:
        try:
            found += _vms_on(context, row.name)
        except LastwriteError as error:
            problems.append(Problem(where=row.name, message=error.message, hint=error.hint))
    return VmList(vms=found, problems=problems)


def _vms_on(context: Context, hypervisor: str) -> list[VmInfo]:
    protected = {vm.ref for vm in context.catalog.vms() if vm.protected and vm.hypervisor == hypervisor}
    with context.hypervisor(hypervisor) as connected:
        return [_vm(vm, hypervisor, vm.id in protected) for vm in connected.list_vms()]


def _vm(vm: Vm, hypervisor: str, protected: bool) -> VmInfo:
    return VmInfo(
        name=vm.name,
        hypervisor=hypervisor,
        id=vm.id,
        power=vm.power.value,
        memory_bytes=vm.memory_bytes,
        vcpus=vm.vcpus,
        disks=[DiskInfo(name=disk.target, bytes=disk.bytes) for disk in vm.disks],
        has_agent=vm.has_agent,
        protected=protected,
    )


def _info(row: HypervisorRow) -> HypervisorInfo:
    created = row.created.isoformat(timespec="seconds").replace("+00:00", "Z")
    return HypervisorInfo(name=row.name, kind=row.kind, url=row.url, created=created)
