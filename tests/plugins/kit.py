"""What the tests of the command line and the server share.

Real: the control process' application on a real unix socket, the catalog, the journals, the ingest process, TLS.
Imitated: the hypervisor is the memory adapter, and the guest with its tap is `GuestDouble`, which captures nothing.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import uvicorn

from guesttap.channel import ChannelClosed
from guesttap.deploy import ProbeReport
from guesttap.ingest_client import IngestClient, IngestUnavailableError
from hypervisors.base import DiskSpec, Hypervisor, VmSpec
from hypervisors.memory import MemoryHypervisor
from journal.frame import SYNC, WRITE, parse_header, records
from lastwrite.address import parse_address
from lastwrite.config import Settings
from plugins.cli.help import statuses_of
from plugins.cli.main import find, run
from plugins.server.context import Context
from plugins.server.control import listening, server
from tests.receiver.double import DISK_BYTES, TapDouble, context, enrol

WORLD = "memory://plugins"


@dataclass
class Answer:
    """What one command printed, and its exit status."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        return json.loads(self.err.splitlines()[-1])["error"]


class GuestDouble:
    """Stands for guesttap.deploy and the guest: a tap that enrols for real and invents its writes."""

    def __init__(self) -> None:
        self.report = ProbeReport(())
        self.fail: Exception | None = None
        self.silent = False
        self.deaf = False
        self.instance: str | None = None
        self.calls: list[str] = []
        self.taps: dict[str, TapDouble] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._stops: dict[str, threading.Event] = {}

    def probe(self, hypervisor: Hypervisor, vm_id: str) -> ProbeReport:
        self.calls.append("probe")
        return self.report

    def deploy(
        self, hypervisor: Hypervisor, vm_id: str, *, settings: Settings, authority_ca_pem: str, token: str,
        tap_id: str, disks: list[str] | None, progress: Callable[[int, int, str], None],
    ) -> None:  # fmt: skip
        self.calls.append("deploy")
        progress(1, 2, "copying the agent")
        if self.fail:
            raise self.fail
        if self.silent:
            return
        address = parse_address(settings.tap.advertise)
        bought = enrol(address, authority_ca_pem, token)
        assert bought["type"] == "enrolled", bought
        tap = TapDouble(address, context(authority_ca_pem, (bought["certificate"], bought["key"])))
        if self.instance:  # the machine shows another identity than the one that enrolled
            assert tap.hello(instance=self.instance)["action"] == "dormant"
            tap.close()
            return
        self.taps[vm_id], self._stops[vm_id] = tap, threading.Event()
        tap.hello()
        tap.follow()
        self._threads[vm_id] = threading.Thread(target=self._live, args=(vm_id,), daemon=True)
        self._threads[vm_id].start()

    def remove(self, hypervisor: Hypervisor, vm_id: str) -> None:
        self.calls.append("remove")
        self.stop(vm_id)

    def stop(self, vm_id: str) -> None:
        if vm_id in self._stops:
            self._stops[vm_id].set()
            self._threads[vm_id].join(10)
            self.taps[vm_id].close()

    def close(self) -> None:
        for vm_id in self._stops:
            self.stop(vm_id)

    def _live(self, vm_id: str) -> None:
        tap, stop = self.taps[vm_id], self._stops[vm_id]
        try:
            while not stop.wait(0.02):
                tap.write(1)
                tap.cut()
                for item in tap.pump(0.05):
                    assert isinstance(item, dict)
                    if item["type"] == "request" and not self.deaf:
                        self._reply(tap, item)
        except (ChannelClosed, OSError):
            pass

    def _reply(self, tap: TapDouble, request: dict[str, Any]) -> None:
        result: dict[str, Any] = {}
        if request["do"] in ("mark", "appshot"):
            app = request["do"] == "appshot"
            known = {"label": request["label"], "consistency": "app" if app else "crash"}
            known |= {"frozen": 7_000_000} if app else {}
            lsn, number = tap.cut(request["kind"], **known)
            result = {
                "lsn": lsn,
                "number": number,
                "wall": time.time_ns(),
                "mono": 1,
                "frozen": None,
                "messages": [],
            }
            result |= known
        told = {"type": "reply", "id": request["id"], "ok": True, "result": result, "error": None}
        tap.live().send_message(told)


