"""Writing the description of a domain that libvirt makes from our portable one."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass

from hypervisors.errors import BadVmSpecError
from hypervisors.kvm.domains import AGENT_CHANNEL
from hypervisors.kvm.storage import Volume
from hypervisors.model import DiskSpec, NbdDisk, NicSpec, VmSpec

NAMESPACE = "urn:lastwrite:domain:1"
"""Of the metadata in which a domain carries the list of the volumes that we made for it."""

MACHINES = {"x86_64": "q35", "aarch64": "virt"}
BUSES = {"ide": "sata"}
"""q35 has no IDE: a guest's AHCI driver finds the same disk."""

CPU_MODES = ("host-model", "host-passthrough", "maximum")
NIC_SOURCES = {"user": None, "network": "network", "bridge": "bridge"}
LOCAL_ONLY = "127.0.0.1"

ET.register_namespace("lastwrite", NAMESPACE)


@dataclass(frozen=True)
class Backing:
    """One disk of the new domain: its volume, and the export that lies under it, if any."""

    disk: DiskSpec
    volume: Volume
    nbd: NbdDisk | None = None


def build(spec: VmSpec, domain_type: str, disks: Sequence[Backing]) -> str:
    """Return the XML of a new domain; `domain_type` is libvirt's ("kvm", "qemu").

    libvirt gives it a UUID, and MAC addresses to the cards that have none. Raises BadVmSpecError for a kind
    of network card that cannot be made.
    """
    root = ET.Element("domain", type=domain_type)
    _text(root, "name", spec.name)
    _metadata(root, [disk.volume for disk in disks])
    _text(root, "memory", str(spec.memory_bytes // 1024), unit="KiB")
    _text(root, "vcpu", str(spec.vcpus))
    _system(root, spec)
    features = ET.SubElement(root, "features")
    ET.SubElement(features, "acpi")
    _cpu(root, spec, domain_type)
    ET.SubElement(root, "clock", offset=spec.clock)
    _devices(root, spec, disks)
    return ET.tostring(root, encoding="unicode")


def made_volumes(xml: str) -> list[Volume]:
    """Return the volumes that a domain's metadata says we made for it."""
    found = ET.fromstring(xml).iterfind(f"metadata/{{{NAMESPACE}}}made/{{{NAMESPACE}}}volume")
    return [Volume(at.get("pool", ""), at.get("name", ""), "") for at in found]


def _metadata(root: ET.Element, volumes: Sequence[Volume]) -> None:
    made = ET.SubElement(ET.SubElement(root, "metadata"), f"{{{NAMESPACE}}}made")
    for volume in volumes:
        ET.SubElement(made, f"{{{NAMESPACE}}}volume", pool=volume.pool, name=volume.name)


def _system(root: ET.Element, spec: VmSpec) -> None:
    system = ET.SubElement(root, "os")
    if spec.firmware == "uefi":
        system.set("firmware", "efi")  # libvirt finds the loader of this host, and makes fresh variables
    kind = _text(system, "type", "hvm", arch=spec.arch)
    if spec.arch in MACHINES:
        kind.set("machine", MACHINES[spec.arch])
    ET.SubElement(system, "boot", dev="hd")


def _cpu(root: ET.Element, spec: VmSpec, domain_type: str) -> None:
    if domain_type not in ("kvm", "qemu"):
        return
    wanted = spec.cpu or ("host-model" if domain_type == "kvm" else "maximum")
    if domain_type == "qemu" and wanted in CPU_MODES:
        wanted = "maximum"  # emulation has no host's CPU to show
    if wanted in CPU_MODES:
        ET.SubElement(root, "cpu", mode=wanted)
    else:
        cpu = ET.SubElement(root, "cpu", mode="custom", match="exact", check="none")
        _text(cpu, "model", wanted, fallback="allow")


def _devices(root: ET.Element, spec: VmSpec, disks: Sequence[Backing]) -> None:
    devices = ET.SubElement(root, "devices")
    for disk in disks:
        _disk(devices, disk)
    if any(disk.disk.bus == "scsi" for disk in disks):
        ET.SubElement(devices, "controller", type="scsi", model="virtio-scsi")
    for nic in spec.nics:
        _nic(devices, spec, nic)
    _serial(devices, spec)
    channel = ET.SubElement(devices, "channel", type="unix")
    ET.SubElement(channel, "target", type="virtio", name=AGENT_CHANNEL)
    ET.SubElement(devices, "graphics", type="vnc", listen=LOCAL_ONLY, autoport="yes")
    ET.SubElement(ET.SubElement(devices, "video"), "model", type="vga")
    rng = ET.SubElement(devices, "rng", model="virtio")
    _text(rng, "backend", "/dev/urandom", model="random")  # a copy that waits for entropy boots late


def _disk(devices: ET.Element, backing: Backing) -> None:
    disk = ET.SubElement(devices, "disk", type="file", device="disk")
    ET.SubElement(disk, "driver", name="qemu", type="qcow2", discard="unmap")
    ET.SubElement(disk, "source", file=backing.volume.path)
    under = ET.SubElement(disk, "backingStore")  # empty: libvirt is not to guess from the file
    if backing.nbd:
        _export(under, backing.nbd)
    bus = BUSES.get(backing.disk.bus, backing.disk.bus)
    ET.SubElement(disk, "target", dev=backing.disk.target, bus=bus)
    if backing.disk.serial:
        _text(disk, "serial", backing.disk.serial)


def _export(backing_store: ET.Element, nbd: NbdDisk) -> None:
    backing_store.set("type", "network")
    ET.SubElement(backing_store, "format", type="raw")
    source = ET.SubElement(backing_store, "source", protocol="nbd", name=nbd.export)
    ET.SubElement(source, "host", name=nbd.host, port=str(nbd.port))
    ET.SubElement(backing_store, "backingStore")


def _nic(devices: ET.Element, spec: VmSpec, nic: NicSpec) -> None:
    if nic.kind not in NIC_SOURCES:
        kinds = ", ".join(NIC_SOURCES)
        raise BadVmSpecError(
            f"{spec.name}: nics: a card of kind {nic.kind!r} (at {nic.source}) cannot be made here",
            hint=f"Map it to one of the kinds {kinds}, or leave the card out.",
        )
    element = ET.SubElement(devices, "interface", type=nic.kind)
    if nic.mac:
        ET.SubElement(element, "mac", address=nic.mac)
    attribute = NIC_SOURCES[nic.kind]
    if attribute:
        ET.SubElement(element, "source", {attribute: nic.source or ""})
    ET.SubElement(element, "model", type=nic.model)
    if not nic.connected:
        ET.SubElement(element, "link", state="down")


def _serial(devices: ET.Element, spec: VmSpec) -> None:
    if not spec.serial_log:
        ET.SubElement(devices, "serial", type="pty")
        return
    serial = ET.SubElement(devices, "serial", type="file")
    ET.SubElement(serial, "source", path=spec.serial_log, append="off")


def _text(parent: ET.Element, tag: str, text: str, **attributes: str) -> ET.Element:
    element = ET.SubElement(parent, tag, attributes)
    element.text = text
    return element
