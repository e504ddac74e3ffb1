"""Volumes for the disks that Lastwrite makes on a libvirt host, through libvirt's own storage API."""

from __future__ import annotations

import re
import secrets
import xml.etree.ElementTree as ET
from dataclasses import dataclass

import libvirt

from hypervisors.errors import NoStoragePoolError

PREFERRED_POOLS = ("lastwrite", "default")
FILE_POOLS = ("dir", "fs", "netfs")
"""The types of pool whose volumes are files, and can therefore be qcow2."""


@dataclass(frozen=True)
class Volume:
    """A volume that we made: where it is in the storage API, and its path on the host."""

    pool: str
    name: str
    path: str


def find_pool(connection: libvirt.virConnect, host: str) -> libvirt.virStoragePool:
    """Return the pool for new disks: `lastwrite`, else `default`, else the first active one that holds files.

    Raises NoStoragePoolError naming `host` and what it has.
    """
    pools = {pool.name(): pool for pool in connection.listAllStoragePools()}
    usable = [name for name, pool in sorted(pools.items()) if pool.isActive() and _type(pool) in FILE_POOLS]
    for name in (*PREFERRED_POOLS, *usable):
        if name in usable:
            return pools[name]
    has = f"only {', '.join(sorted(pools))} (inactive, or not of files)" if pools else "none at all"
    raise NoStoragePoolError(f"{host}: no storage pool for new disks: it has {has}")


def create(pool: libvirt.virStoragePool, vm_name: str, target: str, capacity: int) -> Volume:
    """Make an empty qcow2 volume of `capacity` bytes, named after its VM, never over an existing one."""
    stem = re.sub(r"[^A-Za-z0-9._-]", "_", vm_name)[:80]
    root = ET.Element("volume")
    ET.SubElement(root, "name").text = f"{stem}-{target}-{secrets.token_hex(4)}.qcow2"
    ET.SubElement(root, "capacity", unit="bytes").text = str(capacity)
    ET.SubElement(root, "allocation", unit="bytes").text = "0"
    target_element = ET.SubElement(root, "target")
    ET.SubElement(target_element, "format", type="qcow2")
    # Version 3 of the format: in version 2 a discarded cluster would show the backing file again.
    ET.SubElement(target_element, "compat").text = "1.1"
    made = pool.createXML(ET.tostring(root, encoding="unicode"), 0)
    return Volume(pool.name(), made.name(), made.path())


def delete(connection: libvirt.virConnect, volume: Volume) -> None:
    """Delete a volume; nothing happens when it, or its pool, is gone already."""
    try:
        pool = connection.storagePoolLookupByName(volume.pool)
        pool.storageVolLookupByName(volume.name).delete(0)
    except libvirt.libvirtError as error:
        gone = (libvirt.VIR_ERR_NO_STORAGE_POOL, libvirt.VIR_ERR_NO_STORAGE_VOL)
        if error.get_error_code() not in gone:
            raise


def _type(pool: libvirt.virStoragePool) -> str:
    return ET.fromstring(pool.XMLDesc(0)).get("type", "")
