"""Fixtures: a running NBD server over disks in memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from recovery.nbd import NbdServer
from tests.recovery.disks import MIB, MemoryDisk, MemoryExports, dense, scattered


@pytest.fixture
def exports() -> MemoryExports:
    odd = MemoryDisk(5 * MIB + 3 * 512, dict(scattered(5 * MIB, 200).blocks))
    return MemoryExports(
        {"a/dense@lsn:1": dense(4 * MIB), "a/scattered@lsn:1": scattered(64 * MIB, 500), "a/odd@latest": odd}
    )


@pytest.fixture
def server(exports: MemoryExports) -> Iterator[NbdServer]:
    with NbdServer("127.0.0.1:0", exports, handshake_seconds=5) as running:
        yield running
