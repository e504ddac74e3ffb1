"""The agent's status: for the appliance (in each pong) and, in a file in memory, for who asks on this machine."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict

from guesttap.agent.errors import AgentStateError
from guesttap.agent.files import read_json

if TYPE_CHECKING:
    from guesttap.agent.capture import Capture, Mode
    from guesttap.agent.health import Health

INTERVAL_NS = 2_000_000_000
Status = Dict[str, Any]


def describe(capture: Capture, health: Health) -> Status:
    """Return what protocol.md lists for a pong; sizes in bytes or sectors as their names say."""
    tap, epoch = capture.tap, capture.epoch
    used = tap.producer_position - tap.consumer_position
    counters = tap.counters()
    plan = epoch.plan if epoch is not None else None
    return {
        # While an epoch is broken the ring is given back without being sent: never show it as empty then.
        "ring_used": used if capture.streaming else max(1, used),
        "ring_bytes": tap.ring_bytes,
        "lost": tap.lost(),
        "captured_sectors": counters.get("bytes", 0) // 512,
        "dirty_sectors": (counters.get("dirty_write_bytes", 0) + counters.get("dirty_discard_bytes", 0))
        // 512,
        "accounting": health.words,
        "state": state(capture),
        "synced_bytes": plan.done_bytes if plan is not None else 0,
        "sync_bytes": plan.total_bytes if plan is not None else 0,
        "unreadable_bytes": capture.unreadable_bytes,
    }


def state(capture: Capture) -> str:
    """Return the state in the vocabulary's words."""
    if capture.valid:
        return "Protected"
    if not capture.streaming or capture.epoch is None:
        return "BitmapSync" if capture.dirty_known else "InitialSync"
    return {"bitmap": "BitmapSync", "delta": "DeltaSync"}.get(capture.epoch.sync, "InitialSync")


class StatusFile:
    """`status.json` in the run folder (a tmpfs on a usual machine), renewed every two seconds."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "status.json"
        self._next = 0
        self._mode: Mode | None = None

    def write(self, make: Callable[[], Status], mode: Mode) -> None:
        """Write what `make` returns if it is time, or if the mode changed. A failure is not an event."""
        now = time.monotonic_ns()
        if now < self._next and mode is self._mode:
            return
        self._next, self._mode = now + INTERVAL_NS, mode
        publish(self._path.parent, make())


def publish(folder: Path, status: Status) -> None:
    """Replace the status file. Not durable, and a failure is silent: it is for people who look."""
    path = folder / "status.json"
    text = json.dumps({**status, "pid": os.getpid(), "wall": time.time_ns()})
    try:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        draft = path.with_name("status.json.new")
        draft.write_text(text, "ascii")
        draft.replace(path)
    except OSError:
        pass


def read(folder: Path) -> Status | None:
    """Return what the running agent published last, with `running`; None when there is nothing."""
    try:
        found = read_json(folder / "status.json")
    except AgentStateError:
        return None
    if found is None:
        return None
    found["running"] = Path("/proc", str(found.get("pid", 0))).exists()
    return found
