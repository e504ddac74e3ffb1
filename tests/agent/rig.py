"""What the end-to-end tests share: a loop disk, the real receiver with a real journal, a real agent process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from guesttap.authority import Authority
from guesttap.bpf.pins import Pins
from guesttap.receiver.registry import Registry
from guesttap.receiver.server import TapServer
from guesttap.zipapp import build
from journal.reader import JournalReader
from journal.writer import JournalWriter
from lastwrite.address import Address
from lastwrite.catalog import Catalog

INSTANCE = "0b7f3c62-5d1e-4a7e-9a55-1f0c5a9c0001"


def shell(*words: str | Path, timeout: float = 60) -> str:
    """Run a command that must succeed; return what it printed."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def wait_for(what: Callable[[], object], seconds: float, text: str) -> None:
    """Wait until `what()` is true. Fails with `text` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {text}"
        time.sleep(0.05)


class Loop:
    """A loop device of our own with an ext4 file system, mounted."""

    def __init__(self, folder: Path, size: int) -> None:
        folder.mkdir(exist_ok=True)
        self.file, self.mountpoint = folder / "disk.img", folder / "mnt"
        with self.file.open("wb") as made:
            made.truncate(size)
        self.path = shell("losetup", "--find", "--show", self.file).strip()
        self.name = Path(self.path).name
        shell("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", self.path)
        self.mountpoint.mkdir()
        self.mounted = False
        self.mount()

    def mount(self) -> None:
        shell("mount", self.path, self.mountpoint)
        self.mounted = True

    def unmount(self) -> None:
        if self.mounted:
            shell("umount", self.mountpoint)
            self.mounted = False

    def content(self) -> bytes:
        """What the disk holds: the file behind it, as the device's own page cache can be behind (seen)."""
        shell("sync", self.path)
        return self.file.read_bytes()

    def close(self) -> None:
        deadline = time.monotonic() + 15
        while self.mountpoint.is_mount() and time.monotonic() < deadline:
            # A freeze's processes may hold the mount point for a moment after the agent was killed.
            subprocess.run(["umount", str(self.mountpoint)], capture_output=True, timeout=30)
            time.sleep(0.1)
        subprocess.run(["losetup", "--detach", self.path], capture_output=True, timeout=30)


class Appliance:
    """The real receiver, in threads of this process, with one VM."""

    def __init__(self, folder: Path) -> None:
        self.catalog = Catalog(f"sqlite:///{folder}/catalog.db")
        self.catalog.add_hypervisor("lab", "memory", "memory:")
        self.journal = folder / "journal"
        JournalWriter.create(self.journal, "web01").close()
        self.vm = self.catalog.add_vm("web01", "lab", "ref-1", str(self.journal), protected=True)
        self.authority = Authority(folder / "pki")
        self.port = 0
        self.start()

    def start(self) -> None:
        """Start, on the port of the time before."""
        self.registry = Registry(self.catalog)
        self.server = TapServer(Address("127.0.0.1", self.port), self.authority, self.registry)
        self.port = self.server.address.port
        threading.Thread(target=self.server.serve, daemon=True).start()

    def stop(self) -> None:
        self.server.stop()

    def status(self) -> dict[str, Any]:
        return self.registry.status(self.catalog.vm(self.vm.id)).as_dict()

    def session(self) -> Any:
        return self.registry.live_session(self.catalog.vm(self.vm.id))

    def reader(self) -> JournalReader:
        return JournalReader(self.journal)

    def latest_image(self) -> bytes:
        """The newest state that can be recovered to."""
        reader = self.reader()
        lsn = reader.latest()
        assert lsn is not None
        disk = reader.disks()[0]
        return reader.resolve(lsn, disk.disk).read(0, disk.bytes)