def replay(tap: TapDouble, last_lsn: int) -> bytes:
    """Return the disk that the frames of a tap say it had at an LSN, by a reader of our own. One epoch."""
    image = bytearray(DISK_BYTES)
    frames = sorted(
        tap.sent.values(), key=lambda data: (parse_header(data).kind != SYNC, parse_header(data).first_lsn)
    )
    for data in frames:
        header = parse_header(data)
        for number, (record, place) in enumerate(records(header, data[: header.head_bytes])):
            if record.kind == WRITE and header.first_lsn + number <= last_lsn:
                begin, length = header.head_bytes + place, record.sectors * 512
                image[record.sector * 512 : record.sector * 512 + length] = data[begin : begin + length]
    return bytes(image)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def configuration(folder: Path) -> Path:
    """Write a configuration with a state directory and ports of its own."""
    file = folder / "lastwrite.toml"
    file.write_text(
        f'[appliance]\nstate_dir = "{folder / "state"}"\n'
        f'[tap]\nlisten = "127.0.0.1:{free_port()}"\n[nbd]\nlisten = "127.0.0.1:{free_port()}"\n'
    )
    return file


def until(what: str, true: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.05)


class Site:
    """An appliance: the control application in this process, ingest as its own process, the guests imitated."""

    specs: ClassVar = [
        VmSpec("web01", 1 << 30, 2, disks=(DiskSpec("vda", DISK_BYTES),)),
        VmSpec("web02", 1 << 30, 1, disks=(DiskSpec("vda", DISK_BYTES), DiskSpec("vdb", DISK_BYTES))),
        VmSpec("a name", 1 << 30, 1, disks=(DiskSpec("vda", DISK_BYTES),)),
    ]

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.capsys = capsys
        self.config = configuration(folder)
        self.settings = Settings.load(self.config)
        self.settings.state_dir.mkdir()
        self.settings.journals_dir.mkdir()
        self.guests = GuestDouble()
        self.hypervisor = MemoryHypervisor("source", WORLD)
        self.hypervisor.connect()
        self.hypervisor.world.vms.clear()
        for spec in self.specs:
            self.hypervisor.start(self.hypervisor.create_vm(spec).id)
        self.context = Context(self.settings)
        self.context.deployment = lambda: self.guests  # type: ignore[method-assign]
        self.ingest = self.start_ingest()
        self._listener = listening(self.settings.control_socket)
        self._server: uvicorn.Server = server(self.context)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._listener]}, daemon=True
        )
        self._thread.start()
        until("the control application has started", lambda: self._server.started)

    def start_ingest(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "guesttap.receiver", "--config", str(self.config)]
        with (self.folder / "ingest.log").open("ab") as log:
            process = subprocess.Popen(command, stderr=log)
        client = IngestClient(self.settings.ingest_socket)

        def answers() -> bool:
            assert process.poll() is None, (self.folder / "ingest.log").read_text()
            try:
                client.status()
            except IngestUnavailableError:
                return False
            return True

        until("ingest answers", answers)
        return process

    def ask(self, *words: str) -> Answer:
        """Run one command as a user would, in this process."""
        self.capsys.readouterr()
        status = run([*words, "--config", str(self.config)])
        printed = self.capsys.readouterr()
        known = [status for status, _ in statuses_of(find(list(words)))]
        assert status in known, f"{words}: status {status} is not in its help: {printed.err}"
        return Answer(status, printed.out, printed.err)

    def json(self, *words: str) -> Any:
        answer = self.ask(*words, "--json")
        assert answer.status == 0, answer
        return answer.json

    def vm_id(self, name: str) -> str:
        return self.hypervisor.get_vm(name).id

    def tap(self, name: str) -> TapDouble:
        return self.guests.taps[self.vm_id(name)]

    def end_control(self) -> None:
        """End the control application as a signal does, and wait for it."""
        self._server.should_exit = True
        self._thread.join(30)
        assert not self._thread.is_alive()

    def close(self) -> None:
        self.guests.close()
        self.end_control()
        self._listener.close()
        self.ingest.terminate()
        self.ingest.wait(30)
        self.context.catalog.close()
