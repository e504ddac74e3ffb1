"""`lastwrite serve`: three real processes, watched; one server for a state directory; all of it ends."""

from __future__ import annotations

import os
import re
import selectors
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from guesttap.ingest_client import IngestClient, IngestUnavailableError
from lastwrite.config import Settings
from lastwrite.errors import LastwriteError
from plugins.client import ControlClient
from plugins.models import Health
from tests.plugins.kit import configuration, until

READY_S = 60.0


class Served:
    """A server as a user starts it."""

    def __init__(self, folder: Path) -> None:
        self.config = (
            configuration(folder) if not (folder / "lastwrite.toml").exists() else folder / "lastwrite.toml"
        )
        self.settings = Settings.load(self.config)
        self.errors = folder / "serve.err"
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=errors, text=True)
        self.pids: dict[str, int] = {}

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", "plugins.cli.main", "serve", "--config", str(self.config)]

    def ready(self) -> str:
        """Wait for the line that says that it is ready, and take the processes' ids from it."""
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            assert selector.select(READY_S), self.said()
        line = self.process.stdout.readline()
        assert line.startswith("ready: "), (line, self.said())
        self.pids = {name: int(pid) for name, pid in re.findall(r"(ingest|views|control|upkeep) (\d+)", line)}
        assert len(self.pids) == 4
        return line

    def said(self) -> str:
        return self.errors.read_text()

    def health(self) -> Health | None:
        try:
            with ControlClient(self.settings.control_socket) as client:
                return client.ask(Health, "GET", "/v1/health")
        except LastwriteError:
            return None

    def ingest_answers(self) -> bool:
        try:
            IngestClient(self.settings.ingest_socket).status()
        except IngestUnavailableError:
            return False
        return True

    def views_answer(self) -> bool:
        host, _, port = self.settings.nbd.listen.rpartition(":")
        try:
            with socket.create_connection((host, int(port)), timeout=2) as probe:
                return probe.recv(8) == b"NBDMAGIC"
        except OSError:
            return False

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    try:
        made.ready()
        yield made
    finally:
        made.close()


def test_it_is_ready_when_all_answer_and_its_socket_is_its_own(served: Served) -> None:
    health = served.health()
    assert health is not None and health.pid == served.pids["control"]
    assert served.ingest_answers() and served.views_answer()
    assert stat.S_IMODE(served.settings.control_socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(served.settings.state_dir.stat().st_mode) == 0o700
    assert sorted(path.name for path in (served.settings.state_dir / "logs").iterdir()) == [
        "control.log", "ingest.log", "upkeep.log", "views.log",
    ]  # fmt: skip


def test_a_process_that_is_killed_starts_again_and_the_others_go_on(served: Served) -> None:
    os.kill(served.pids["control"], signal.SIGKILL)
    assert served.ingest_answers() and served.views_answer()
    until(
        "control answers again",
        lambda: (now := served.health()) is not None and now.pid != served.pids["control"],
    )
    os.kill(served.pids["ingest"], signal.SIGKILL)
    until("ingest is away", lambda: not served.ingest_answers())
    assert served.health() is not None
    until("ingest answers again", served.ingest_answers)
    os.kill(served.pids["views"], signal.SIGKILL)
    until("views answer again", lambda: not alive(served.pids["views"]) and served.views_answer())
    os.kill(served.pids["upkeep"], signal.SIGKILL)
    until("upkeep has ended", lambda: "upkeep was ended by SIGKILL" in served.said())
    for name in served.pids:
        assert f"{name} was ended by SIGKILL" in served.said()


def test_a_second_server_on_the_same_state_directory_is_refused(served: Served) -> None:
    began = time.monotonic()
    second = subprocess.run(served.command, capture_output=True, text=True, timeout=60)
    assert second.returncode == 6 and time.monotonic() - began < 10
    assert (
        f"a server works on {served.settings.state_dir} already: process {served.process.pid}"
        in second.stderr
    )
    assert served.health() is not None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_everything_in_time(served: Served, number: signal.Signals) -> None:
    began = time.monotonic()
    served.process.send_signal(number)
    assert served.process.wait(40) == 0
    print(f"ended {time.monotonic() - began:.1f} s after {number.name}")
    assert not any(alive(pid) for pid in served.pids.values())
    assert "was ended by" not in served.said() and "did not end" not in served.said()


def test_when_the_supervisor_is_killed_its_processes_end_and_a_new_server_takes_over(
    served: Served, tmp_path: Path
) -> None:
    served.process.kill()
    served.process.wait(10)
    next_one = Served(tmp_path)  # at once: it waits until what is left of the old one has ended
    try:
        next_one.ready()
        assert not any(alive(pid) for pid in served.pids.values())
        assert next_one.health() is not None
    finally:
        next_one.close()


def test_a_process_that_cannot_start_is_named_with_its_reason(tmp_path: Path) -> None:
    settings = Settings.load(configuration(tmp_path))
    host, _, port = settings.nbd.listen.rpartition(":")
    with socket.create_server((host, int(port))):
        served = Served(tmp_path)
        try:
            assert served.process.wait(READY_S) == 4
        finally:
            served.close()
    assert (
        "error: views ended before it was ready: " in served.said() and settings.nbd.listen in served.said()
    )
    assert "hint: " in served.said() and "views.log" in served.said()


def test_a_state_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-m", "plugins.cli.main", "serve", "--state", str(tmp_path / "file/state")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 4 and f"error: {tmp_path}/file/state: Not a directory" in done.stderr


def test_a_state_directory_that_others_can_enter_is_closed(tmp_path: Path) -> None:
    settings = Settings.load(configuration(tmp_path))
    settings.state_dir.mkdir(mode=0o755)
    settings.state_dir.chmod(0o755)
    served = Served(tmp_path)
    try:
        served.ready()
        wide = [
            path
            for path in (settings.state_dir, *settings.state_dir.rglob("*"))
            if path.stat().st_mode & 0o077
        ]
        # The authority's certificates are public, and their folder is not.
        assert [path for path in wide if path.suffix != ".pem"] == []
        assert not stat.S_IMODE(settings.pki_dir.stat().st_mode) & 0o077
    finally:
        served.close()


def test_a_directory_of_others_is_not_taken_as_state_directory(tmp_path: Path) -> None:
    state = Settings.load(configuration(tmp_path)).state_dir
    state.mkdir()
    (state / "somebodys").write_text("")
    for mode in (0o755, 0o1777):
        state.chmod(mode)
        served = Served(tmp_path)
        try:
            assert served.process.wait(READY_S) == 4
        finally:
            served.close()
        assert f"can be entered by other users (mode {mode:04o})" in served.said()
        assert stat.S_IMODE(state.stat().st_mode) == mode
        assert [path.name for path in state.iterdir()] == ["somebodys"]
