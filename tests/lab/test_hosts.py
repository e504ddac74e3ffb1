"""A lab host comes up, comes up again, survives an interruption, and ends exactly what it started."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

import libvirt
import pytest

from lab import processes, sessions
from lab.errors import LabCommandError, LabUsageError
from lab.hosts import POOL, Host
from lab.paths import lab_dir
from lab.run import wait_until
from tests.lab_fixtures import lab_folder  # noqa: F401

pytestmark = pytest.mark.kernel

# Stopped before its first instruction: an emulator that costs nothing.
IDLE_DOMAIN = """<domain type='qemu'><name>{}</name><memory unit='MiB'>64</memory>
<os><type arch='x86_64' machine='q35'>hvm</type></os></domain>"""


def quiet(_text: str) -> None:
    """Report nothing."""


def idle_guest(host: Host, name: str) -> None:
    with host.connect() as connection:
        connection.createXML(IDLE_DOMAIN.format(name), libvirt.VIR_DOMAIN_START_PAUSED)


@pytest.fixture
def host(lab_folder: Path) -> Host:  # noqa: F811
    host = Host("source", folder=lab_folder / "source")
    host.up(report=quiet)
    return host


def daemon_of(host: Host) -> int:
    return int((host.folder / "libvirtd.pid").read_text())


def test_a_host_answers_under_its_own_name_with_its_pool_and_no_guests(host: Host) -> None:
    with host.connect() as connection:
        assert connection.getHostname() == "source" != socket.gethostname()
        assert connection.listAllDomains() == []
        pool = connection.storagePoolLookupByName(POOL)
        assert pool.isActive()
        assert str(host.images) in pool.XMLDesc()


def test_up_twice_is_one_host_and_down_twice_is_none(host: Host) -> None:
    daemon = daemon_of(host)
    idle_guest(host, "kept")
    host.up(report=quiet)
    assert daemon_of(host) == daemon
    with host.connect() as connection:
        assert [d.name() for d in connection.listAllDomains()] == ["kept"]
    host.down(report=quiet)
    assert (host.is_up, host.processes()) == (False, [])
    host.down(report=quiet)
    with pytest.raises(LabCommandError, match="host source"):
        host.open()


def test_up_after_a_killed_daemon_ends_its_orphans_and_keeps_the_identity(host: Host) -> None:
    identity = (host.folder / "uuid").read_text()
    idle_guest(host, "orphan")
    daemon = daemon_of(host)
    assert processes.end([daemon], host.folder / "run", how=signal.SIGKILL, timeout_s=10) == []
    orphans = host.processes()
    assert orphans and daemon not in orphans
    host.up(report=quiet)
    assert not set(orphans) & set(host.processes())
    with host.connect() as connection:
        assert connection.listAllDomains() == []
        assert identity in connection.getCapabilities()


def test_down_ends_only_its_own_among_hosts_and_bystanders(host: Host, lab_folder: Path) -> None:  # noqa: F811
    other = Host("target", folder=lab_folder / "target")
    other.up(report=quiet)
    idle_guest(host, "twin")
    idle_guest(other, "twin")
    before = other.processes()
    # A bystander that looks like an emulator of this very host, but is not in its namespace.
    with subprocess.Popen(["sleep", "60"], executable="sleep", cwd=host.folder) as bystander:
        (host.folder / "libvirtd.pid").write_text(str(bystander.pid))
        host.down(report=quiet)
        assert host.processes() == []
        assert other.processes() == before
        assert bystander.poll() is None
        bystander.kill()


def test_a_name_or_folder_that_cannot_work_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(LabUsageError, match="a name is a letter"):
        Host("../source", folder=tmp_path)
    with pytest.raises(LabUsageError, match="longer than a socket's path may be"):
        Host("source", folder=tmp_path / ("deep" * 25))
    assert list(tmp_path.iterdir()) == []


def test_the_next_run_cleans_up_after_a_killed_one(lab_folder: Path) -> None:  # noqa: F811
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:  # a run of tests that is killed with a host up
        os.close(read_end)
        with sessions.session(report=quiet) as folder:
            Host("source", folder=folder / "source").up(report=quiet)
            os.write(write_end, str(folder).encode())
            signal.pause()
    os.close(write_end)
    with os.fdopen(read_end) as said:
        folder = Path(os.read(said.fileno(), 4096).decode())
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    left = Host("source", folder=folder / "source")
    assert left.is_up
    sessions.clean_abandoned(report=quiet)
    wait_until("the abandoned folder is gone", lambda: not folder.exists(), timeout_s=10)
    assert not left.is_up
    assert lab_folder.is_dir()
    assert lab_folder.parent == lab_dir()
