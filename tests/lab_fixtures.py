"""Fixtures for tests that need the lab: two hosts, and one guest that all tests of a run share.

Import them where they are used (`from tests.lab_fixtures import lab_hosts, running_guest  # noqa: F401`) or
name this module as a plug-in: either way there is one lab per run, and it is taken down when the run ends,
whatever became of the tests.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from lab import guests, sessions
from lab.hosts import Host
from tests.needs import missing

TOOLS = ("libvirtd", "virsh", "qemu-system-x86_64", "qemu-img", "unshare", "mmdebstrap", "extlinux")
GUEST = "web01"


class LabHosts(NamedTuple):
    """The two hosts of a run, both up."""

    source: Host
    target: Host


class _Lab:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hosts = LabHosts(
            Host("source", folder=folder / "source"), Host("target", folder=folder / "target")
        )


_LAB = pytest.StashKey[_Lab]()


def require_lab() -> None:
    """End the running test through `missing` where this machine cannot have a lab."""
    if os.geteuid() != 0:
        missing("the lab needs root")
    for tool in TOOLS:
        if shutil.which(tool) is None:
            missing(f"the lab needs {tool}: run setup/bootstrap.sh")


def _lab(config: pytest.Config) -> _Lab:
    """Return the run's lab, made on first use and taken down when pytest ends."""
    if _LAB not in config.stash:
        require_lab()
        open_until_the_end = contextlib.ExitStack()
        config.add_cleanup(open_until_the_end.close)
        config.stash[_LAB] = _Lab(open_until_the_end.enter_context(sessions.session()))
    return config.stash[_LAB]


@pytest.fixture(scope="session")
def lab_hosts(request: pytest.FixtureRequest) -> LabHosts:
    """Both hosts, up and shared by the whole run; leave no guest of your own behind."""
    hosts = _lab(request.config).hosts
    for host in hosts:
        host.up()
    return hosts


@pytest.fixture(scope="session")
def running_guest(lab_hosts: LabHosts) -> Iterator[guests.Guest]:
    """The guest web01 on the source host, its agent answering, shared by the whole run."""
    guest = guests.boot(lab_hosts.source, GUEST)
    yield guest
    guest.close()


@pytest.fixture
def lab_folder() -> Iterator[Path]:
    """A folder for hosts of a test's own; they end with the test."""
    require_lab()
    with sessions.session() as folder:
        yield folder
