"""One process of the server: started, its log kept within bounds, started again when it ends.

Its stderr becomes `logs/NAME.log` in the state directory. It ends when the supervisor does, however that
ends: the kernel sends it SIGTERM then.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import ctypes
import json
import logging.handlers
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

LOG_BYTES = 5 << 20
LOG_FILES = 2
LAST_LINES = 10
LINE_BYTES = 1 << 16
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
STEADY_S = 60.0  # a process that ran so long begins again with the first pause
STOP_S = 20.0

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class Child:
    """A process `name` that runs the Python module `module` with `arguments`, as long as it is wanted.

    `say` gets a sentence about each end and each new start. `keep` are file descriptors that it inherits.
    """

    def __init__(
        self, name: str, module: str, arguments: Sequence[str], *, logs: Path, keep: Sequence[int],
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.name = name
        self.log_file = logs / f"{name}.log"
        self.starts = 0
        self.ended = asyncio.Event()
        self.last_lines: collections.deque[str] = collections.deque(maxlen=LAST_LINES)
        self._command = [sys.executable, "-m", module, *arguments]
        self._keep = tuple(keep)
        self._say = say
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False
        self._log = logging.Logger(name)
        self._log.addHandler(
            logging.handlers.RotatingFileHandler(self.log_file, maxBytes=LOG_BYTES, backupCount=LOG_FILES)
        )

    @property
    def pid(self) -> int | None:
        """Id of the process while it runs."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if self._process and running else None

    async def run(self) -> None:
        """Keep the process running until `stop`, with longer and longer pauses when it keeps ending."""
        pause = FIRST_PAUSE_S
        while not self._stopping:
            began = time.monotonic()
            status = await self._once()
            if self._stopping:
                return
            pause = FIRST_PAUSE_S if time.monotonic() - began > STEADY_S else pause
            self._say(f"{self.name} {_ended(status)}{self._why()}: it starts again in {pause:g} s")
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_S)

    async def _once(self) -> int:
        """Start the process, keep its log, and return its status when it has ended."""
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT, pass_fds=self._keep, start_new_session=True,
            preexec_fn=_end_with(os.getpid()), limit=LINE_BYTES,
        )  # fmt: skip
        self.starts += 1
        if self._stopping:  # it was told to stop while it was being started
            self._signal(signal.SIGTERM)
        assert self._process.stdout is not None
        await self._keep_log(self._process.stdout)
        status = await self._process.wait()
        self.ended.set()
        return status

    async def _keep_log(self, output: asyncio.StreamReader) -> None:
        while True:
            try:
                line = await output.readline()
            except ValueError:  # a line that is longer than the buffer: its rest comes as the next
                continue
            if not line:
                return
            text = line.decode(errors="replace").rstrip()
            self.last_lines.append(text)
            self._log.info(text)

    def _why(self) -> str:
        return f" ({reason})" if (reason := said(self.last_lines)) else ""

    async def stop(self) -> None:
        """Tell the process to end; after a while, end it."""
        self._stopping = True
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_S
        while self.pid is not None and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        if self.pid is not None:
            self._say(f"{self.name} did not end within {STOP_S:g} s and was killed")
            self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)


def said(lines: Iterable[str]) -> str:
    """Return what the last lines of a log say to people: the newest error in them, else the newest line."""
    meanings = [_meaning(line) for line in lines if line.strip()]
    errors = [text for is_error, text in meanings if is_error]
    return (errors or [text for _, text in meanings] or [""])[-1][:400]


def _meaning(line: str) -> tuple[bool, str]:
    """Return whether a line tells an error, and its words."""
    try:
        entry = json.loads(line)
    except ValueError:
        entry = None
    if not isinstance(entry, dict):
        return line.startswith("error: "), line.strip().removeprefix("error: ")
    words = [str(entry[key]) for key in ("event", "reason") if entry.get(key)]
    return entry.get("level") in ("error", "critical"), ": ".join(words)


def _ended(status: int) -> str:
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with status {status}"


def _end_with(parent: int) -> Callable[[], None]:
    def before_exec() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it has died already
            os._exit(1)

    return before_exec
