"""What a libvirt host offers: acceleration, networks, and the type of domain that fits a description."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import libvirt

from hypervisors.errors import NetworkNotFoundError, NoAccelerationError
from hypervisors.model import VmSpec

DOMAIN_TYPES = {"kvm": "kvm", "tcg": "qemu"}


def domain_type(connection: libvirt.virConnect, host: str, spec: VmSpec) -> str:
    """Return libvirt's type of the domain to make: what `spec.accel` asks for, else the best there is.

    Raises NoAccelerationError when the host does not have it, or cannot run the architecture at all.
    """
    offered = _domain_types(connection, spec.arch)
    for kind in ("kvm", "qemu") if spec.accel is None else (DOMAIN_TYPES[spec.accel],):
        if kind in offered and (kind != "kvm" or kvm_works(connection, spec.arch)):
            return kind
    if spec.accel is None and offered and "kvm" not in offered:
        return offered[0]  # a driver with one type of its own, such as libvirt's test driver
    offers = ", ".join(offered) or "nothing"
    wanted = spec.accel or "any acceleration"
    raise NoAccelerationError(
        f"{host}: {spec.name} asks for {wanted} on {spec.arch}: the host offers {offers}"
    )


def kvm_works(connection: libvirt.virConnect, arch: str) -> bool:
    """Return whether libvirt finds that QEMU can use KVM for this architecture right now."""
    try:
        connection.getDomainCapabilities(None, arch, None, "kvm")
    except libvirt.libvirtError:
        return False
    return True


def require_networks(connection: libvirt.virConnect, host: str, spec: VmSpec) -> None:
    """Raise NetworkNotFoundError unless the host has every libvirt network that the VM needs."""
    wanted = {nic.source or "" for nic in spec.nics if nic.kind == "network"}
    if not wanted:
        return
    there = {network.name() for network in connection.listAllNetworks()}
    for name in sorted(wanted - there):
        has = ", ".join(sorted(there)) or "none"
        raise NetworkNotFoundError(f"{host}: no network {name!r}, which {spec.name} needs (it has: {has})")


def version(connection: libvirt.virConnect) -> str:
    """Return the host's emulator and libvirt with their versions."""
    emulator, library = _dotted(connection.getVersion()), _dotted(connection.getLibVersion())
    return f"{connection.getType()} {emulator}, libvirt {library}"


def machine_arch(connection: libvirt.virConnect) -> str:
    """Return the architecture of the host itself."""
    return ET.fromstring(connection.getCapabilities()).findtext("host/cpu/arch", "x86_64")


def _domain_types(connection: libvirt.virConnect, arch: str) -> list[str]:
    root = ET.fromstring(connection.getCapabilities())
    found = root.iterfind(f"guest/arch[@name='{arch}']/domain")
    return [kind.get("type", "") for kind in found]


def _dotted(number: int) -> str:
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"
