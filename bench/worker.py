"""A process of its own that does what it is told over a pipe: what is measured must not share an interpreter."""

from __future__ import annotations

import multiprocessing
import resource
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bench.errors import BenchFailed

ANSWER_SECONDS = 120.0


class Worker:
    """A new interpreter that makes `kind(*arguments)` and calls its methods by name.

    The first `answer` comes when it is made.
    """

    def __init__(self, kind: Callable[..., Any], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, kind, arguments), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, method: str, *arguments: Any) -> None:
        """Have a method called; `answer` waits for its result."""
        try:
            self._pipe.send((method, arguments))
        except OSError as error:
            raise BenchFailed("a process of the benchmark ended") from error

    def answer(self) -> Any:
        """Return the result of the oldest `ask`. Raises BenchFailed."""
        if not self._pipe.poll(ANSWER_SECONDS):
            raise BenchFailed(f"a process of the benchmark did not answer within {ANSWER_SECONDS:g} s")
        try:
            failed, result = self._pipe.recv()
        except EOFError as error:
            raise BenchFailed("a process of the benchmark ended") from error
        if failed:
            raise BenchFailed(f"a process of the benchmark failed: {result}")
        return result

    def call(self, method: str, *arguments: Any) -> Any:
        """Ask and wait. Raises BenchFailed."""
        self.ask(method, *arguments)
        return self.answer()

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _serve(pipe: Connection, kind: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    target = kind(*arguments)
    pipe.send((False, None))
    while True:
        try:
            method, given = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((False, getattr(target, method)(*given)))
        except Exception:  # whatever it was, the one who asked must learn it
            pipe.send((True, traceback.format_exc()))


def cpu_seconds() -> float:
    """Return the CPU time of this process so far, its own and the kernel's for it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def forget_peak() -> None:
    """Begin a new peak of resident memory."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """Return the peak of this process's resident memory since `forget_peak`."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
