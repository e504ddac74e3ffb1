"""Guests of a lab host: made from the image, started, spoken to through their agent, and removed."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import libvirt

from lab import accel, image
from lab.agent import GuestAgent, Outcome
from lab.domain_xml import Disk, describe
from lab.errors import LabCommandError, LabNotFoundError, LabTimeoutError, LabUsageError
from lab.hosts import POOL, Host
from lab.run import Report, run, say, wait_until

AGENT_TIMEOUT_S = 120
STOP_TIMEOUT_S = 60


@dataclass(frozen=True)
class GuestSpec:
    """What a guest is made of: sizes in MiB; `disk_format` is "raw" (a sparse copy, 0.3 s) or "qcow2"."""

    memory_mib: int = 1024
    vcpus: int = 2
    disk_format: str = "raw"
    extra_disks_mib: tuple[int, ...] = ()


class Guest:
    """One guest, called `name`, of a host that is up; the object may be made before the guest exists."""

    def __init__(self, host: Host, name: str) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,40}", name):
            raise LabUsageError(f"guest {name!r}: a name is a letter and up to 40 letters, digits or dashes")
        self.host = host
        self.name = name
        self._domain: libvirt.virDomain | None = None
        self._connection: libvirt.virConnect | None = None

    @property
    def serial_log(self) -> Path:
        """The file that holds the guest's console since its last start."""
        return self.host.folder / "serial" / f"{self.name}.log"

    @property
    def disks(self) -> list[Path]:
        """The disk files that `create` makes for this guest and that exist, vda first."""
        return sorted(p for p in self.host.images.glob(f"{self.name}-vd?.*"))

    @property
    def is_running(self) -> bool:
        """Whether the guest exists and runs."""
        try:
            return bool(self.domain.isActive())
        except LabNotFoundError:
            return False

    @property
    def domain(self) -> libvirt.virDomain:
        """The libvirt domain; raises LabNotFoundError when the host has no such guest."""
        if self._domain is None:
            self._domain = self._look_up()
        return self._domain

    @property
    def agent(self) -> GuestAgent:
        """The guest's agent; see `wait_ready`."""
        return GuestAgent(self.domain, self.name)

    def create(self, spec: GuestSpec | None = None, *, report: Report = say) -> None:
        """Make the guest's disks from the image and define it, not started; LabUsageError if it exists."""
        if self._exists():
            raise LabUsageError(f"guest {self.name}: host {self.host.name} has it already")
        spec = spec or GuestSpec()
        built = image.ensure(report)
        xml = describe(
            self.name,
            disks=self._make_disks(built, spec),
            accelerator=accel.choose(built, report),
            memory_mib=spec.memory_mib,
            vcpus=spec.vcpus,
            serial_log=self.serial_log,
        )
        with self.host.connect() as connection, _told(self.name):
            connection.defineXML(xml)
            connection.storagePoolLookupByName(POOL).refresh()

    def start(self) -> None:
        """Power the guest on, if it is off; does not wait for it."""
        if not self.is_running:
            with _told(self.name):
                self.domain.create()

    def wait_ready(self, *, timeout_s: float = AGENT_TIMEOUT_S) -> float:
        """Wait for the guest's agent and return the seconds that took; LabTimeoutError tells the console."""

        def answers() -> bool:
            if not self.is_running:
                raise LabTimeoutError(
                    f"guest {self.name}: it stopped while it was waited for; {self._console_end()}"
                )
            return self.agent.answers()

        try:
            return wait_until(
                f"guest {self.name}: its agent answers", answers, timeout_s=timeout_s, every_s=0.2
            )
        except LabTimeoutError as error:
            raise LabTimeoutError(f"{error.message}; {self._console_end()}") from None

    def exec(self, command: str | list[str], *, timeout_s: float = 60, stdin: bytes = b"") -> Outcome:
        """Run a command in the guest; see GuestAgent.exec."""
        return self.agent.exec(command, timeout_s=timeout_s, stdin=stdin)

    def check(self, command: str | list[str], *, timeout_s: float = 60, stdin: bytes = b"") -> str:
        """Run a command in the guest that must end with 0, and return its output; see GuestAgent.check."""
        return self.agent.check(command, timeout_s=timeout_s, stdin=stdin)

    def read_file(self, path: str) -> bytes:
        """Return the content of a file in the guest."""
        return self.agent.read_file(path)

    def write_file(self, path: str, content: bytes, *, mode: int | None = None) -> None:
        """Write a file in the guest."""
        self.agent.write_file(path, content, mode=mode)

    def screenshot(self) -> bytes:
        """Return the guest's screen as an image file (PNG from QEMU 7.1 on, else PPM)."""
        with self.host.connect() as connection, _told(self.name):
            stream = connection.newStream()
            connection.lookupByName(self.name).screenshot(stream, 0)
            content = bytearray()
            stream.recvAll(lambda _stream, part, into: into.extend(part), content)
            stream.finish()
        return bytes(content)

    def shut_down(self, *, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Ask the guest to shut down in order and wait until it is off; raises LabTimeoutError."""
        with _told(self.name):
            self.domain.shutdown()
        wait_until(f"guest {self.name}: it is off", lambda: not self.is_running, timeout_s=timeout_s)

    def destroy(self) -> None:
        """Cut the guest's power at once, as a burning host would."""
        if self.is_running:
            with _told(self.name):
                self.domain.destroy()

    def remove(self) -> None:
        """Cut the power, undefine the guest and delete its disks; nothing happens when there is none."""
        if self._exists():
            self.destroy()
            with _told(self.name):
                self.domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)
        for path in (*self.disks, self.serial_log):
            path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Close the connection to the host; the guest goes on."""
        self._domain = None
        if self._connection is not None:
            with contextlib.suppress(libvirt.libvirtError):
                self._connection.close()
            self._connection = None

    def _make_disks(self, built: image.Image, spec: GuestSpec) -> list[Disk]:
        disks = [Disk(self.host.images / f"{self.name}-vda.{spec.disk_format}", spec.disk_format)]
        image.copy_disk(built, disks[0].path, disk_format=spec.disk_format)
        for letter, size_mib in zip("bcdefgh", spec.extra_disks_mib, strict=False):
            disk = Disk(self.host.images / f"{self.name}-vd{letter}.{spec.disk_format}", spec.disk_format)
            run(["qemu-img", "create", "-q", "-f", disk.format, disk.path, f"{size_mib}M"], timeout_s=30)
            disks.append(disk)
        return disks

    def _look_up(self) -> libvirt.virDomain:
        if self._connection is None:
            self._connection = self.host.open()
        try:
            return self._connection.lookupByName(self.name)
        except libvirt.libvirtError as error:
            self.close()
            raise LabNotFoundError(f"guest {self.name}: {error.get_error_message()}") from None

    def _exists(self) -> bool:
        try:
            return bool(self.domain)
        except LabNotFoundError:
            return False

    def _console_end(self) -> str:
        if not self.serial_log.exists():
            return "its console said nothing"
        lines = self.serial_log.read_text(errors="replace").splitlines()[-4:]
        return "the end of its console: " + " | ".join(lines)


def boot(host: Host, name: str, spec: GuestSpec | None = None, *, report: Report = say) -> Guest:
    """Create, start and await the guest `name` on `host`, or the one that is there already."""
    guest = Guest(host, name)
    if not guest._exists():
        guest.create(spec, report=report)
    guest.start()
    began = time.monotonic()
    guest.wait_ready()
    report(f"guest {name} on {host.name} answers after {time.monotonic() - began:.1f} s")
    return guest


@contextlib.contextmanager
def _told(name: str) -> Iterator[None]:
    """Turn libvirt's errors into the lab's, with the guest named."""
    try:
        yield
    except libvirt.libvirtError as error:
        raise LabCommandError(f"guest {name}: {error.get_error_message()}") from None
