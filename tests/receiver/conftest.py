"""A receiver process of its own, with a catalog, a VM and an enrolled tap double."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from guesttap.authority import Authority
from guesttap.ingest_client import IngestClient, IngestUnavailableError
from journal.writer import JournalWriter
from lastwrite.address import Address
from lastwrite.catalog import Catalog, VmRow
from lastwrite.config import Settings
from tests.receiver.double import INSTANCE, TapDouble, context, enrol

ZYGOTE = """
import os, signal, sys
from guesttap.receiver.__main__ import main
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        sys.exit(main(["--config", line.strip()]))
    print(pid, flush=True)
    print(os.waitpid(pid, 0)[1], flush=True)
"""
"""Forks a receiver for each line and says its pid and end: a restart without a second of imports."""


class Restarts:
    """Receivers that start fast and can only be killed."""

    def __init__(self, appliance: Appliance) -> None:
        self.appliance = appliance
        with appliance.log.open("ab") as log:
            self.zygote = subprocess.Popen(
                [sys.executable, "-c", ZYGOTE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
            )
        assert self.zygote.stdin is not None
        assert self.zygote.stdout is not None
        self.orders, self.answers = self.zygote.stdin, self.zygote.stdout
        self.pid = 0

    def start(self) -> None:
        """Start a receiver and wait until it listens."""
        self.orders.write(f"{self.appliance.config}\n".encode())
        self.orders.flush()
        self.pid = int(self.answers.readline())
        self.appliance.await_answer(lambda: True)

    def kill(self) -> None:
        """End it with SIGKILL, and see that this is how it ended."""
        os.kill(self.pid, signal.SIGKILL)
        assert int(self.answers.readline()) == signal.SIGKILL

    def close(self) -> None:
        """End everything."""
        self.kill()
        self.orders.close()
        self.zygote.wait(10)
        self.answers.close()


class Appliance:
    """The receiver as a real process over a state folder; it can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        self.address = Address("127.0.0.1", port)
        self.config = folder / "lastwrite.toml"
        self.config.write_text(f'[appliance]\nstate_dir = "{folder}"\n[tap]\nlisten = "{self.address}"\n')
        self.settings = Settings.load(self.config)
        self.catalog = Catalog(self.settings.catalog_url)
        self.authority = Authority(self.settings.pki_dir)
        self.client = IngestClient(self.settings.ingest_socket)
        self.log = folder / "receiver.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the receiver and wait until it answers."""
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "guesttap.receiver", "--config", str(self.config)]
            self.process = subprocess.Popen(command, stderr=log)
        process = self.process
        self.await_answer(lambda: process.poll() is None)

    def await_answer(self, lives: Callable[[], bool]) -> None:
        """Wait until the receiver answers; it must live meanwhile."""
        deadline = time.monotonic() + 20
        while True:
            try:
                self.client.status()
                return
            except IngestUnavailableError:
                assert lives(), self.log.read_text()
                assert time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.02)

    def kill(self) -> None:
        """End the receiver with SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def terminate(self) -> int:
        """End the receiver with SIGTERM; return its exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def add_vm(self, name: str, journal: Path | None = None) -> VmRow:
        """Put a protected VM into the catalog."""
        folder = journal or self.folder / "journals" / name
        JournalWriter.create(folder, name).close()
        return self.catalog.add_vm(name, "none", name, str(folder), protected=True)

    def new_tap(self, vm: VmRow, seed: int = 1, instance: str = INSTANCE) -> TapDouble:
        """Enrol a tap double for a VM."""
        token = self.catalog.new_enrolment(vm.id, 60)
        answer = enrol(self.address, self.authority.ca_pem, token, instance)
        assert answer["type"] == "enrolled", answer
        identity = (answer["certificate"], answer["key"])
        return TapDouble(self.address, context(self.authority.ca_pem, identity), seed, instance)

    def status(self, vm: VmRow) -> dict[str, object]:
        """Return a VM's status."""
        return self.client.status()[vm.id]

    def close(self) -> None:
        """End what runs."""
        if self.process is not None and self.process.poll() is None:
            self.kill()
        self.catalog.close()


@pytest.fixture(scope="session")
def shared_appliance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    """A running receiver for all tests that do not end it."""
    made = Appliance(tmp_path_factory.mktemp("appliance"))
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.fixture
def appliance(request: pytest.FixtureRequest) -> Iterator[Appliance]:
    """A running receiver: one of its own for a test that asks for `own_appliance`, else the shared one."""
    if "own_appliance" not in request.fixturenames:
        yield request.getfixturevalue("shared_appliance")
        return
    made = Appliance(request.getfixturevalue("tmp_path"))
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.fixture
def own_appliance() -> None:
    """Ask for a receiver of one's own, because the test ends it."""


@pytest.fixture
def vm(appliance: Appliance) -> VmRow:
    """A protected VM."""
    return appliance.add_vm(f"vm-{len(appliance.catalog.vms())}")


@pytest.fixture
def tap(appliance: Appliance, vm: VmRow) -> Iterator[TapDouble]:
    """An enrolled tap of that VM, not connected yet."""
    made = appliance.new_tap(vm)
    yield made
    made.close()


def wait_for(appliance: Appliance, vm: VmRow, key: str, wanted: object, seconds: float = 10.0) -> None:
    """Wait until a VM's status says something."""
    deadline = time.monotonic() + seconds
    while appliance.status(vm)[key] != wanted:
        assert time.monotonic() < deadline, appliance.status(vm)
        time.sleep(0.05)
