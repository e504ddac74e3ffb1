"""One libvirt host of the lab: a libvirtd in mount and UTS namespaces of its own, all state in one folder.

DIR/run, lib, cache, log, etc   bound over libvirt's own directories, inside the namespace only
DIR/images                      the storage pool `lastwrite`
DIR/serial                      the guests' consoles
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import libvirt

from lab import processes
from lab.errors import LabCommandError, LabUnsupportedError, LabUsageError
from lab.paths import cache_dir, lab_dir
from lab.run import Report, locked, run, say, wait_until

POOL = "lastwrite"
SOCKET_PATH_LIMIT = 107  # bytes of a unix socket's path
BOUND = ("run", "lib", "cache", "log", "etc")
START_TIMEOUT_S = 60
END_TIMEOUT_S = 15

LIBVIRTD_CONF = """\
auth_unix_ro = "none"
auth_unix_rw = "none"
host_uuid = "{uuid}"
log_outputs = "3:file:/var/log/libvirt/libvirtd.log"
"""
QEMU_CONF = """\
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
"""
# $1 the host's folder, $2 its name. Runs inside the new namespaces. `--daemon` returns when libvirtd has
# initialised itself, or fails with the reason.
ENTER = """\
set -e
for d in run lib cache log; do
    case $d in run) to=/run/libvirt ;; *) to=/var/$d/libvirt ;; esac
    mkdir -p $to
    mount --bind "$1/$d" $to
