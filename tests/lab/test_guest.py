"""A real guest boots from the image, answers, and runs the workload."""

from __future__ import annotations

import json

import pytest

from lab.errors import GuestAgentError, LabNotFoundError, LabTimeoutError, LabUsageError
from lab.guests import Guest
from lab.run import wait_until
from tests.lab_fixtures import LabHosts, lab_hosts, running_guest  # noqa: F401

# ruff: noqa: F811  (pytest's fixtures are arguments named like what was imported)
pytestmark = pytest.mark.guest

SCRIPTS = "/usr/local/lib/lwdemo"
CONSISTENCY_HOOK = "/etc/lastwrite/consistency.d/10-lwdemo"


def commits(guest: Guest) -> list[tuple[int, int, int]]:
    lines = guest.read_file("/run/lwdemo/commits").decode().splitlines()
    return [(int(n), int(before), int(after)) for n, before, after in map(str.split, lines)]


def test_a_command_gives_its_status_and_both_outputs(running_guest: Guest) -> None:
    assert running_guest.exec("echo out; echo err >&2; exit 3") == (3, "out\n", "err\n")
    assert running_guest.exec(["cat"], stdin=b"through the agent") == (0, "through the agent", "")
    with pytest.raises(GuestAgentError, match="exit status 1"):
        running_guest.check("false")
    with pytest.raises(LabTimeoutError, match="not done after 0 s"):
        running_guest.exec("sleep 2", timeout_s=0.1)


def test_files_go_in_and_out_unchanged(running_guest: Guest) -> None:
    content = bytes(range(256)) * 4096 * 3  # 3 MiB: many chunks
    running_guest.write_file("/run/content", content, mode=0o640)
    assert running_guest.read_file("/run/content") == content
    assert running_guest.check("stat -c %a /run/content").strip() == "640"
    with pytest.raises(LabNotFoundError, match="/run/none"):
        running_guest.read_file("/run/none")


def test_the_guest_has_a_kernel_with_types_its_tools_and_its_address(running_guest: Guest) -> None:
    running_guest.check("test -s /sys/kernel/btf/vmlinux && test -b /dev/vda1")
    running_guest.check(
        "python3 -c 'import ctypes, ssl, sqlite3' && lvm version && dmsetup version && sqlite3 -version"
    )
    wait_until(
        "the guest has its address",
        lambda: "10.0.2.15" in running_guest.check("ip -4 addr show eth0"),
        timeout_s=30,
        every_s=0.5,
    )
    assert json.loads(running_guest.check(f"{SCRIPTS}/files.py verify"))["ok"] == 20


def test_the_file_systems_freeze_and_thaw_through_the_agent(running_guest: Guest) -> None:
    frozen = running_guest.agent.command("guest-fsfreeze-freeze")
    thawed = running_guest.agent.command("guest-fsfreeze-thaw")
    assert frozen == thawed >= 1


def test_the_screen_can_be_seen(running_guest: Guest) -> None:
    assert running_guest.screenshot().startswith(b"\x89PNG")


def test_the_workload_writes_whole_rows_and_its_hook_holds_it(running_guest: Guest) -> None:
    running_guest.check("systemctl start lwdemo-db")
    try:
        wait_until(
            "ten rows are committed", lambda: len(commits(running_guest)) >= 10, timeout_s=60, every_s=0.5
        )
        running_guest.check([CONSISTENCY_HOOK, "freeze"])
        held = commits(running_guest)[-1][0]
        found = json.loads(running_guest.check(f"sleep 1; {SCRIPTS}/check.py"))
        assert (found["integrity"], found["bad_checksums"], found["holes"]) == ("ok", 0, 0)
        assert found["last"] == commits(running_guest)[-1][0] == held
        running_guest.check([CONSISTENCY_HOOK, "thaw"])
        wait_until("it goes on", lambda: commits(running_guest)[-1][0] > held, timeout_s=30, every_s=0.5)
    finally:
        running_guest.check("systemctl stop lwdemo-db; rm -rf /run/lwdemo /var/lib/lwdemo/*")


def test_a_guest_that_exists_is_not_made_again_and_one_that_does_not_is_named(
    running_guest: Guest, lab_hosts: LabHosts
) -> None:
    with pytest.raises(LabUsageError, match="has it already"):
        running_guest.create()
    stranger = Guest(lab_hosts.target, "stranger")
    assert not stranger.is_running
    with pytest.raises(LabNotFoundError, match="guest stranger"):
        stranger.start()
    stranger.remove()
