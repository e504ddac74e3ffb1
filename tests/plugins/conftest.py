"""The fixtures of the tests of the command line and the server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.plugins.kit import WORLD, Site


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the configuration of the machine that it runs on."""
    for name in os.environ:
        if name.startswith("LASTWRITE_"):
            monkeypatch.delenv(name)


@pytest.fixture
def site(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Site]:
    """An appliance that runs."""
    made = Site(tmp_path, capsys)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def added(site: Site) -> Site:
    """An appliance with a hypervisor."""
    assert site.ask("hypervisor", "add", "source", WORLD).status == 0
    return site


@pytest.fixture
def protected(added: Site) -> Site:
    """An appliance with a protected VM, web01."""
    answer = added.ask("protect", "web01", "--timeout", "30")
    assert answer.status == 0, answer
    return added