done
mount --bind "$1/etc" /etc/libvirt
hostname "$2"
exec libvirtd --daemon --pid-file "$1/libvirtd.pid"
"""


def no_libvirt_noise() -> None:
    """Stop libvirt from printing errors to standard error: they are raised, and so they are told."""
    libvirt.registerErrorHandler(lambda _context, _error: None, None)


class Host:
    """A libvirt host called `name`; its state is kept under `folder` (default: the lab's directory)."""

    def __init__(self, name: str, *, folder: Path | None = None) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,30}", name):
            raise LabUsageError(
                f"host {name!r}: a name is a letter and up to 30 letters, digits or dashes, in lower case"
            )
        self.name = name
        self.folder = (folder or lab_dir() / name).absolute()
        if len(str(self.socket)) > SOCKET_PATH_LIMIT:
            raise LabUsageError(
                f"host {name}: {self.socket}: longer than a socket's path may be ({SOCKET_PATH_LIMIT})"
            )

    @property
    def socket(self) -> Path:
        """The unix socket of the host's libvirtd."""
        return self.folder / "run" / "libvirt-sock"

    @property
    def uri(self) -> str:
        """The libvirt URI of the host, good for every client on this machine."""
        return f"qemu+unix:///system?socket={self.socket}"

    @property
    def images(self) -> Path:
        """The folder of the storage pool `lastwrite`."""
        return self.folder / "images"

    @property
    def is_up(self) -> bool:
        """Whether the host's libvirtd answers."""
        if not self.socket.exists():
            return False
        try:
            run(["virsh", "-q", "-c", self.uri, "version", "--daemon"], timeout_s=10)
        except LabCommandError:
            return False
        return True

    def up(self, report: Report = say) -> None:
        """Start the host, or leave it alone if it runs; what an interrupted earlier run left is ended first.

        Raises LabTimeoutError with the daemon's log named, LabUnsupportedError where libvirt is missing.
        """
        with self._locked(report):
            if self.is_up:
                return
            self._end_everything()
            self._write_configuration()
            began = time.monotonic()
            _copy_capabilities(cache_dir() / "libvirt", self.folder / "cache")
            self._start_daemon()
            self._ensure_pool()
            _copy_capabilities(self.folder / "cache", cache_dir() / "libvirt")
            report(f"host {self.name} is up after {time.monotonic() - began:.1f} s: {self.uri}")

    def down(self, *, purge: bool = False, report: Report = say) -> None:
        """End the host's guests and its libvirtd, and nothing else; with `purge` delete its folder too."""
        if not self.folder.exists():
            return
        with self._locked(report):
            ended = self._end_everything()
            if ended:
                report(f"host {self.name} is down ({ended} processes ended)")
        if purge:
            shutil.rmtree(self.folder)

    def open(self) -> libvirt.virConnect:
        """Open a connection to the host, to be closed by the caller; raises LabCommandError."""
        no_libvirt_noise()
        try:
            return libvirt.open(self.uri)
        except libvirt.libvirtError as error:
            raise LabCommandError(
                f"host {self.name}: {error.get_error_message()}", hint="`python -m lab up` starts the hosts."
            ) from None

    @contextlib.contextmanager
    def connect(self) -> Iterator[libvirt.virConnect]:
        """Open a connection to the host for the length of a block; raises LabCommandError."""
        connection = self.open()
        try:
            yield connection
        finally:
            connection.close()

    def processes(self) -> list[int]:
        """Return the PIDs of everything that runs in the host: its libvirtd and its guests' emulators."""
        return processes.inhabitants(self.folder / "run") if (self.folder / "run").is_dir() else []

    def _locked(self, report: Report) -> contextlib.AbstractContextManager[int]:
        return locked(self.folder.parent / f".{self.name}.lock", timeout_s=START_TIMEOUT_S * 2, report=report)

    def _write_configuration(self) -> None:
        for folder in (*BOUND, "images", "serial"):
            (self.folder / folder).mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.folder / "run")  # sockets and state of a daemon that is no more
        (self.folder / "run").mkdir()
        identity = self.folder / "uuid"
        if not identity.exists():
            identity.write_text(str(uuid.uuid4()))
        (self.folder / "etc" / "libvirtd.conf").write_text(LIBVIRTD_CONF.format(uuid=identity.read_text()))
        (self.folder / "etc" / "qemu.conf").write_text(QEMU_CONF)

    def _start_daemon(self) -> None:
        if not Path("/etc/libvirt").is_dir() or not shutil.which("libvirtd"):
            raise LabUnsupportedError(f"host {self.name}: libvirtd is not installed on this machine")
        own = ["unshare", "--mount", "--uts", "--propagation", "private"]
        run([*own, "sh", "-c", ENTER, "sh", self.folder, self.name], timeout_s=START_TIMEOUT_S)
        what = f"host {self.name}: libvirtd answers (its log is in {self.folder / 'log'})"
        wait_until(what, lambda: self.is_up, timeout_s=START_TIMEOUT_S)

    def _ensure_pool(self) -> None:
        with self.connect() as connection:
            if POOL not in {pool.name() for pool in connection.listAllStoragePools()}:
                xml = (
                    f"<pool type='dir'><name>{POOL}</name><target><path>{self.images}</path></target></pool>"
                )
                connection.storagePoolDefineXML(xml).setAutostart(1)
            pool = connection.storagePoolLookupByName(POOL)
            if not pool.isActive():
                pool.create()

    def _end_everything(self) -> int:
        """End all that lives in the host's namespace; returns how many processes were ended."""
        here = self.folder / "run"
        living = self.processes()
        for how, limit in ((signal.SIGTERM, END_TIMEOUT_S), (signal.SIGKILL, END_TIMEOUT_S)):
            left = processes.end(self.processes(), here, how=how, timeout_s=limit)
            if not left:
                return len(living)
        raise LabCommandError(f"host {self.name}: processes {left} did not end")


def _copy_capabilities(source: Path, target: Path) -> None:
    """Copy what libvirt learnt by asking QEMU (8 s); it sees by itself when QEMU or the kernel is another."""
    for known in source.glob("qemu/capabilities/*.xml"):
        copy = target / known.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        whole = copy.with_suffix(f".{os.getpid()}")
        shutil.copyfile(known, whole)
        whole.rename(copy)
