"""An AppShot's freeze: applications, file systems, mark, thaw, applications; and what it was really worth.

It runs in a process of its own, because freezing waits for the disk, while the agent must go on reading the
ring. That process puts the mark itself. It reports in JSON lines over a socket pair: `freezing` (and waits for
the agent's word, as the agent must write to no file system from then on), `thawed`, `done`. A watchdog
(thaw.py), which depends on neither, thaws if it dies or takes too long.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any, Callable, Dict, NamedTuple, Sequence

from guesttap.agent import thaw
from guesttap.agent.hooks import Hooks
from guesttap.agent.mounts import Mount, OpenMount, open_mounts
from lastwrite.errors import LastwriteError

GO_SECONDS = 2.0
HOOKS_AFTER_SECONDS = 120.0
"""How long the applications' scripts may take after the thaw before the process is ended."""
Report = Dict[str, Any]


class Outcome(NamedTuple):
    """How a freeze went. `marked`: the mark is in the ring; `frozen_ns`: from the first freeze to the last thaw."""

    marked: bool
    filesystem: bool
    application: bool
    frozen_ns: int | None
    messages: list[str]

    @property
    def consistency(self) -> str:
        """What the point is worth: app, filesystem or crash."""
        if not self.filesystem:
            return "crash"
        if self.application:
            return "app"
        return "filesystem" if self.frozen_ns is not None else "crash"


class Quiescer:
    """A freeze that is under way in another process."""

    def __init__(
        self,
        mounts: Sequence[Mount],
        hooks_dir: Path,
        mark: Callable[[], None],
        seconds: float,
        close_fds: Sequence[int] = (),
        watchdog_seconds: float = thaw.LIMIT_SECONDS,
    ) -> None:
        """Start it. `mark` is called in the other process; `close_fds` are closed there; `seconds`: for the hooks."""
        self._socket, theirs = socket.socketpair()
        self.frozen = False
        self.outcome: Outcome | None = None
        self._text = b""
        self._patience = watchdog_seconds + 2
        self._deadline = time.monotonic() + seconds + watchdog_seconds + 20
        self._thawed: Report = {}
        self.pid = os.fork()
        if not self.pid:
            try:
                self._socket.close()
                for descriptor in close_fds:
                    os.close(descriptor)
                os.setsid()
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                _Freeze(theirs, mounts, mark).run(hooks_dir, seconds, watchdog_seconds)
            finally:
                os._exit(0)
        theirs.close()
        self._socket.setblocking(False)

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when there is news."""
        return self._socket.fileno()

    def poll(self) -> None:
        """Take what the other process has said, without waiting; `outcome` is set when it is over."""
        while self.outcome is None:
            try:
                data = self._socket.recv(65536)
            except BlockingIOError:
                if time.monotonic() < self._deadline:
                    return
                os.kill(self.pid, signal.SIGKILL)  # hung; the watchdog has thawed, or does now
                data = b""
            except OSError:
                data = b""
            if not data:
                self._finish({})
                return
            self._text += data
            while b"\n" in self._text and self.outcome is None:
                line, _, self._text = self._text.partition(b"\n")
                self._take(json.loads(line.decode("utf-8")))

    def abandon(self) -> None:
        """Have it thaw and end soon: nobody wants its result any more."""
        if self.outcome is None:
            self._finish({}, self._patience)

    def _take(self, report: Report) -> None:
        if report["event"] == "freezing":
            self.frozen = True
            self._deadline = time.monotonic() + self._patience
            self._socket.send(b"go")
        elif report["event"] == "thawed":
            self.frozen = False
            self._deadline = time.monotonic() + HOOKS_AFTER_SECONDS
            self._thawed = report
        elif report["event"] == "done":
            self._finish(report)

    def _finish(self, done: Report, reap_seconds: float = 0.5) -> None:
        self._socket.close()
        missing = "" if done else "the process that froze ended before it was done"
        self.outcome = self._judge(done, missing)
        self._reap(reap_seconds)
        self.frozen = False

    def so_far(self) -> Outcome:
        """Return what can be said without waiting for the applications any longer."""
        return self._judge({}, "the applications did not confirm in time that they stood still")

    def _judge(self, done: Report, missing: str) -> Outcome:
        thawed = self._thawed
        messages = list(done.get("messages") or thawed.get("messages") or ())
        return Outcome(
            bool(thawed.get("marked")),
            bool(thawed.get("filesystem")),
            bool(done.get("application")),
            thawed.get("frozen"),
            messages + ([missing] if missing else []),
        )

    def _reap(self, seconds: float) -> None:
        """Wait for its end, which is near, as its socket is closed; no longer than that."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if os.waitpid(self.pid, os.WNOHANG)[0]:
                return
            time.sleep(0.005)


