"""A Lastwrite appliance for the lab: a server with a state folder and ports of its own, and its command line."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from lab.errors import LabCommandError, LabTimeoutError

GUEST_GATEWAY = "10.0.2.2"  # how a guest with QEMU's user networking reaches this machine's loopback
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 30


def free_port() -> int:
    """Return a TCP port of the loopback that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Appliance:
    """A server under `folder`, driven through the `lastwrite` command as a user would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tap_port, self.nbd_port = free_port(), free_port()
        self._server: subprocess.Popen[bytes] | None = None
        self._command = [str(Path(sys.executable).parent / "lastwrite")]

    @property
    def config(self) -> Path:
        """The configuration file."""
        return self.folder / "lastwrite.toml"

    @property
    def state(self) -> Path:
        """The state folder, journals in it."""
        return self.folder / "state"

    @property
    def log(self) -> Path:
        """What the server's processes print."""
        return self.folder / "server.log"

    @property
    def environment(self) -> dict[str, str]:
        """The environment that makes `lastwrite` speak to this server."""
        return {**os.environ, "LASTWRITE_CONFIG": str(self.config)}

    @property
    def pid(self) -> int:
        """The supervisor's process id."""
        assert self._server is not None
        return self._server.pid

    def start(self) -> None:
        """Write the configuration and start the server; returns when it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.config.write_text(
            f'[appliance]\nstate_dir = "{self.state}"\n'
            f'[tap]\nlisten = "127.0.0.1:{self.tap_port}"\nadvertise = "{GUEST_GATEWAY}:{self.tap_port}"\n'
            f'[nbd]\nlisten = "127.0.0.1:{self.nbd_port}"\n'
        )
        with open(self.log, "ab") as log:
            argv = [*self._command, "serve"]
            self._server = subprocess.Popen(
                argv, stdout=log, stderr=log, env=self.environment, start_new_session=True
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while self.ask("status", "--json", check=False).returncode:
            if self._server.poll() is not None or time.monotonic() > deadline:
                tail = self.log.read_text(errors="replace")[-2000:]
                self.stop()
                raise LabTimeoutError(f"the server in {self.folder} does not answer: {tail}")
            time.sleep(0.2)

    def stop(self) -> None:
        """End the server, politely and then not; also one that an interrupted run left in this folder."""
        if self._server is None:
            self._end_left_over()
            return
        self._server.send_signal(signal.SIGTERM)
        try:
            self._server.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        self._server = None

    def _end_left_over(self) -> None:
        """End a supervisor whose environment names our configuration; its processes end with it."""
        mark = f"LASTWRITE_CONFIG={self.config}".encode()
        for process in Path("/proc").glob("[0-9]*"):
            try:
                handle = os.pidfd_open(int(process.name))
            except OSError:
                continue
            try:
                ours = mark in (process / "environ").read_bytes().split(b"\0")
                if ours and b"serve" in (process / "cmdline").read_bytes().split(b"\0"):
                    signal.pidfd_send_signal(handle, signal.SIGTERM)
                    select.select([handle], [], [], STOP_TIMEOUT_S)
            except OSError:
                continue  # it has ended meanwhile
            finally:
                os.close(handle)

    def ask(
        self, *words: str, timeout_s: float = 120, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run one `lastwrite` command; raises LabCommandError with its output when it fails and `check`."""
        argv = [*self._command, *words]
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
        )
        if check and done.returncode:
            raise LabCommandError(
                f"lastwrite {' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}"
            )
        return done

    def json(self, *words: str, timeout_s: float = 120) -> Any:
        """Run one command with `--json` and return what it printed."""
        return json.loads(self.ask(*words, "--json", timeout_s=timeout_s).stdout)

    def show(self, *words: str, timeout_s: float = 600) -> float:
        """Run one command with its output where ours goes; returns the seconds it took."""
        began = time.monotonic()
        done = subprocess.run(
            [*self._command, *words], env=self.environment, timeout=timeout_s, stdin=subprocess.DEVNULL
        )
        if done.returncode:
            raise LabCommandError(f"lastwrite {' '.join(words)}: exit status {done.returncode}")
        return time.monotonic() - began
