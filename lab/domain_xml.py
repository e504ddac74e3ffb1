"""The libvirt description of a lab guest."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

from lab.accel import Accelerator

DEVICE_LETTERS = "abcdefghijklmnop"


@dataclass(frozen=True)
class Disk:
    """One disk file of a guest; `format` is QEMU's name of it."""

    path: Path
    format: str = "raw"


def describe(
    name: str, *, disks: list[Disk], accelerator: Accelerator, memory_mib: int, vcpus: int, serial_log: Path
) -> str:
    """Return the domain XML of a q35 guest whose first disk is vda, the second vdb, and so on."""
    domain = ET.Element("domain", type=accelerator.kind)
    ET.SubElement(domain, "name").text = name
    ET.SubElement(domain, "memory", unit="MiB").text = str(memory_mib)
    ET.SubElement(domain, "vcpu").text = str(vcpus)
    _add(domain, "os/type", {"arch": "x86_64", "machine": "q35"}).text = "hvm"
    _add(domain, "features/acpi")
    _add(domain, "clock", {"offset": "utc"})
    domain.append(_cpu(accelerator))
    devices = ET.SubElement(domain, "devices")
    for letter, disk in zip(DEVICE_LETTERS, disks, strict=False):
        devices.append(_disk(disk, f"vd{letter}"))
    interface = _add(devices, "interface", {"type": "user"})
    _add(interface, "model", {"type": "virtio"})
    serial = _add(devices, "serial", {"type": "file"})
    _add(serial, "source", {"path": str(serial_log), "append": "off"})
    channel = _add(devices, "channel", {"type": "unix"})
    _add(channel, "target", {"type": "virtio", "name": "org.qemu.guest_agent.0"})
    _add(devices, "video/model", {"type": "vga"})  # screenshots need a screen
    _add(_add(devices, "rng", {"model": "virtio"}), "backend", {"model": "random"}).text = "/dev/urandom"
    _add(devices, "memballoon", {"model": "none"})
    return ET.tostring(domain, encoding="unicode")


def _disk(disk: Disk, target: str) -> ET.Element:
    element = ET.Element("disk", type="file", device="disk")
    _add(element, "driver", {"name": "qemu", "type": disk.format, "discard": "unmap"})
    _add(element, "source", {"file": str(disk.path)})
    _add(element, "target", {"dev": target, "bus": "virtio"})
    return element


def _cpu(accelerator: Accelerator) -> ET.Element:
    if accelerator.is_hardware:
        return ET.Element("cpu", mode=accelerator.cpu)
    if accelerator.cpu == "max":
        return ET.Element("cpu", mode="maximum")
    cpu = ET.Element("cpu", mode="custom", match="exact", check="none")
    _add(cpu, "model", {"fallback": "forbid"}).text = accelerator.cpu
    return cpu


def _add(parent: ET.Element, path: str, attributes: dict[str, str] | None = None) -> ET.Element:
    for tag in path.split("/"):
        parent = ET.SubElement(parent, tag)
    parent.attrib.update(attributes or {})
    return parent
