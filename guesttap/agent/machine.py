"""Who this machine is: its hardware's identity, its boot, its disks."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING, Iterable

from guesttap.agent.errors import AgentStateError

if TYPE_CHECKING:
    from guesttap.bpf.disks import Disk
    from guesttap.protocol import Message

_PRODUCT = Path("/sys/class/dmi/id/product_uuid")
_MACHINE_ID = Path("/etc/machine-id")


def instance() -> str:
    """Return the machine's identity: the DMI product UUID in lower case.

    Where the firmware has none: `machine-` and the systemd machine id, which a copy of the disk has too; such
    a copy is told apart by its fence alone. Raises AgentStateError when there is neither.
    """
    for path, prefix in ((_PRODUCT, ""), (_MACHINE_ID, "machine-")):
        try:
            found = path.read_text("ascii").strip().lower()
        except (OSError, UnicodeDecodeError):
            continue
        if found:
            return prefix + found
    raise AgentStateError(f"this machine shows no identity ({_PRODUCT}, {_MACHINE_ID})")


def boot() -> str:
    """Return the kernel's id of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()


def kernel() -> str:
    """Return the kernel's name and release."""
    return f"{platform.system()} {platform.release()}"


def describe_disks(disks: Iterable[Disk]) -> list[Message]:
    """Return the disks as hello and the epoch's note name them."""
    return [
        {"disk": disk.index, "name": disk.name, "bytes": disk.bytes, "serial": _serial(disk.name)}
        for disk in disks
    ]


def _serial(name: str) -> str | None:
    for place in ("serial", "device/serial", "wwid", "device/wwid"):
        try:
            found = Path("/sys/block", name, place).read_text("utf-8", "replace").strip()
        except OSError:
            continue
        if found:
            return found[:200]
    return None
