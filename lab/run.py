"""Running programs with a time limit, waiting with a time limit, locks, and progress lines."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from lab.errors import LabBusyError, LabCommandError, LabTimeoutError, LabUnsupportedError

Report = Callable[[str], None]
STARTED = time.monotonic()


def say(text: str) -> None:
    """Print one line of progress, with the seconds since the program began, to standard error."""
    print(f"[{time.monotonic() - STARTED:6.1f} s] {text}", file=sys.stderr, flush=True)


def run(
    argv: Sequence[str | Path],
    *,
    timeout_s: float,
    env: Mapping[str, str] | None = None,
    keep_open: Sequence[int] = (),
) -> str:
    """Run `argv` for at most `timeout_s` seconds and return its standard output.

    Raises LabCommandError with the end of its output when it fails, takes too long or does not exist.
    """
    words = [str(word) for word in argv]
    name = Path(words[0]).name
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env={**os.environ, **(env or {})},
            pass_fds=keep_open,
            check=False,
        )
    except FileNotFoundError:
        raise LabUnsupportedError(f"{name}: no such program on this machine") from None
    except subprocess.TimeoutExpired:
        raise LabCommandError(
            f"{name}: not done after {timeout_s:.0f} s, ended ({' '.join(words)})"
        ) from None
    if done.returncode != 0:
        tail = " | ".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-5:])
        raise LabCommandError(f"{name}: exit status {done.returncode}: {tail}")
    return done.stdout


def isolated(argv: Sequence[str | Path]) -> list[str | Path]:
    """Return `argv` prefixed so that it runs in mount and PID namespaces of its own.

    Whatever it starts or mounts ends with it, and it ends with us, even when we are killed.
    """
    own = [
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ]
    return ["setpriv", "--pdeathsig", "KILL", *own, *argv]


def wait_until(what: str, ready: Callable[[], bool], *, timeout_s: float, every_s: float = 0.05) -> float:
    """Call `ready` until it is true and return the seconds that took; raises LabTimeoutError."""
    began = time.monotonic()
    while not ready():
        if time.monotonic() - began > timeout_s:
            raise LabTimeoutError(f"{what}: not after {timeout_s:.0f} s")
        time.sleep(every_s)
    return time.monotonic() - began


@contextlib.contextmanager
def locked(path: Path, *, timeout_s: float, report: Report = say) -> Iterator[int]:
    """Hold the lock file `path` while the block runs; yields its descriptor.

    A child that is given the descriptor keeps the lock until it ends too. Raises LabBusyError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as lock:
        deadline, told = time.monotonic() + timeout_s, False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise LabBusyError(f"{path}: still locked after {timeout_s:.0f} s") from None
            if not told:
                report(f"waiting for another run that holds {path}")
                told = True
            time.sleep(0.2)
        yield lock.fileno()
