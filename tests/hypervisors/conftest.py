"""Fixtures of the adapters' tests: a real libvirt host, and an NBD server with something to read."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from hypervisors.kvm import KvmHypervisor
from hypervisors.model import MIB
from tests.lab_fixtures import LabHosts, lab_folder, lab_hosts
from tests.needs import missing

__all__ = ["lab_folder", "lab_hosts"]

EXPORT = "web01/vda@-10m"


class Served(NamedTuple):
    """An NBD server of a test: where it listens, what it serves, how to end it."""

    port: int
    file: Path
    process: subprocess.Popen[bytes]


@contextmanager
def serve(file: Path, folder: Path) -> Iterator[Served]:
    """Serve `file` read-only as EXPORT on a free port of 127.0.0.1, until the block ends."""
    if shutil.which("qemu-nbd") is None:
        missing("an NBD server to boot from needs qemu-nbd")
    ready, port = folder / "qemu-nbd.pid", _free_port()
    argv = [
        "qemu-nbd",
        "--read-only",
        "--persistent",
        "--shared=8",
        "--format=raw",
        f"--export-name={EXPORT}",
    ]
    argv += ["--bind=127.0.0.1", f"--port={port}", f"--pid-file={ready}", str(file)]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while not ready.exists():
            assert process.poll() is None, "qemu-nbd ended before it listened"
            assert time.monotonic() < deadline, "qemu-nbd does not listen"
            time.sleep(0.02)
        yield Served(port, file, process)
    finally:
        process.kill()
        process.wait(10)
        ready.unlink(missing_ok=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """A server of 8 MiB, of which every second MiB is random and the others are holes."""
    file = tmp_path / "source.raw"
    with open(file, "wb") as out:
        for at in range(0, 8, 2):
            out.seek(at * MIB)
            out.write(os.urandom(MIB))
        out.truncate(8 * MIB)
    with serve(file, tmp_path) as server:
        yield server


@pytest.fixture
def kvm(lab_hosts: LabHosts) -> Iterator[KvmHypervisor]:
    """The adapter, connected to a real libvirtd of the lab that nobody else needs at this moment."""
    with KvmHypervisor("target", lab_hosts.target.uri) as adapter:
        yield adapter