class Rig:
    """Loop disk, appliance and agent. `close` takes all of it away."""

    def __init__(self, *, size: int = 256 << 20, ring_bytes: int = 32 << 20) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="lastwrite-agent-", dir="/dev/shm"))
        self.pin_dir = f"/sys/fs/bpf/lastwrite-agent-{os.getpid()}-{self.folder.name[-6:]}"
        self.config = self.folder / "etc" / "agent.json"
        self.log = self.folder / "agent.log"
        self.hooks = self.folder / "hooks"
        self.hooks.mkdir()
        self.agent: subprocess.Popen[bytes] | None = None
        self.load: subprocess.Popen[bytes] | None = None
        self.loop = Loop(self.folder, size)
        self.loops = [self.loop]
        self.appliance = Appliance(self.folder)
        self.ring_bytes = ring_bytes
        self.configure()

    def configure(self, **more: Any) -> None:
        """Write agent.json with a new token, as deployment does."""
        token = self.appliance.catalog.new_enrolment(self.appliance.vm.id, 600)
        keys = {
            "appliance": f"127.0.0.1:{self.appliance.port}",
            "vm": self.appliance.vm.id,
            "ca": self.appliance.authority.ca_pem,
            "token": token,
            "disks": [self.loop.path],
            "ring_bytes": self.ring_bytes,
            "state_dir": str(self.folder / "state"),
            "run_dir": str(self.folder / "run"),
            "pin_dir": self.pin_dir,
            "hooks_dir": str(self.hooks),
            "instance": INSTANCE,
        }
        self.config.parent.mkdir(exist_ok=True)
        self.config.write_text(json.dumps(keys | more))

    def add_loop(self, size: int) -> Loop:
        """Make another disk; nothing protects it yet."""
        self.loops.append(Loop(self.folder / f"disk{len(self.loops)}", size))
        return self.loops[-1]

    def protect_instead(self, *loops: Loop) -> None:
        """End the protection, then protect these disks; the first is the one that load is written to."""
        self.kill_agent(signal.SIGTERM)
        assert "tap detached" in self.command("remove")["done"]
        self.configure(disks=[loop.path for loop in loops])
        self.loop = loops[0]
        self.start_agent()
        self.wait_state("Protected")

    def start_agent(self) -> None:
        with self.log.open("ab") as log:
            self.agent = subprocess.Popen(self._argv("run"), env=self._environment(), stdout=log, stderr=log)

    def command(self, *words: str) -> Any:
        """Run another command of the agent; return its JSON."""
        argv, environment = self._argv(*words, "--json"), self._environment()
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60)
        return json.loads(done.stdout)

    def _argv(self, *words: str) -> list[str]:
        """The zipapp as a guest runs it: alone."""
        program = build(self.folder / "agent.pyz")
        return [sys.executable, "-I", "-S", str(program), *words, "--config", str(self.config)]

    def _environment(self) -> dict[str, str]:
        return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LASTWRITE_AGENT_LIB": str(self.folder / "lib")}

    def kill_agent(self, number: int = signal.SIGKILL) -> int:
        """End the agent with a signal; return its status."""
        assert self.agent is not None
        self.agent.send_signal(number)
        status = self.agent.wait(20)
        self.agent = None
        return status

    def start_load(self, seconds: float = 90.0, pause: float = 0.02) -> None:
        """Write files with all sorts of calls until `stop_load`."""
        script = Path(__file__).parent / "load.py"
        words = [sys.executable, str(script), str(self.loop.mountpoint), str(seconds), str(pause)]
        self.load = subprocess.Popen(words)

    def stop_load(self) -> None:
        load, self.load = self.load, None
        if load is not None:
            load.terminate()
            assert load.wait(60) in (0, -signal.SIGTERM)

    def wait_state(self, state: str, seconds: float = 60.0) -> None:
        def reached() -> bool:
            assert self.agent is None or self.agent.poll() is None, self.said()
            return bool(self.appliance.status()["state"] == state and self.appliance.status()["connected"])

        try:
            wait_for(reached, seconds, state)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.appliance.status()}\n{self.said()}") from error

    def settle_image(self) -> bytes:
        """Stop writing and unmount; wait until all of it is durable; return the disk's content."""
        self.stop_load()
        self.loop.unmount()
        content = self.loop.content()
        quiet_since = time.time_ns() + 1_000_000_000
        wait_for(
            lambda: (
                (self.appliance.status()["recoverable_wall"] or 0) > quiet_since
                and self.appliance.status()["ring_used"] == 0
            ),
            40,
            f"the journal to catch up: {self.appliance.status()}\n{self.said()}",
        )
        return content

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def close(self) -> None:
        for process in (self.load, self.agent):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait(20)
        self.appliance.stop()
        self.appliance.catalog.close()
        Pins(self.pin_dir).remove()
        for loop in self.loops:
            loop.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def assert_same(found: bytes, wanted: bytes) -> None:
    """Compare two images; name the first blocks that differ."""
    assert len(found) == len(wanted)
    if found != wanted:
        bad = [at for at in range(0, len(wanted), 4096) if found[at : at + 4096] != wanted[at : at + 4096]]
        first = bad[0]
        inside = [at for at in range(first, first + 4096) if found[at] != wanted[at]]
        raise AssertionError(
            f"{len(bad)} blocks differ, the first at {bad[:10]}; in it {len(inside)} bytes from {inside[0] - first}:"
            f" {found[inside[0] : inside[-1] + 1][:64].hex()} for {wanted[inside[0] : inside[-1] + 1][:64].hex()}"
        )
