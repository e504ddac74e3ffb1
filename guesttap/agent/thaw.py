"""The watchdog of a freeze: a process of its own that thaws whatever happens to the one that froze.

It is told by single bytes through a pipe: `f` file systems are about to be frozen, `t` they are thawed, `d`
all is done. When the pipe ends before `d`, or `t` does not come in time after `f`, it thaws; as long as the
other lives it goes on thawing, for that one might be about to freeze another file system.
"""

from __future__ import annotations

import os
import select
import signal
import time
from typing import Sequence

from guesttap.agent.hooks import Hooks
from guesttap.agent.mounts import OpenMount

LIMIT_SECONDS = 10.0
FREEZING, THAWED, DONE = b"f", b"t", b"d"


def start(mounts: Sequence[OpenMount], hooks: Hooks, seconds: float = LIMIT_SECONDS) -> int:
    """Fork the watchdog; return the descriptor to tell it through."""
    reading, writing = os.pipe()
    if os.fork():
        os.close(reading)
        return writing
    try:
        os.close(writing)
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_IGN)
        _watch(reading, mounts, hooks, seconds)
    finally:
        os._exit(0)


def _watch(reading: int, mounts: Sequence[OpenMount], hooks: Hooks, seconds: float) -> None:
    deadline = None
    while True:
        wait = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not select.select([reading], [], [], wait)[0]:
            _thaw_all(mounts)
            deadline = time.monotonic() + 0.2
            continue
        word = os.read(reading, 1)
        if word == FREEZING:
            deadline = time.monotonic() + seconds
        elif word == THAWED:
            deadline = None
        elif word == DONE:
            return
        elif not word:
            _thaw_all(mounts)
            hooks.abandon()
            return


def _thaw_all(mounts: Sequence[OpenMount]) -> None:
    for mount in reversed(mounts):
        while mount.thaw():
            pass
