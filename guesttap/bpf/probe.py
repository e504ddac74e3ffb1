"""What this machine lacks for the bpf tap, each with what to do. Nothing is changed by asking."""

from __future__ import annotations

import os
import platform
import re
import sys
from pathlib import Path
from typing import Callable, List, NamedTuple, Optional

from guesttap.bpf import syscall
from guesttap.bpf.btf import VMLINUX
from guesttap.bpf.errors import BpfCallError, TapUnsupportedError

MINIMUM_PYTHON = (3, 8)
MINIMUM_KERNEL = (5, 10)  # BPF_PROG_TEST_RUN of raw tracepoint programs; the ring buffer is of 5.8
LOCKDOWN = "/sys/kernel/security/lockdown"


class Lack(NamedTuple):
    """One thing that is missing: a short stable name, what it is, and what to do."""

    name: str
    what: str
    remedy: str


def kernel_version(release: str) -> tuple[int, int]:
    """Return major and minor of a release such as `6.1.0-18-amd64`; (0, 0) if it is not a version."""
    match = re.match(r"(\d+)\.(\d+)", release)
    return (int(match.group(1)), int(match.group(2))) if match else (0, 0)


def locked_down(text: str) -> bool:
    """Return whether the lockdown file's text (`none [integrity] confidentiality`) selects the last."""
    return "[confidentiality]" in text


def _python() -> Optional[Lack]:  # noqa: UP045
    if sys.version_info >= MINIMUM_PYTHON:
        return None
    return Lack(
        "python", f"this Python is {platform.python_version()}, too old", "Install Python 3.8 or newer."
    )


def _ctypes() -> Optional[Lack]:  # noqa: UP045
    if syscall.HAVE_CTYPES:
        return None
    return Lack("ctypes", "this Python has no ctypes", "Install python3: python3-minimal lacks it.")


def _architecture() -> Optional[Lack]:  # noqa: UP045
    machine = platform.machine()
    if machine in syscall.SYSCALL_NUMBERS and sys.byteorder == "little":
        return None
    return Lack("architecture", f"the tap does not know {machine}", "Use the qemu or the poll tap.")


def _root() -> Optional[Lack]:  # noqa: UP045
    if os.geteuid() == 0:
        return None
    return Lack("root", f"this process runs as user {os.geteuid()}", "Run the agent as root.")


def _kernel() -> Optional[Lack]:  # noqa: UP045
    release = os.uname().release
    if kernel_version(release) >= MINIMUM_KERNEL:
        return None
    return Lack("kernel", f"Linux {release} is older than 5.10", "Use the qemu or the poll tap.")


def _btf(path: str = VMLINUX) -> Optional[Lack]:  # noqa: UP045
    if os.access(path, os.R_OK):
        return None
    remedy = "Boot a kernel built with CONFIG_DEBUG_INFO_BTF, or use the qemu or the poll tap."
    return Lack("btf", f"the kernel does not describe its types: {path} is missing", remedy)


def _lockdown(path: str = LOCKDOWN) -> Optional[Lack]:  # noqa: UP045
    try:
        text = Path(path).read_text()
    except OSError:
        return None  # built without lockdown, or securityfs is not mounted: the trial load tells
    if not locked_down(text):
        return None
    what = "the kernel is locked down (confidentiality): programs may not read its memory"
    return Lack("lockdown", what, "Boot with lockdown=integrity, or use the qemu or the poll tap.")


def _bpf() -> Optional[Lack]:  # noqa: UP045
    """Create a tiny ring buffer: it shows whether bpf(2) is there, allowed, and knows rings."""
    if not syscall.HAVE_CTYPES or platform.machine() not in syscall.SYSCALL_NUMBERS or os.geteuid() != 0:
        return None  # named already
    try:
        os.close(syscall.create_map(syscall.MAP_RINGBUF, 0, 0, 65536, "lw_probe"))
    except BpfCallError as error:
        remedy = "Allow bpf(2): containers and security modules can forbid it."
        return Lack("bpf", f"no ring buffer: {error.message}", remedy)
    return None


def _bpf_file_system() -> Optional[Lack]:  # noqa: UP045
    known = [line.split()[-1] for line in Path("/proc/filesystems").read_text().splitlines()]
    if "bpf" in known and os.path.isdir("/sys/fs/bpf"):  # noqa: PTH112
        return None
    what = "no bpf file system to pin to: /sys/fs/bpf is missing or the kernel has none"
    return Lack("bpf-file-system", what, "Mount sysfs on /sys, or use the qemu or the poll tap.")


_CHECKS: List[Callable[[], Optional[Lack]]] = [  # noqa: UP006, UP045
    _python, _ctypes, _architecture, _root, _kernel, _btf, _lockdown, _bpf, _bpf_file_system,
]  # fmt: skip


def probe() -> list[Lack]:
    """Return everything that this machine lacks for the tap; empty if it can be attached."""
    return [lack for lack in (check() for check in _CHECKS) if lack is not None]


def require() -> None:
    """Raise TapUnsupportedError naming all that is missing; return if nothing is."""
    lacks = probe()
    if lacks:
        raise TapUnsupportedError(
            "the bpf tap cannot run here: " + "; ".join(lack.what for lack in lacks),
            hint=" ".join(lack.remedy for lack in lacks),
            lacks=[lack.name for lack in lacks],
        )
