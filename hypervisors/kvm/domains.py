"""Reading domains: looking them up, their state, their portable description."""

from __future__ import annotations

import contextlib
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Iterator

import libvirt

from hypervisors.model import DiskSpec, NicSpec, Power, Vm, VmDisk, VmSpec

AGENT_CHANNEL = "org.qemu.guest_agent.0"
KIB = 1024
UNITS = {"b": 1, "bytes": 1, "KiB": KIB, "MiB": KIB**2, "GiB": KIB**3, "TiB": KIB**4}
NIC_PLACES = ("network", "bridge", "dev", "portgroup")
ACCELERATORS = {"kvm": "kvm", "qemu": "tcg"}

_POWER = {
    libvirt.VIR_DOMAIN_PAUSED: Power.PAUSED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: Power.PAUSED,
    libvirt.VIR_DOMAIN_SHUTOFF: Power.OFF,
    libvirt.VIR_DOMAIN_CRASHED: Power.OFF,
}


def look_up(connection: libvirt.virConnect, ref: str) -> libvirt.virDomain | None:
    """Return the domain with this UUID or, failing that, this name; None when there is none."""
    with contextlib.suppress(ValueError), _none_if_missing():
        return connection.lookupByUUIDString(str(uuid.UUID(ref)))
    with _none_if_missing():
        return connection.lookupByName(ref)
    return None


def view(domain: libvirt.virDomain) -> Vm:
    """Return the domain as a VM."""
    root = ET.fromstring(domain.XMLDesc(0))
    state = power(domain)
    return Vm(
        id=domain.UUIDString(),
        name=domain.name(),
        power=state,
        memory_bytes=_memory(root),
        vcpus=int(root.findtext("vcpu", "1")),
        disks=tuple(
            VmDisk(_target(disk), _capacity(domain, _target(disk)), _source(disk))
            for disk in hard_disks(root)
        ),
        has_agent=_agent_state(root, state),
    )


def views(connection: libvirt.virConnect) -> list[Vm]:
    """Return all domains as VMs, by name; one that vanishes meanwhile is left out."""
    found = []
    for domain in connection.listAllDomains():
        with _none_if_missing():
            found.append(view(domain))
    return sorted(found, key=lambda vm: vm.name)


def power(domain: libvirt.virDomain) -> Power:
    """Return whether the domain runs; one that is shutting down still does."""
    return _POWER.get(domain.state()[0], Power.ON)


def describe(domain: libvirt.virDomain) -> VmSpec:
    """Return the portable part of the domain: nothing that is true on its present host only."""
    root = ET.fromstring(domain.XMLDesc(0))
    # The running CPU is spelled out in features; the configured one says what was meant (host-model).
    configured = ET.fromstring(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    clock = root.find("clock")
    kind = root.find("os/type")
    return VmSpec(
        name=domain.name(),
        memory_bytes=_memory(root),
        vcpus=int(root.findtext("vcpu", "1")),
        firmware=_firmware(root),
        disks=tuple(_disk_spec(domain, disk) for disk in hard_disks(root)),
        nics=tuple(_nic_spec(nic) for nic in root.iterfind("devices/interface")),
        arch=kind.get("arch", "x86_64") if kind is not None else "x86_64",
        accel=ACCELERATORS.get(root.get("type", "")),
        cpu=_cpu(configured),
        clock=clock.get("offset", "utc") if clock is not None else "utc",
    )


def hard_disks(root: ET.Element) -> Iterator[ET.Element]:
    """Yield the elements of a domain's disks, without CD drives, floppies and passed-through LUNs."""
    return (disk for disk in root.iterfind("devices/disk") if disk.get("device", "disk") == "disk")


def has_agent_channel(domain: libvirt.virDomain) -> bool:
    """Return whether the domain has a channel for the guest agent."""
    return _agent_channel(ET.fromstring(domain.XMLDesc(0))) is not None


def nbd_backed(domain: libvirt.virDomain) -> list[str]:
    """Return the targets of the disks that read, anywhere down their chain, from an NBD server."""
    root = ET.fromstring(domain.XMLDesc(0))
    return [
        _target(disk)
        for disk in hard_disks(root)
        if any(backing.find("source[@protocol='nbd']") is not None for backing in disk.iter("backingStore"))
    ]


@contextlib.contextmanager
def _none_if_missing() -> Iterator[None]:
    try:
        yield
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
            raise


def _memory(root: ET.Element) -> int:
    memory = root.find("memory")
    if memory is None or not memory.text:
        return 0
    return int(memory.text) * UNITS.get(memory.get("unit", "KiB"), KIB)


def _firmware(root: ET.Element) -> str:
    system = root.find("os")
    loads_flash = root.find("os/loader[@type='pflash']") is not None
    return "uefi" if loads_flash or (system is not None and system.get("firmware") == "efi") else "bios"


def _cpu(root: ET.Element) -> str | None:
    cpu = root.find("cpu")
    if cpu is None:
        return None
    mode = cpu.get("mode", "custom")
    return cpu.findtext("model") if mode == "custom" else mode


def _target(disk: ET.Element) -> str:
    target = disk.find("target")
    return target.get("dev", "") if target is not None else ""


def _disk_spec(domain: libvirt.virDomain, disk: ET.Element) -> DiskSpec:
    target = disk.find("target")
    bus = target.get("bus", "virtio") if target is not None else "virtio"
    return DiskSpec(_target(disk), _capacity(domain, _target(disk)), bus, disk.findtext("serial"))


def _nic_spec(nic: ET.Element) -> NicSpec:
    source, model, mac, link = (nic.find(tag) for tag in ("source", "model", "mac", "link"))
    place = (
        next((source.get(key) for key in NIC_PLACES if source.get(key)), None) if source is not None else None
    )
    return NicSpec(
        kind=nic.get("type", "network"),
        source=place,
        model=model.get("type", "virtio") if model is not None else "virtio",
        mac=mac.get("address") if mac is not None else None,
        connected=link is None or link.get("state") != "down",
    )


def _source(disk: ET.Element) -> str:
    source = disk.find("source")
    if source is None:
        return ""
    if source.get("protocol"):
        host = source.find("host")
        place = f"{host.get('name', '')}:{host.get('port', '')}" if host is not None else ""
        return f"{source.get('protocol')}://{place}/{source.get('name', '')}"
    if source.get("pool"):
        return f"{source.get('pool')}/{source.get('volume', '')}"
    return source.get("file") or source.get("dev") or source.get("dir") or ""


def _capacity(domain: libvirt.virDomain, target: str) -> int | None:
    try:
        capacity = int(domain.blockInfo(target, 0)[0])
    except libvirt.libvirtError:
        return None  # a network disk of a domain that is off, a missing file
    return capacity if capacity > 0 and capacity % 512 == 0 else None


def _agent_channel(root: ET.Element) -> ET.Element | None:
    return root.find(f"devices/channel/target[@name='{AGENT_CHANNEL}']")


def _agent_state(root: ET.Element, state: Power) -> bool | None:
    channel = _agent_channel(root)
    if channel is None:
        return False
    return channel.get("state") == "connected" if state is Power.ON else None
