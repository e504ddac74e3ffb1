"""What the adapter makes of a guest agent: commands, files, and each reason for which it does not work.

Against our double of the agent (agent_double.py).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import libvirt
import libvirt_qemu
import pytest

from hypervisors import errors
from hypervisors.kvm import guest_files
from hypervisors.kvm.agent import MAX_STDIN, GuestAgent
from lastwrite.errors import UnavailableError, UnsupportedError
from tests.hypervisors.agent_double import AgentDouble


class Domain:
    """As much of a libvirt domain as the agent's module looks at."""

    def __init__(self, double: AgentDouble) -> None:
        self.XMLDesc = double.XMLDesc
        self.state = double.state_of


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[AgentDouble]:
    made = AgentDouble()
    monkeypatch.setattr(libvirt_qemu, "qemuAgentCommand", made)
    yield made
    made.end()


@pytest.fixture
def agent(double: AgentDouble) -> GuestAgent:
    return GuestAgent(Domain(double), "k1: web01")


def test_command_gives_status_output_and_errors(agent: GuestAgent) -> None:
    done = agent.run(["/bin/sh", "-c", "cat; echo oops >&2; exit 3"], b"in\0put", 10)
    assert (done.rc, done.out, done.err, done.truncated) == (3, b"in\0put", b"oops\n", False)


def test_command_ended_by_a_signal_has_a_negative_status(agent: GuestAgent) -> None:
    assert agent.run(["/bin/sh", "-c", "kill -9 $$"], b"", 10).rc == -9


def test_arguments_reach_the_command_as_they_are(agent: GuestAgent) -> None:
    assert agent.run(["printf", "%s|", "a b", "$HOME", "';"], b"", 10).out == b"a b|$HOME|';|"


def test_command_that_does_not_end_is_a_timeout_with_its_process_id(agent: GuestAgent) -> None:
    with pytest.raises(errors.GuestExecTimeoutError, match=r"sleep: not done after 0\.1 s") as caught:
        agent.run(["sleep", "60"], b"", 0.1)
    assert str(caught.value.details["pid"]) in caught.value.message


def test_command_that_does_not_exist_is_a_failure_and_not_a_refusal(agent: GuestAgent) -> None:
    with pytest.raises(errors.GuestAgentFailedError, match="No such file"):
        agent.run(["/no/such/program"], b"", 1)


def test_too_much_input_is_refused_before_anything_is_sent(agent: GuestAgent, double: AgentDouble) -> None:
    with pytest.raises(errors.HypervisorRejectedError, match="input"):
        agent.run(["cat"], bytes(MAX_STDIN + 1), 1)
    with pytest.raises(errors.HypervisorRejectedError):
        agent.run([], b"", 1)
    assert double.sent == []


def test_missing_channel_silent_agent_refusal_and_power_off_are_told_apart(
    agent: GuestAgent, double: AgentDouble
) -> None:
    def code() -> str:
        with pytest.raises((UnavailableError, UnsupportedError)) as caught:
            agent.run(["true"], b"", 1)
        assert "web01" in caught.value.message and caught.value.hint
        return caught.value.code

    double.disabled = {"guest-exec"}
    assert code() == "guest-agent-refused"
    double.silent = True
    assert code() == "guest-agent-silent"
    double.channel = False
    assert code() == "no-guest-agent-channel"
    double.state = libvirt.VIR_DOMAIN_SHUTOFF
    assert code() == "vm-not-running"


def test_blocked_file_calls_are_a_refusal(agent: GuestAgent, double: AgentDouble) -> None:
    double.disabled = {"guest-file-open"}
    with pytest.raises(errors.GuestAgentRefusedError, match="guest-file-open"):
        guest_files.read(agent, "k1: web01", "/etc/hostname")


@pytest.mark.parametrize("length", [0, 1, guest_files.CHUNK, guest_files.CHUNK * 2 + 5])
def test_file_is_written_with_its_mode_and_read_back(agent: GuestAgent, tmp_path: Path, length: int) -> None:
    data, path = os.urandom(length), tmp_path / "a key"
    steps: list[tuple[int, int]] = []
    guest_files.write(
        agent, "k1: web01", str(path), data, 0o640, lambda done, total: steps.append((done, total))
    )
    assert path.read_bytes() == data == guest_files.read(agent, "k1: web01", str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert list(tmp_path.iterdir()) == [path]
    assert not length or (steps[-1] == (length, length) and steps == sorted(steps))


def test_short_writes_are_continued(agent: GuestAgent, double: AgentDouble, tmp_path: Path) -> None:
    double.most_per_write = 1000
    data = os.urandom(4567)
    guest_files.write(agent, "k1: web01", str(tmp_path / "f"), data, 0o600, None)
    assert (tmp_path / "f").read_bytes() == data


def test_full_disk_leaves_the_old_file_and_nothing_else(
    agent: GuestAgent, double: AgentDouble, tmp_path: Path
) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")
    double.room = guest_files.CHUNK
    with pytest.raises(errors.GuestFileError, match="No space left"):
        guest_files.write(agent, "k1: web01", str(path), bytes(guest_files.CHUNK * 3), 0o600, None)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    assert double.open_files == 0


def test_content_is_never_readable_by_others_and_never_in_arguments(
    agent: GuestAgent, double: AgentDouble, tmp_path: Path
) -> None:
    modes: list[int] = []

    def look(_done: int, _total: int) -> None:
        modes.extend(stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir())

    guest_files.write(agent, "k1: web01", str(tmp_path / "f"), b"SECRET-TOKEN", 0o600, look)
    assert modes == [0o600]
    commands = [message for message in double.sent if '"guest-exec"' in message]
    assert len(commands) == 2 and not any("SECRET-TOKEN" in message for message in commands)


@pytest.mark.parametrize("path", ["relative", "/ends/in/", "/no/such/folder/f"])
def test_file_that_cannot_be_written_is_named(agent: GuestAgent, path: str) -> None:
    with pytest.raises(errors.GuestFileError, match=path):
        guest_files.write(agent, "k1: web01", path, b"x", 0o600, None)


def test_file_that_cannot_be_read_is_named(agent: GuestAgent, tmp_path: Path) -> None:
    with pytest.raises(errors.GuestFileError, match="no-such-file"):
        guest_files.read(agent, "k1: web01", str(tmp_path / "no-such-file"))
