"""Domain XML: what is taken over into a portable description, and what is written for a copy."""

from __future__ import annotations

import struct
import xml.etree.ElementTree as ET
import zlib

import libvirt
import pytest

from hypervisors.errors import BadVmSpecError
from hypervisors.kvm import domain_xml, domains
from hypervisors.kvm.domain_xml import Backing
from hypervisors.kvm.screen import ppm_to_png
from hypervisors.kvm.storage import Volume
from hypervisors.model import MIB, DiskSpec, NbdDisk, NicSpec, VmSpec
from tests.hypervisors.libvirt_doubles import Failing, failure

SOURCE = """
<domain type='kvm' id='7'><name>db 1</name><uuid>8c545f04-0fd5-4667-91ae-531e9caaad5d</uuid>
<memory unit='GiB'>2</memory><vcpu current='1'>4</vcpu>
<os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type><loader type='pflash'>/usr/share/OVMF.fd</loader></os>
<cpu mode='host-model'/><clock offset='localtime'/><seclabel type='dynamic'/>
<devices><emulator>/usr/bin/qemu</emulator>
<disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk>
<disk type='block' device='disk'><source dev='/dev/vg/a'/><target dev='vda' bus='virtio'/><serial>S1</serial>
<alias name='x'/><address type='pci'/></disk>
<disk type='network' device='disk'><source protocol='rbd' name='p/i'><host name='h' port='6789'/></source>
<target dev='sdb' bus='scsi'/></disk>
<interface type='network'><mac address='52:54:00:00:00:01'/><source network='prod' portid='1' bridge='virbr0'/>
<target dev='vnet3'/><model type='e1000e'/><link state='down'/></interface>
<interface type='direct'><source dev='eth0' mode='bridge'/></interface>
<interface type='user'><model type='virtio'/></interface>
</devices></domain>"""


def test_description_holds_what_is_portable_and_nothing_else() -> None:
    double = Failing(failure(libvirt.VIR_ERR_OPERATION_INVALID), name="db 1", XMLDesc=SOURCE)
    spec = domains.describe(double)
    assert (spec.name, spec.memory_bytes, spec.vcpus, spec.firmware) == ("db 1", 2 << 30, 4, "uefi")
    assert (spec.arch, spec.accel, spec.cpu, spec.clock) == ("x86_64", "kvm", "host-model", "localtime")
    assert spec.disks == (DiskSpec("vda", None, "virtio", "S1"), DiskSpec("sdb", None, "scsi"))
    assert spec.nics == (
        NicSpec("network", "prod", "e1000e", "52:54:00:00:00:01", connected=False),
        NicSpec("direct", "eth0"),
        NicSpec("user"),
    )
    said = repr(spec)
    assert not any(
        word in said for word in ("OVMF", "vnet3", "alias", "pci", "8c545f04", "seclabel", "emulator")
    )


def build(spec: VmSpec, nbd: NbdDisk | None = None, kind: str = "qemu") -> ET.Element:
    disks = [
        Backing(disk, Volume("p", f"{disk.target}.qcow2", f"/p/{disk.target}"), nbd) for disk in spec.disks
    ]
    return ET.fromstring(domain_xml.build(spec, kind, disks))


def spec_with(**fields: object) -> VmSpec:
    return VmSpec("web01", 64 * MIB, 1, **{"disks": (DiskSpec("vda", MIB),), **fields})  # type: ignore[arg-type]


def test_odd_characters_in_names_stay_text() -> None:
    nasty = "a'b\"<c>&d"
    root = build(
        VmSpec(nasty, 64 * MIB, 1, disks=(DiskSpec("vda", MIB, serial=nasty),)),
        NbdDisk("vda", "h", 9, f"{nasty}@-1m", MIB),
    )
    assert root.findtext("name") == nasty
    source = root.find("devices/disk/backingStore/source")
    assert source is not None and source.get("name") == f"{nasty}@-1m"
    assert len(root.findall("devices/disk")) == 1


def test_disks_without_an_export_have_no_backing() -> None:
    (backing,) = build(spec_with()).iterfind("devices/disk/backingStore")
    assert list(backing) == [] and backing.attrib == {}


@pytest.mark.parametrize(
    ("kind", "cpu", "mode", "model"),
    [
        ("qemu", None, "maximum", None),
        ("kvm", None, "host-model", None),
        ("qemu", "host-passthrough", "maximum", None),
        ("kvm", "host-passthrough", "host-passthrough", None),
        ("kvm", "Skylake-Server", "custom", "Skylake-Server"),
    ],
)
def test_cpu_fits_the_acceleration(kind: str, cpu: str | None, mode: str, model: str | None) -> None:
    element = build(spec_with(cpu=cpu), kind=kind).find("cpu")
    assert element is not None and (element.get("mode"), element.findtext("model")) == (mode, model)


def test_scsi_disks_get_a_controller_and_ide_becomes_sata() -> None:
    disks = (DiskSpec("sda", MIB, "scsi"), DiskSpec("hda", MIB, "ide"))
    root = build(spec_with(disks=disks))
    assert root.find("devices/controller[@type='scsi'][@model='virtio-scsi']") is not None
    assert [target.get("bus") for target in root.iterfind("devices/disk/target")] == ["scsi", "sata"]


def test_card_that_cannot_be_made_is_refused_with_the_kinds_that_can() -> None:
    with pytest.raises(BadVmSpecError, match="'direct'") as caught:
        build(spec_with(nics=(NicSpec("direct", "eth0"),)))
    assert "bridge" in caught.value.hint


def test_volumes_that_were_made_are_read_back_from_the_metadata() -> None:
    spec = spec_with(disks=(DiskSpec("vda", MIB), DiskSpec("vdb", MIB)))
    text = ET.tostring(build(spec), encoding="unicode")
    assert [(each.pool, each.name) for each in domain_xml.made_volumes(text)] == [
        ("p", "vda.qcow2"),
        ("p", "vdb.qcow2"),
    ]
    assert domain_xml.made_volumes(SOURCE) == []


def test_disk_that_reads_from_nbd_anywhere_in_its_chain_is_found() -> None:
    root = build(spec_with(), NbdDisk("vda", "h", 9, "e", MIB))
    text = ET.tostring(root, encoding="unicode")
    assert domains.nbd_backed(Failing(failure(1), XMLDesc=text)) == ["vda"]
    assert domains.nbd_backed(Failing(failure(1), XMLDesc=SOURCE)) == []


def test_ppm_becomes_a_png_of_the_same_pixels() -> None:
    pixels = bytes(range(2 * 3 * 3))
    png = ppm_to_png(b"P6\n2 3\n255\n" + pixels)
    assert struct.unpack(">II", png[16:24]) == (2, 3)
    data = png[png.index(b"IDAT") + 4 :]
    lines = zlib.decompressobj().decompress(data)
    assert b"".join(lines[at + 1 : at + 7] for at in range(0, len(lines), 7)) == pixels