class _Freeze:
    """The work, in the other process."""

    def __init__(self, sock: socket.socket, mounts: Sequence[Mount], mark: Callable[[], None]) -> None:
        self._socket = sock
        self._mark = mark
        self._mounts, self.messages = open_mounts(mounts)
        self._fine = not self.messages
        self._frozen: list[OpenMount] = []
        self._only_flushed: dict[str, tuple[OpenMount, str]] = {}

    def run(self, hooks_dir: Path, seconds: float, watchdog_seconds: float) -> None:
        hooks = Hooks(hooks_dir, seconds)
        watchdog = thaw.start(self._mounts, hooks, watchdog_seconds)
        application = bool(hooks.found) and hooks.freeze()
        marked, frozen_ns = False, None
        if self._flush_and_ask():
            os.write(watchdog, thaw.FREEZING)
            marked, frozen_ns = self._freeze_and_mark()
            os.write(watchdog, thaw.THAWED)
        else:
            application = False
            hooks.abort()
        filesystem = self._fine and marked
        messages = self.messages + hooks.messages
        self._say(event="thawed", marked=marked, filesystem=filesystem, frozen=frozen_ns, messages=messages)
        application = hooks.thaw() and application and filesystem
        self._say(event="done", application=application, messages=self.messages + hooks.messages)
        os.write(watchdog, thaw.DONE)

    def _flush_and_ask(self) -> bool:
        for mount in self._mounts:
            try:
                mount.flush()
            except OSError as error:
                self._problem(f"{mount.mount.point} could not be flushed: {error.strerror}")
        self._say(event="freezing")
        self._socket.settimeout(GO_SECONDS)
        try:
            if self._socket.recv(16):
                return True
        except OSError:
            pass
        self._problem("the agent was not there to go on")
        return False

    def _freeze_and_mark(self) -> tuple[bool, int | None]:
        marked = False
        began = time.monotonic_ns()
        try:
            for mount in reversed(self._mounts):
                self._freeze(mount)
            try:
                self._mark()
                marked = True
            except (LastwriteError, OSError) as error:
                self._problem(f"the mark could not be put: {error}")
            self._check_flushed()
        finally:
            some = bool(self._frozen)
            self._thaw()
        return marked, time.monotonic_ns() - began if some else None

    def _freeze(self, mount: OpenMount) -> None:
        point = mount.mount.point
        try:
            if mount.freeze():
                self._frozen.append(mount)
                return
            self._only_flushed[point] = (mount, mount.written())
        except OSError as error:
            self._problem(f"{point} could not be frozen: {error.strerror}")

    def _check_flushed(self) -> None:
        """A file system that cannot be frozen was flushed: that is as good if nothing was written since."""
        for point, (mount, before) in self._only_flushed.items():
            kind = mount.mount.kind
            if mount.written() == before:
                self.messages.append(f"{point} ({kind}) cannot be frozen; it was flushed and stood still")
            else:
                self._problem(f"{point} ({kind}) cannot be frozen and was written to")

    def _thaw(self) -> None:
        """As many thaws as freezes must succeed: else somebody thawed before the mark, or at it."""
        for mount in reversed(self._frozen):
            if not mount.thaw():
                self._problem(f"{mount.mount.point} was thawed by somebody else before its mark")

    def _problem(self, text: str) -> None:
        self._fine = False
        self.messages.append(text)

    def _say(self, **report: Any) -> None:
        try:
            self._socket.sendall(json.dumps(report).encode("utf-8") + b"\n")
        except OSError:
            pass  # the agent is gone: thaw all the same
