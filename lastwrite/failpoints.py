"""Fail points: named places in the code where a test can end the process, make the system fail, or wait.

    from lastwrite.failpoints import reach
    reach("sync-done")                       # costs one comparison while nothing is armed

What happens is said by the environment variable LASTWRITE_FAIL when the process starts, or by arm():

    LASTWRITE_FAIL="name[:count[+]][=action]"        several: separated by commas

`count`: at which time that the place is reached (1), with `+`: at that one and at every later one. `action`:

    kill              SIGKILL to the own process: nothing is flushed, no handler runs (the default)
    error:ENOSPC      OSError with that errno (any name of the module errno)
    pause:SECONDS     wait there

Each that comes to pass is said on stderr first. docs/fault-injection.md lists the names. Threads may reach a point at
the same time: each time is counted once.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from lastwrite.errors import UsageError

VARIABLE = "LASTWRITE_FAIL"
_NAME = r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*"
_SPEC = re.compile(rf"({_NAME})(?::([1-9][0-9]{{0,8}})(\+)?)?(?:=(kill|error:[A-Z0-9]+|pause:[0-9.]+))?")


class BadFailPoint(UsageError):
    """What was said about fail points cannot be understood."""

    code = "bad-fail-point"
    hint = "Write NAME[:COUNT[+]][=kill|error:ENOSPC|pause:SECONDS], as docs/fault-injection.md says."


@dataclass
class _Armed:
    """What is to happen at one point. `seconds`: of a pause."""

    action: str
    number: int
    seconds: float
    count: int
    again: bool
    reached: int = 0


_armed: dict[str, _Armed] = {}
_lock = threading.Lock()


def reach(name: str) -> None:
    """Say that the place `name` has been reached. Raises OSError when a test wants that."""
    if _armed:
        _reach(name)


def _reach(name: str) -> None:
    with _lock:
        point = _armed.get(name)
        if point is None:
            return
        point.reached += 1
        due = point.reached == point.count or (point.again and point.reached > point.count)
    if due:
        _fail(name, point)


def _fail(name: str, point: _Armed) -> None:
    os.write(2, f"fail point {name} reached {point.reached} times: {point.action}\n".encode())
    if point.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
        signal.pause()  # the signal is on its way: no further instruction of this thread may run
    if point.action == "pause":
        time.sleep(point.seconds)
        return
    raise OSError(point.number, f"{os.strerror(point.number)} (fail point {name})")


def arm(text: str) -> None:
    """Arm the points that `text` names, in the form of LASTWRITE_FAIL, and no others. Raises BadFailPoint."""
    points = dict(_parse(part.strip()) for part in text.split(",") if part.strip())
    with _lock:
        _armed.clear()
        _armed.update(points)


def disarm() -> None:
    """Let nothing fail any more."""
    arm("")


@contextmanager
def armed(text: str) -> Iterator[None]:
    """Arm points for the length of a `with` block. Raises BadFailPoint."""
    arm(text)
    try:
        yield
    finally:
        disarm()


def is_armed(name: str) -> bool:
    """Return whether a point is armed: for places that exist only while it is, such as half of a write."""
    return name in _armed


def reached(name: str) -> int:
    """Return how often an armed point has been reached; 0 when it is not armed."""
    with _lock:
        point = _armed.get(name)
        return point.reached if point else 0


def _parse(part: str) -> tuple[str, _Armed]:
    match = _SPEC.fullmatch(part)
    if match is None:
        raise BadFailPoint(f"{VARIABLE}: {part!r} is not a fail point")
    name, count, again, what = match.groups()
    action, _, value = (what or "kill").partition(":")
    point = _Armed(action, 0, 0.0, int(count or 1), bool(again))
    if action == "error":
        point.number = getattr(errno, value, None) or _refuse(part, f"there is no errno {value}")
    if action == "pause":
        try:
            point.seconds = float(value)
        except ValueError:
            _refuse(part, f"{value} is no number of seconds")
    return name, point


def _refuse(part: str, why: str) -> int:
    raise BadFailPoint(f"{VARIABLE}: {part!r}: {why}")


arm(os.environ.get(VARIABLE, ""))
