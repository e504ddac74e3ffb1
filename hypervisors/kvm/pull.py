"""Copying what a running domain's disks still read from an NBD server to the host (libvirt's block pull)."""

from __future__ import annotations

import contextlib
import time

import libvirt

from hypervisors.errors import DiskPullError, VmNotRunningError
from hypervisors.kvm import domains
from hypervisors.model import Power, Progress

PAUSE_S = 0.2
STALL_S = 120.0
"""Seconds without one more byte after which a copy is given up."""
SETTLE_S = 30.0
"""Seconds that libvirt may take to write down that a copy ended."""


def pull(domain: libvirt.virDomain, where: str, progress: Progress | None) -> None:
    """Copy disk after disk until none depends on an NBD server; raises DiskPullError.

    Progress counts the sizes of all disks that had to be copied.
    """
    targets = domains.nbd_backed(domain)
    if not targets:
        return
    if domains.power(domain) is Power.OFF:
        raise VmNotRunningError(f"{where} is off: its disks are copied while it runs")
    sizes = {target: int(domain.blockInfo(target, 0)[0]) for target in targets}
    total, before = sum(sizes.values()), 0
    for target in targets:
        _pull_disk(domain, target, f"{where}: {target}", before, total, progress)
        before += sizes[target]
        if progress:
            progress(before, total)


def _pull_disk(
    domain: libvirt.virDomain, target: str, where: str, before: int, total: int, progress: Progress | None
) -> None:
    if not domain.blockJobInfo(target, 0):  # a copy that an earlier caller began goes on
        domain.blockPull(target, 0, 0)
    try:
        _await_end(domain, target, where, before, total, progress)
    except BaseException:
        with contextlib.suppress(libvirt.libvirtError):
            domain.blockJobAbort(target, libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_ASYNC)
        raise
    _await_independence(domain, target, where)


def _await_end(
    domain: libvirt.virDomain, target: str, where: str, before: int, total: int, progress: Progress | None
) -> None:
    last, moved = -1, time.monotonic()
    while job := domain.blockJobInfo(target, 0):
        if job["cur"] != last:
            last, moved = job["cur"], time.monotonic()
            if progress:
                progress(before + int(last), total)
        elif time.monotonic() - moved > STALL_S:
            raise DiskPullError(
                f"{where}: nothing was copied for {STALL_S:.0f} s (at {last} of {job['end']} bytes)"
            )
        time.sleep(PAUSE_S)


def _await_independence(domain: libvirt.virDomain, target: str, where: str) -> None:
    """Return when the domain's own description says that the export is gone: a failed job ends silently."""
    deadline = time.monotonic() + SETTLE_S
    while target in domains.nbd_backed(domain):
        if time.monotonic() > deadline or domains.power(domain) is Power.OFF:
            raise DiskPullError(
                f"{where}: the copy ended early, and the disk still reads from its NBD server"
            )
        time.sleep(PAUSE_S)
