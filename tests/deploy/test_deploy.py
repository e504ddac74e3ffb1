"""Deployment into a guest that is a folder: what is written, what is put back, what never shows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from guesttap import deploy as deployment
from guesttap.deploy import DeployFailedError, GuestUnsuitableError, deploy, probe, remove
from hypervisors.errors import (
    GuestAgentFailedError,
    GuestAgentRefusedError,
    GuestAgentSilentError,
    GuestFileError,
    NoGuestAgentChannelError,
    NotCapableError,
    VmNotRunningError,
)
from lastwrite.config import Settings
from lastwrite.errors import LastwriteError
from tests.deploy.sandbox import AGENT, SandboxHypervisor

TOKEN = "a-secret-token-that-nobody-may-see"
PROGRAM = "usr/local/lib/lastwrite/agent.pyz"
CONFIG = "etc/lastwrite/agent.json"
UNIT = "etc/systemd/system/lastwrite-agent.service"


@pytest.fixture
def hv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SandboxHypervisor:
    monkeypatch.setattr(deployment, "_program", lambda report: AGENT)
    return SandboxHypervisor(tmp_path / "guest")


def put(hv: SandboxHypervisor, token: str = TOKEN) -> list[tuple[int, int, str]]:
    steps: list[tuple[int, int, str]] = []
    deploy(
        hv,
        hv.vm.id,
        settings=Settings.load(),
        authority_ca_pem="CA",
        token=token,
        tap_id="f" * 32,
        progress=lambda done, total, what: steps.append((done, total, what)),
    )
    return steps


def codes(hv: SandboxHypervisor) -> set[str]:
    return {problem.code for problem in probe(hv, hv.vm.id).problems}


def test_deploy_writes_the_agent_and_starts_it(hv: SandboxHypervisor) -> None:
    steps = put(hv)
    tree = hv.tree()
    assert tree[CONFIG][0] & 0o777 == 0o600
    config = json.loads(tree[CONFIG][1])
    assert (config["vm"], config["ca"], config["token"]) == ("f" * 32, "CA", TOKEN)
    assert config["appliance"] == "127.0.0.1:7810"
    assert config["disks"] == ["auto"]
    assert b"agent.pyz run" in tree[UNIT][1]
    assert [line.split()[0] for line in hv.services()] == ["daemon-reload", "enable", "restart", "is-active"]
    assert [done for done, _, _ in steps] == sorted(done for done, _, _ in steps)
    assert steps[-1][:2] == (100, 100)


def test_the_token_is_never_an_argument(hv: SandboxHypervisor) -> None:
    put(hv)
    assert not any(TOKEN in word for argv in hv.argv for word in argv)


def test_deploying_twice_leaves_one_agent_with_the_new_token(hv: SandboxHypervisor) -> None:
    put(hv)
    once = hv.tree()
    put(hv, token="another")
    assert hv.tree().keys() == once.keys()
    assert json.loads(hv.tree()[CONFIG][1])["token"] == "another"


def test_remove_leaves_the_guest_as_it_was(hv: SandboxHypervisor) -> None:
    before = hv.tree()
    put(hv)
    (hv.root / "var/lib/lastwrite-agent").mkdir()
    (hv.root / "var/lib/lastwrite-agent/key.pem").write_text("key")
    remove(hv, hv.vm.id)
    assert hv.tree() == before
    assert (hv.root / "removed").read_text() == "remove"
    remove(hv, hv.vm.id)
    assert hv.tree() == before


def test_remove_keeps_the_administrators_hooks(hv: SandboxHypervisor) -> None:
    put(hv)
    hook = hv.root / "etc/lastwrite/consistency.d/10-db"
    hook.parent.mkdir()
    hook.write_text("#!/bin/sh")
    remove(hv, hv.vm.id)
    assert hook.exists()


@pytest.mark.parametrize("path", ["agent.pyz", "agent.json", "lastwrite-agent.service"])
def test_a_failed_write_leaves_nothing(hv: SandboxHypervisor, path: str) -> None:
    before = hv.tree()
    hv.refused_path = path
    with pytest.raises(GuestFileError):
        put(hv)
    assert hv.tree() == before


def test_an_agent_that_does_not_start_leaves_nothing(hv: SandboxHypervisor) -> None:
    before = hv.tree()
    (hv.root / "agent-fails").touch()
    with pytest.raises(DeployFailedError, match="agent failed to start"):
        put(hv)
    (hv.root / "agent-fails").unlink()
    assert hv.tree() == before
    assert any(line.startswith("disable --now") for line in hv.services())


def test_a_failed_upgrade_puts_the_former_agent_back_and_starts_it(hv: SandboxHypervisor) -> None:
    put(hv, token="first")
    before = hv.tree()
    (hv.root / "agent-fails").touch()
    with pytest.raises(DeployFailedError):
        put(hv, token="second")
    (hv.root / "agent-fails").unlink()
    assert hv.tree() == before
    assert hv.services()[-1].startswith("restart")


def test_a_kernel_that_cannot_carry_the_tap_is_named_and_nothing_stays(hv: SandboxHypervisor) -> None:
    before = hv.tree()
    (hv.root / "kernel-unfit").touch()
    with pytest.raises(GuestUnsuitableError, match="web01: no ring buffer") as caught:
        put(hv)
    assert caught.value.details["problems"][0]["code"] == "bpf"
    (hv.root / "kernel-unfit").unlink()
    assert hv.tree() == before


def test_a_fit_guest_has_no_problems_and_probing_leaves_nothing(hv: SandboxHypervisor) -> None:
    before = hv.tree()
    report = probe(hv, hv.vm.id)
    assert report.ok
    assert report.facts["python_version"] >= (3, 8)
    assert hv.tree() == before


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NoGuestAgentChannelError("x"), "no-guest-agent"),
        (GuestAgentSilentError("x"), "no-guest-agent"),
        (GuestAgentRefusedError("x"), "guest-exec-disabled"),
        (NotCapableError("x"), "no-guest-exec"),
        (VmNotRunningError("x"), "vm-not-running"),
        (GuestAgentFailedError("x"), "not-linux"),
    ],
)
def test_each_way_of_not_reaching_the_guest_has_a_name(
    hv: SandboxHypervisor, error: LastwriteError, code: str
) -> None:
    hv.refused = error
    assert codes(hv) == {code}


@pytest.mark.parametrize(
    ("command", "text", "code"),
    [
        ("uname", 'case "$1" in -s) echo FreeBSD ;; *) echo 14.0 ;; esac', "not-linux"),
        ("uname", 'case "$1" in -s) echo Linux ;; *) echo 5.4.0-42-generic ;; esac', "kernel-too-old"),
        ("id", "echo 1000", "not-root"),
        ("df", "printf 'Filesystem\\nnone 1 1 2048 1%% /\\n'", "no-space"),
        ("python3", 'echo \'{"version": [3, 6], "ctypes": true, "ssl": true}\'', "python-too-old"),
        (
            "python3",
            'echo \'{"version": [3, 11], "ctypes": false, "ssl": true, "zlib": true, "json": true}\'',
            "python-incomplete",
        ),
    ],
)
def test_each_lack_of_the_guest_has_a_name(hv: SandboxHypervisor, command: str, text: str, code: str) -> None:
    hv.add_program(command, f"#!/bin/sh\n{text}\n")
    assert code in codes(hv)
    with pytest.raises(GuestUnsuitableError):
        put(hv)


def test_no_systemd_no_btf_and_lockdown_have_names(hv: SandboxHypervisor) -> None:
    (hv.root / "run/systemd/system").rmdir()
    (hv.root / "sys/kernel/btf/vmlinux").unlink()
    lockdown = hv.root / "sys/kernel/security/lockdown"
    lockdown.parent.mkdir()
    lockdown.write_text("none integrity [confidentiality]\n")
    assert {"no-systemd", "no-btf", "lockdown"} <= codes(hv)


def test_the_real_agent_answers_its_probe(tmp_path: Path) -> None:
    hv = SandboxHypervisor(tmp_path / "guest")
    report = probe(hv, hv.vm.id)
    # What it finds is this machine's affair; that it ran on the guest's interpreter is what is shown.
    assert all(problem.code and problem.what and problem.remedy for problem in report.problems)
    assert any(argv[-2:] == ["probe", "--json"] for argv in hv.argv)
