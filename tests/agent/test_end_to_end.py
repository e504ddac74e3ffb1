"""The real agent, kernel, receiver and journal: after whatever happened the journal's view is the disk."""

from __future__ import annotations

import signal
import time

import pytest

from tests.agent.conftest import MakeRig
from tests.agent.rig import assert_same, wait_for

pytestmark = pytest.mark.kernel


def test_latest_view_is_the_disk_after_initial_sync_under_load(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.start_load()
    rig.start_agent()
    rig.wait_state("Protected")
    time.sleep(2)
    content = rig.settle_image()
    assert_same(rig.appliance.latest_image(), content)
    assert [epoch.sync for epoch in rig.appliance.reader().epochs()] == ["initial"]


def test_killing_the_agent_under_load_leaves_no_gap(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.start_load()
    rig.start_agent()
    rig.wait_state("Protected")
    for _ in range(3):
        time.sleep(1)
        rig.kill_agent()
        time.sleep(0.5)
        rig.start_agent()
        rig.wait_state("Protected")
    content = rig.settle_image()
    assert_same(rig.appliance.latest_image(), content)
    (epoch,) = rig.appliance.reader().epochs()
    assert epoch.gap_reason is None


def test_an_overflow_of_a_tiny_ring_ends_protected_and_identical(make_rig: MakeRig) -> None:
    rig = make_rig(ring_bytes=1 << 20)
    rig.start_agent()
    rig.wait_state("Protected")
    rig.start_load(pause=0.0)
    wait_for(lambda: rig.appliance.status()["epoch"] >= 2, 30, "a loss")
    time.sleep(3)
    rig.stop_load()
    rig.wait_state("Protected")
    content = rig.settle_image()
    assert_same(rig.appliance.latest_image(), content)
    epochs = rig.appliance.reader().epochs()
    assert epochs[0].gap_reason and {epoch.sync for epoch in epochs[1:]} == {"bitmap"}


def test_an_appliance_that_goes_away_and_comes_back_costs_nothing(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.start_load()
    rig.start_agent()
    rig.wait_state("Protected")
    rig.appliance.stop()
    time.sleep(1)
    rig.appliance.start()
    rig.wait_state("Protected")
    content = rig.settle_image()
    assert_same(rig.appliance.latest_image(), content)
    assert len(rig.appliance.reader().epochs()) == 1


def test_a_terminated_agent_leaves_the_tap_in_the_kernel_and_goes_on(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.start_agent()
    rig.wait_state("Protected")
    assert rig.kill_agent(signal.SIGTERM) == 0
    rig.start_load(3)
    time.sleep(2)
    assert rig.command("status")["attached"] is True
    rig.start_agent()
    rig.wait_state("Protected")
    content = rig.settle_image()
    assert_same(rig.appliance.latest_image(), content)
    assert len(rig.appliance.reader().epochs()) == 1


def test_a_copy_of_the_past_stays_dormant(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.start_agent()
    rig.wait_state("Protected")
    rig.kill_agent()
    epoch_file = rig.folder / "state" / "epoch.json"
    epoch_file.write_text(epoch_file.read_text().replace('"fence": "', '"fence": "old'))
    rig.start_agent()
    assert rig.agent is not None
    assert rig.agent.wait(30) == 77
    assert "copy of the past" in rig.said()
    assert rig.command("status")["attached"] is False


def test_remove_leaves_nothing_behind(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.start_agent()
    rig.wait_state("Protected")
    rig.kill_agent(signal.SIGTERM)
    done = rig.command("remove")["done"]
    assert "tap detached" in done
    left = [rig.folder / "state", rig.folder / "run", rig.config]
    assert not [path for path in left if path.exists()]
    assert rig.command("remove")["done"] == []


def test_each_disk_keeps_its_number_when_others_are_protected_in_between(make_rig: MakeRig) -> None:
    rig = make_rig(size=32 << 20)
    first, second = rig.loop, rig.add_loop(48 << 20)
    rig.start_agent()
    rig.wait_state("Protected")
    old = rig.settle_image()
    old_lsn = rig.appliance.reader().latest()
    assert old_lsn is not None

    rig.protect_instead(second)
    rig.start_load(3)
    time.sleep(2)
    newer = rig.settle_image()
    reader = rig.appliance.reader()
    newest = reader.latest()
    assert newest is not None
    assert [(d.disk, d.name) for d in reader.point(old_lsn).disks] == [(0, first.name)]
    assert [(d.disk, d.name) for d in reader.point(newest).disks] == [(1, second.name)]
    assert_same(reader.resolve(newest, second.name).read(0, 48 << 20), newer)
    assert_same(reader.resolve(old_lsn, first.name).read(0, 32 << 20), old)

    rig.protect_instead(second, first)  # the tap's own order is the other way round
    second.mount()
    rig.start_load(5)
    time.sleep(1)
    rig.kill_agent()
    rig.start_agent()
    rig.wait_state("Protected")
    newer = rig.settle_image()
    reader = rig.appliance.reader()
    newest = reader.latest()
    assert newest is not None
    assert {d.name: d.disk for d in reader.point(newest).disks} == {first.name: 0, second.name: 1}
    assert len(reader.epochs()) == 3  # killing the agent cost no epoch
    assert_same(reader.resolve(newest, second.name).read(0, 48 << 20), newer)
    assert_same(reader.resolve(newest, first.name).read(0, 32 << 20), first.content())
    assert_same(reader.resolve(old_lsn, first.name).read(0, 32 << 20), old)
