"""`lastwrite serve`: four processes, watched, and one server for a state directory at a time.

ingest (change streams), views (NBD), control (REST) and upkeep (retention) know nothing of one another's lives:
each ends and starts again alone. This process holds the lock of the state directory; its children inherit it,
so that a new server never starts beside what is left of an old one.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
import stat
import sys
import time
from pathlib import Path

from lastwrite.address import parse_address
from lastwrite.config import OURS_ALONE, Settings, find_file
from lastwrite.errors import UnavailableError
from plugins.errors import ServerRunningError, ServerStartError, StateDirError
from plugins.lock import LOCK_NAME
from plugins.server.child import Child, said

START_S = 60.0
POLL_S = 0.1
LOCK_WAIT_S = 25.0  # for the children of a server that was killed to end
EMPTY = {"lost+found", "lastwrite.toml"}
KNOWN = {LOCK_NAME, "catalog.db", "pki"}
NBD_MAGIC = b"NBDMAGIC"

PROCESSES = {
    "ingest": "guesttap.receiver",
    "views": "recovery.nbd",
    "control": "plugins.server.control",
    "upkeep": "plugins.server.upkeep",
}


def serve(settings: Settings, config: Path | None) -> None:
    """Run the server until SIGTERM or SIGINT.

    Raises ServerRunningError, StateDirError, ServerStartError; then everything that was started has ended.
    """
    os.umask(OURS_ALONE)  # the children inherit it
    _make_folders(settings)
    lock = acquire(settings.state_dir)
    try:
        # The children find the same configuration by themselves, with what the command line has changed.
        os.environ["LASTWRITE_APPLIANCE__STATE_DIR"] = str(settings.state_dir)
        asyncio.run(_Supervisor(settings, find_file(config), lock).run())
    finally:
        os.close(lock)


def _make_folders(settings: Settings) -> None:
    try:
        settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        _close(settings.state_dir)
        for folder in (settings.journals_dir, settings.state_dir / "logs"):
            folder.mkdir(exist_ok=True)
    except OSError as error:
        raise StateDirError(f"{settings.state_dir}: {error.strerror or error}") from error


def _close(state_dir: Path) -> None:
    """Take everybody else's rights to the state directory away: it holds what VMs have written.

    Raises StateDirError for a directory that is not ours alone, such as /tmp: nothing is changed then.
    """
    status = state_dir.stat()
    if not status.st_mode & OURS_ALONE:
        return
    ours = status.st_uid == os.geteuid() and not status.st_mode & stat.S_ISVTX
    there = {path.name for path in state_dir.iterdir()}
    if not ours or not (there <= EMPTY or there & KNOWN):
        mode = stat.S_IMODE(status.st_mode)
        raise StateDirError(
            f"{state_dir} can be entered by other users (mode {mode:04o}), and holds things that are not ours",
            hint="Name a directory that is for Lastwrite alone, or `chmod 0700` this one if it is.",
        )
    state_dir.chmod(0o700)


def acquire(state_dir: Path) -> int:
    """Return the open, locked lock file of the state directory. Raises ServerRunningError, StateDirError."""
    try:
        file = os.open(state_dir / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StateDirError(f"{state_dir / LOCK_NAME}: {error.strerror or error}") from error
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = _owner(file)
            if owner is not None or time.monotonic() > deadline:
                os.close(file)
                who = f"process {owner}" if owner else "what is left of it has not ended"
                raise ServerRunningError(f"a server works on {state_dir} already: {who}") from None
            time.sleep(POLL_S)
        else:
            os.ftruncate(file, 0)
            os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
            return file


def _owner(file: int) -> int | None:
    """Return the process in the lock file while it lives."""
    text = os.pread(file, 20, 0).strip()
    if not text.isdigit():
        return None
    try:
        os.kill(int(text), 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return int(text)


class _Supervisor:
    def __init__(self, settings: Settings, config: Path | None, lock: int) -> None:
        self._settings = settings
        self._stop = asyncio.Event()
        arguments = ["--config", str(config)] if config else []
        logs = settings.state_dir / "logs"
        self._children = [
            Child(name, module, arguments, logs=logs, keep=(lock,), say=_say)
            for name, module in PROCESSES.items()
        ]

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        tasks = [asyncio.create_task(child.run()) for child in self._children]
        try:
            if await self._ready():
                print(self._greeting(), flush=True)
                await self._stop.wait()
        finally:
            await asyncio.gather(*(child.stop() for child in self._children))
            for task in tasks:  # those that are waiting to start their process again
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        _say("ended")

    async def _ready(self) -> bool:
        """Return True when all answer, False when it was told to stop. Raises ServerStartError."""
        deadline = time.monotonic() + START_S
        checks = dict(
            zip(self._children, (self._ingest, self._views, self._control, self._upkeep), strict=True)
        )
        while not self._stop.is_set():
            waiting = [child for child, check in checks.items() if not await asyncio.to_thread(check)]
            if not waiting:
                return True
            for child in self._children:
                if child.ended.is_set():
                    raise _start_error(child, "ended before it was ready")
            if time.monotonic() > deadline:
                raise _start_error(waiting[0], f"did not answer within {START_S:.0f} s")
            await asyncio.sleep(POLL_S)
        return False

    def _ingest(self) -> bool:
        from guesttap.ingest_client import IngestClient

        try:
            IngestClient(self._settings.ingest_socket).status()
        except UnavailableError:
            return False
        return True

    def _views(self) -> bool:
        address = parse_address(self._settings.nbd.listen)
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)
        try:
            with socket.create_connection((host, address.port), timeout=2) as probe:
                return probe.recv(len(NBD_MAGIC)) == NBD_MAGIC
        except OSError:
            return False

    def _upkeep(self) -> bool:
        return self._children[-1].pid is not None  # it listens to nobody

    def _control(self) -> bool:
        from plugins.client import ControlClient
        from plugins.models import Health

        try:
            with ControlClient(self._settings.control_socket) as client:
                client.ask(Health, "GET", "/v1/health")
        except UnavailableError:
            return False
        return True

    def _greeting(self) -> str:
        settings = self._settings
        pids = ", ".join(f"{child.name} {child.pid}" for child in self._children)
        return (
            f"ready: taps on {settings.tap.listen}, views on {settings.nbd.listen}, "
            f"control at {settings.control_socket} (processes: {pids})"
        )


def _start_error(child: Child, what: str) -> ServerStartError:
    last = said(child.last_lines)
    return ServerStartError(f"{child.name} {what}: {last or 'it said nothing'} (its log: {child.log_file})")


def _say(text: str) -> None:
    print(f"lastwrite: {text}", file=sys.stderr, flush=True)
