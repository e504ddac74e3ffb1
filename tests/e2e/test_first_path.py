"""The whole path, on real guests: protect, lose, get back; and what must hold when parts of it die."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from lab.demo.story import iso
from lab.guests import Guest
from lab.hosts import Host
from lab.run import run, wait_until
from lab.truth import judge
from tests.e2e.world import World
from tests.journal.independent import IndependentReader

pytestmark = [pytest.mark.guest, pytest.mark.timeout(900)]

INSTANTS = 20


@pytest.fixture(scope="module")
def world(
    lab_hosts: tuple[Host, Host], running_guest: Guest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    from lab.appliance import Appliance

    folder = tmp_path_factory.mktemp("e2e")
    world = World(*lab_hosts, running_guest, Appliance(folder / "appliance"), folder)
    agent = world.guest.agent
    world.boot_id = agent.check("cat /proc/sys/kernel/random/boot_id")
    agent.check(["/usr/bin/python3", "/usr/local/lib/lwdemo/files.py", "write"])
    agent.check("systemctl start lwdemo-db")
    world.appliance.start()
    try:
        world.appliance.ask("hypervisor", "add", "source", world.source.uri)
        world.appliance.ask("hypervisor", "add", "target", world.target.uri)
        world.appliance.ask("protect", world.guest.name, timeout_s=600)
        yield world
        world.appliance.ask("unprotect", world.guest.name, timeout_s=120)
    finally:
        world.appliance.stop()
        agent.exec("systemctl stop lwdemo-db")


def test_a_running_vm_becomes_protected_root_disk_included_without_a_reboot(world: World) -> None:
    status = world.wait_protected()
    assert world.guest.agent.check("cat /proc/sys/kernel/random/boot_id") == world.boot_id
    assert [disk["name"] for disk in world.epochs()[-1]["disks"]] == ["vda"]
    assert status["accounting"] == "balanced"


def test_random_instants_hold_exactly_what_was_committed_before_them(world: World) -> None:
    seed = int(os.environ.get("LASTWRITE_SEED", str(random.randrange(1 << 32))))
    print(f"LASTWRITE_SEED={seed}")
    first = world.guest_now()
    time.sleep(40)
    last = world.guest_now()
    time.sleep(3)
    commits = world.commits()
    chooser = random.Random(seed)
    for instant in sorted(chooser.randrange(first, last) for _ in range(INSTANTS)):
        exact = instant // 1000 * 1000  # a point is given to the microsecond
        found = world.look_into(iso(exact))
        verdict = judge(found.database, commits, exact)
        assert (found.fsck, verdict.faults, found.files["ok"]) == ("clean", [], 20), iso(exact)


def test_an_appshot_is_application_consistent(world: World) -> None:
    shot = world.appliance.json("appshot", world.guest.name, "quiet")
    print(f"file systems frozen for {shot['frozen'] / 1e6:.1f} ms")
    assert shot["consistency"] == "app"
    found = world.look_into("app:quiet")
    assert (found.fsck, judge(found.database, world.commits(), shot["wall"]).faults) == ("clean", [])


def test_latest_and_an_independent_replay_equal_the_quiescent_disk(world: World) -> None:
    agent = world.guest.agent
    agent.check("systemctl stop lwdemo-db; sync")
    world.appliance.ask("bookmark", world.guest.name, "before-freeze")
    agent.command("guest-fsfreeze-freeze", timeout_s=30)
    try:
        world.appliance.ask("bookmark", world.guest.name, "frozen", timeout_s=30)
        run(["cp", "--sparse=always", world.guest.disks[0], world.folder / "live.raw"], timeout_s=60)
    finally:
        agent.command("guest-fsfreeze-thaw", timeout_s=30)
        agent.check("systemctl start lwdemo-db")
    view = world.recover_raw("app:frozen")
    run(["cmp", view, world.folder / "live.raw"], timeout_s=60)
    replay = world.folder / "replay.raw"
    lsn = next(
        p for p in world.appliance.json("points", world.guest.name)["points"] if p["label"] == "frozen"
    )["lsn"]
    replay.write_bytes(IndependentReader(world.journal()).image(1, lsn, 0) or b"")
    run(["cmp", replay, world.folder / "live.raw"], timeout_s=60)


def test_the_agent_killed_under_load_loses_nothing(world: World) -> None:
    agent = world.guest.agent
    before = len(world.epochs())
    killed = world.guest_now()
    agent.check("systemctl kill -s KILL lastwrite-agent")
    time.sleep(2)
    world.wait_protected(60)
    time.sleep(2)
    instant = world.guest_now() // 1000 * 1000
    time.sleep(2)
    assert len(world.epochs()) == before, "the epoch went on: no gap"
    for point in (killed // 1000 * 1000, instant):
        found = world.look_into(iso(point))
        assert (found.fsck, judge(found.database, world.commits(), point).faults) == ("clean", [])


def test_the_receiver_killed_under_load_loses_nothing(world: World) -> None:
    before, durable = len(world.epochs()), world.status()["next_lsn"]
    pids = subprocess.run(
        ["pgrep", "-P", str(world.appliance.pid), "-f", "guesttap.receiver"], capture_output=True, text=True
    ).stdout.split()
    assert len(pids) == 1
    os.kill(int(pids[0]), signal.SIGKILL)
    time.sleep(1)
    world.wait_protected(60)
    wait_until("new records", lambda: world.status()["next_lsn"] > durable, timeout_s=60)
    time.sleep(1)
    instant = world.guest_now() // 1000 * 1000
    time.sleep(2)
    assert len(world.epochs()) == before, "the epoch went on: no gap"
    found = world.look_into(iso(instant))
    assert (found.fsck, judge(found.database, world.commits(), instant).faults) == ("clean", [])


def test_a_recovered_copy_answers_and_its_tap_is_dormant(world: World) -> None:
    instant = world.guest_now() // 1000 * 1000
    time.sleep(2)
    epochs = world.epochs()
    began = time.monotonic()
    point = f"{world.guest.name}@{iso(instant)}"
    world.appliance.ask("recover", point, "--boot", "target", "--name", "copy01", timeout_s=400)
    print(f"from command to answering VM, blocks pulled: {time.monotonic() - began:.1f} s")
    copy = Guest(world.target, "copy01")
    try:
        verdict = judge(world.checked(copy), world.commits(), instant)
        assert verdict.faults == []
        reason = "journalctl -u lastwrite-agent -b --no-pager | grep -i -e dormant -e copy"
        wait_until("the copy's agent is told", lambda: copy.agent.exec(reason).rc == 0, timeout_s=60)
        assert copy.agent.exec("ls /sys/fs/bpf/lastwrite").rc != 0, "no tap is attached"
        assert [e["number"] for e in world.epochs()] == [e["number"] for e in epochs]
        assert world.status()["state"] == "Protected"
        trouble_is_named(world, copy)
    finally:
        copy.remove()


def trouble_is_named(world: World, copy: Guest) -> None:
    """Protect a guest that lacks something: each lack has a name and a remedy. Uses the copy up."""
    hide = "mkdir -p /run/empty && mount --bind /run/empty"
    ctypes = "$(python3 -c 'import _ctypes; print(_ctypes.__file__)')"
    troubles = {
        "no-btf": (f"{hide} /sys/kernel/btf", "umount /sys/kernel/btf"),
        "python-incomplete": (
            f"f={ctypes}; echo $f >/run/f; mv $f $f.away",
            "mv $(cat /run/f).away $(cat /run/f)",
        ),
        "no-python": (
            "mv /usr/bin/python3 /usr/bin/python3.away",
            "mv /usr/bin/python3.away /usr/bin/python3",
        ),
        "lockdown": ("echo confidentiality > /sys/kernel/security/lockdown", "true"),
    }
    for code, (break_it, mend_it) in troubles.items():
        copy.agent.check(break_it)
        done = world.appliance.ask("protect", "copy01", "--json", check=False, timeout_s=120)
        copy.agent.check(mend_it)
        problems = json.loads(done.stderr)["error"]["details"]["problems"]
        assert (done.returncode, [problem["code"] for problem in problems]) == (7, [code])
    assert "copy01" not in [vm["name"] for vm in world.appliance.json("status")["vms"]], (
        "nothing is left half done"
    )


def test_unknown_names_and_points_offer_the_nearest(world: World) -> None:
    world.appliance.ask("bookmark", world.guest.name, "before-the-upgrade")
    for words, offered in (
        (("protect", world.guest.name[:-1] + "9"), world.guest.name),
        (("recover", f"{world.guest.name}x@latest", "--to", "x.raw"), world.guest.name),
        (("recover", f"{world.guest.name}@app:before-the-upgrad", "--to", "x.raw"), "before-the-upgrade"),
        (("recover", f"{world.guest.name}@latest", "--boot", "targte"), "target"),
    ):
        done = world.appliance.ask(*words, check=False)
        assert done.returncode == 3 and offered in done.stderr + done.stdout, (words, done)
