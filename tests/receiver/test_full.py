"""A journal on a file system that really runs out of space."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from journal.reader import JournalReader
from tests.needs import missing
from tests.receiver.conftest import Appliance, wait_for

pytestmark = pytest.mark.kernel
SIZE = 24 << 20


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB of its own."""
    if os.geteuid() != 0:
        missing("mounting needs root")
    image, place = tmp_path / "small.img", tmp_path / "small"
    with image.open("wb") as file:
        file.truncate(SIZE)
    place.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-m0", "-F", str(image)], check=True, timeout=30)
    if subprocess.run(["mount", "-o", "loop", str(image), str(place)], timeout=30).returncode:
        missing("this machine cannot mount a loop device")
    yield place
    subprocess.run(["umount", str(place)], check=True, timeout=30)


@pytest.mark.usefixtures("own_appliance")
def test_a_full_journal_stops_acks_raises_the_alarm_and_goes_on_by_itself(
    small: Path, appliance: Appliance
) -> None:
    ballast = small / "ballast"
    ballast.write_bytes(bytes(14 << 20))
    vm = appliance.add_vm("web01", small / "journal")
    tap = appliance.new_tap(vm)
    tap.hello()
    tap.follow()
    deadline = time.monotonic() + 20
    while appliance.status(vm)["alarm"] is None:
        assert time.monotonic() < deadline
        for _ in range(20):
            tap.write(8)
            tap.pump()
    assert appliance.status(vm)["state"] == "Error"
    assert "no space" in str(appliance.status(vm)["alarm"])
    for _ in range(5):
        tap.pump(0.2)
    acked = tap.acked_lsn
    assert acked < tap.next_lsn
    assert JournalReader(vm.journal).next_lsn >= acked
    for _ in range(8):
        tap.pump(0.2)
    assert tap.acked_lsn == acked, "acknowledged without space"
    ballast.unlink()
    tap.settle()
    wait_for(appliance, vm, "alarm", None)
    assert tap.welcome["action"] == "begin", "it went on in the same session"
    reader = JournalReader(vm.journal)
    assert reader.next_lsn == tap.next_lsn
    assert len(reader.epochs()) == 1
    assert not reader.damage()
    tap.close()
    appliance.terminate()
