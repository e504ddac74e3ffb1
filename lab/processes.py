"""Finding and ending the processes of one lab host, and no others.

A host's processes are those that see the host's own directory as /run/libvirt: the mount namespace says
whose a process is. No name, command line or stored PID is trusted, so a recycled PID is never ended.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterable
from pathlib import Path


def lives_in(pid: int, run_dir: Path) -> bool:
    """Tell whether process `pid` is alive and sees `run_dir` as its /run/libvirt."""
    try:
        return Path(f"/proc/{pid}/root/run/libvirt").samefile(run_dir) and not _is_zombie(pid)
    except OSError:
        return False


def _is_zombie(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat").read_text()
    return stat.rpartition(")")[2].split()[0] in "ZX"


def inhabitants(run_dir: Path) -> list[int]:
    """Return the PIDs of every process that sees `run_dir` as its /run/libvirt, lowest first."""
    return sorted(
        int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and lives_in(int(p.name), run_dir)
    )


def end(pids: Iterable[int], run_dir: Path, *, how: signal.Signals, timeout_s: float) -> list[int]:
    """Send `how` to those of `pids` that live in `run_dir`, wait, and return those still there.

    A pidfd is taken before the check, so the signal reaches the very process that was checked.
    """
    with contextlib.ExitStack() as opened:
        waiting: dict[int, int] = {}
        for pid in pids:
            try:
                handle = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            opened.callback(os.close, handle)
            if lives_in(pid, run_dir):
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handle, how)
                waiting[handle] = pid
        return _await_ends(waiting, timeout_s)


def _await_ends(waiting: dict[int, int], timeout_s: float) -> list[int]:
    for handle in list(waiting):
        if select.select([handle], [], [], timeout_s)[0]:
            del waiting[handle]
    return sorted(waiting.values())
