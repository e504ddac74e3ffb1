"""Keeping the agent running on a machine that is short of memory or processor time, and systemd's watchdog."""

from __future__ import annotations

import ctypes
import os
import socket
import time
from pathlib import Path

_LOCK_CURRENT, _LOCK_FUTURE, _LOCK_ON_FAULT = 1, 2, 4
NICE = -10
OOM_SCORE = "-900"


def harden() -> list[str]:
    """Lock memory, raise priority, be the last to be killed. Returns in words what could not be done."""
    problems = []
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(_LOCK_CURRENT | _LOCK_FUTURE | _LOCK_ON_FAULT) != 0:
        problems.append(f"memory is not locked: {os.strerror(ctypes.get_errno())}")
    try:
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
    except OSError as error:
        problems.append(f"priority is not raised: {error}")
    try:
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE)
    except OSError as error:
        problems.append(f"the kernel may kill the agent when memory is short: {error}")
    return problems


class Watchdog:
    """Tells systemd that the loop turns, at half the interval that the unit asks for; silent elsewhere."""

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        self._interval = int(os.environ.get("WATCHDOG_USEC", "0")) / 2e6
        self._next = 0.0

    def turn(self) -> None:
        """Say it, if it is time."""
        now = time.monotonic()
        if not self._address or not self._interval or now < self._next:
            return
        self._next = now + self._interval
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.setblocking(False)
                sock.sendto(b"WATCHDOG=1", address)
        except OSError:
            pass  # systemd then restarts the agent, which is what the watchdog is for
