"""Long operations: each runs in a thread of its own and tells what it does as a stream of events.

Whoever asked may go away: then the operation is cancelled at the next place where that is safe, and undoes
what it has begun. When the server ends, all are cancelled and waited for.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import structlog

from lastwrite.errors import LastwriteError
from plugins.errors import CancelledError
from plugins.models import Result
from plugins.server.context import Emit

ALIVE_EVERY_S = 5.0
PROGRESS_EVERY_S = 0.2

log = structlog.get_logger("plugins.operations")

Work = Callable[[Emit], Result]


def error_body(error: LastwriteError) -> dict[str, Any]:
    """Return what crosses the API of an error."""
    return {**error.to_dict(), "exit_code": error.exit_code}


class Operation:
    """One operation, and the Emit that its work gets. Events go to the loop that began it."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._cancelled = threading.Event()
        self._next_progress = 0.0
        self.thread = threading.Thread(target=self._run, name="operation", daemon=True)

    def step(self, text: str) -> None:
        """Say what begins now."""
        self._next_progress = 0.0
        self._put({"event": "step", "text": text})

    def progress(self, text: str, done: int, total: int | None, unit: str = "bytes") -> None:
        """Say how far it is; more often than people can read is left out, but never the end."""
        now = time.monotonic()
        if now < self._next_progress and done != total:
            return
        self._next_progress = now + PROGRESS_EVERY_S
        self._put({"event": "progress", "text": text, "done": done, "total": total, "unit": unit})

    def check(self) -> None:
        """Raise CancelledError after `cancel`."""
        if self._cancelled.is_set():
            raise CancelledError("the operation was cancelled")

    def cancel(self) -> None:
        """Ask the work to stop where it is safe."""
        self._cancelled.set()

    async def events(self) -> AsyncIterator[bytes]:
        """Begin, and yield each event as a line of JSON, the result or the error last."""
        self.thread.start()
        try:
            while True:
                try:
                    event = await asyncio.wait_for(self._events.get(), ALIVE_EVERY_S)
                except TimeoutError:
                    event = {"event": "alive"}
                yield json.dumps(event, default=str).encode() + b"\n"
                if event["event"] in ("result", "error"):
                    return
        finally:
            self.cancel()  # nothing happens when it has ended

    def _run(self) -> None:
        try:
            result = self._work(self)
            self._put({"event": "result", "result": result.model_dump(mode="json")})
        except LastwriteError as error:
            self._put({"event": "error", "error": error_body(error)})
        except Exception as error:
            log.exception("an operation failed in a way that was not foreseen")
            internal = LastwriteError(f"{type(error).__name__}: {error}")
            self._put({"event": "error", "error": error_body(internal)})

    def _put(self, event: dict[str, Any]) -> None:
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
        except RuntimeError:  # the loop has ended: nobody listens any more
            self._cancelled.set()


class Operations:
    """All operations that run."""

    def __init__(self) -> None:
        self._running: set[Operation] = set()

    async def stream(self, work: Work) -> AsyncIterator[bytes]:
        """Run `work` and yield its events."""
        operation = Operation(work)
        self._running = {one for one in self._running if one.thread.is_alive()} | {operation}
        async for line in operation.events():
            yield line

    def end(self, seconds: float) -> None:
        """Cancel all, and wait at most so long for them to undo what they have begun."""
        deadline = time.monotonic() + seconds
        for operation in self._running:
            operation.cancel()
        for operation in self._running:
            if operation.thread.is_alive():
                operation.thread.join(max(0.0, deadline - time.monotonic()))
