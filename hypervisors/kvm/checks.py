"""What `lastwrite hypervisor check` finds on a libvirt host, besides its connection and version."""

from __future__ import annotations

import libvirt

from hypervisors.errors import NoAccelerationError
from hypervisors.kvm import domains, host, storage
from hypervisors.kvm.agent import GuestAgent
from hypervisors.model import Finding, Power
from lastwrite.errors import LastwriteError
from lastwrite.text import size

AGENT_TIMEOUT_S = 3


def findings(connection: libvirt.virConnect, hypervisor: str) -> list[Finding]:
    """Return the findings on storage, acceleration and the guest agent of each running VM."""
    found = [_storage(connection, hypervisor)]
    if connection.getType() != "QEMU":
        return found
    running = [each for each in connection.listAllDomains() if domains.power(each) is Power.ON]
    return [*found, _acceleration(connection), *(_agent(each, hypervisor) for each in running)]


def _storage(connection: libvirt.virConnect, hypervisor: str) -> Finding:
    try:
        pool = storage.find_pool(connection, hypervisor)
    except LastwriteError as error:
        return Finding("storage", False, error.message, error.hint)
    available = int(pool.info()[3])
    return Finding("storage", True, f"pool {pool.name()}, {size(available)} free")


def _acceleration(connection: libvirt.virConnect) -> Finding:
    arch = host.machine_arch(connection)
    if host.kvm_works(connection, arch):
        return Finding("acceleration", True, f"kvm ({arch})")
    detail = f"emulation only ({arch}): VMs run many times slower"
    return Finding("acceleration", False, detail, NoAccelerationError.hint)


def _agent(domain: libvirt.virDomain, hypervisor: str) -> Finding:
    capability = f"guest-agent {domain.name()}"
    agent = GuestAgent(domain, f"{hypervisor}: {domain.name()}")
    try:
        agent.ping(AGENT_TIMEOUT_S)
    except LastwriteError as error:
        return Finding(capability, False, error.message, error.hint)
    return Finding(capability, True, "answers")
