"""The guest agent of one domain: commands, files, and why it refuses.

Everything crosses as JSON in libvirt messages of at most 4 MiB, so input is limited and files go in pieces.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Sequence
from typing import Any

import libvirt
import libvirt_qemu

from hypervisors.errors import (
    GuestAgentFailedError,
    GuestAgentRefusedError,
    GuestAgentSilentError,
    GuestExecTimeoutError,
    HypervisorRejectedError,
    NoGuestAgentChannelError,
    VmNotRunningError,
)
from hypervisors.kvm import domains
from hypervisors.kvm.errors import translate
from hypervisors.model import ExecResult, Power

COMMAND_TIMEOUT_S = 20
FIRST_PAUSE_S = 0.02
LONGEST_PAUSE_S = 0.5
MAX_STDIN = 2 << 20


class GuestAgent:
    """Talks to the guest agent of `domain`; `where` ("host: VM") begins every message.

    Raises VmNotRunningError, NoGuestAgentChannelError, GuestAgentSilentError, GuestAgentRefusedError or
    GuestAgentFailedError, whichever is the reason.
    """

    def __init__(self, domain: libvirt.virDomain, where: str) -> None:
        self._domain = domain
        self._where = where

    def command(self, name: str, *, timeout_s: int = COMMAND_TIMEOUT_S, **arguments: Any) -> Any:
        """Send one command of the agent's protocol and return its answer; `_` in names stands for `-`."""
        message: dict[str, Any] = {"execute": name}
        if arguments:
            message["arguments"] = {key.replace("_", "-"): value for key, value in arguments.items()}
        try:
            answer = libvirt_qemu.qemuAgentCommand(self._domain, json.dumps(message), timeout_s, 0)
        except libvirt.libvirtError as error:
            self._explain(error, name)
        return json.loads(answer)["return"]

    def require_channel(self) -> None:
        """Raise unless the domain runs and has a channel for an agent."""
        if domains.power(self._domain) is Power.OFF:
            raise VmNotRunningError(f"{self._where} is off, so its guest agent cannot be asked")
        if not domains.has_agent_channel(self._domain):
            raise NoGuestAgentChannelError(
                f"{self._where} has no guest agent channel ({domains.AGENT_CHANNEL})"
            )

    def ping(self, timeout_s: int) -> None:
        """Return when the agent answers within `timeout_s` seconds, else raise why not."""
        self.command("guest-ping", timeout_s=timeout_s)

    def run(self, argv: Sequence[str], stdin: bytes, timeout: float) -> ExecResult:
        """Run a command and wait `timeout` seconds for its end, else raise GuestExecTimeoutError."""
        if not argv:
            raise HypervisorRejectedError(f"{self._where}: a command needs at least its own name")
        if len(stdin) > MAX_STDIN:
            raise HypervisorRejectedError(
                f"{self._where}: {argv[0]}: {len(stdin)} bytes of input are more than {MAX_STDIN}",
                hint="Write the data into a file in the guest instead.",
            )
        given: dict[str, Any] = {"input_data": base64.b64encode(stdin).decode()} if stdin else {}
        started = self.command("guest-exec", path=argv[0], arg=list(argv[1:]), capture_output=True, **given)
        return self._await(argv[0], int(started["pid"]), timeout)

    def _await(self, program: str, pid: int, timeout: float) -> ExecResult:
        deadline, pause = time.monotonic() + timeout, FIRST_PAUSE_S
        while not (status := self.command("guest-exec-status", pid=pid))["exited"]:
            if time.monotonic() >= deadline:
                raise GuestExecTimeoutError(
                    f"{self._where}: {program}: not done after {timeout:g} s (process {pid} in the guest)",
                    pid=pid,
                )
            time.sleep(min(pause, max(0.0, deadline - time.monotonic())))
            pause = min(pause * 1.5, LONGEST_PAUSE_S)
        return ExecResult(
            rc=int(status["exitcode"]) if "exitcode" in status else -int(status.get("signal", 1)),
            out=base64.b64decode(status.get("out-data", "")),
            err=base64.b64decode(status.get("err-data", "")),
            truncated=bool(status.get("out-truncated") or status.get("err-truncated")),
        )

    def _explain(self, error: libvirt.libvirtError, name: str) -> None:
        """Raise the reason for which the command `name` failed."""
        code = error.get_error_code()
        if code not in (libvirt.VIR_ERR_AGENT_UNRESPONSIVE, libvirt.VIR_ERR_AGENT_UNSYNCED):
            self.require_channel()
        ours = translate(error, f"{self._where}: {name}")
        if code != libvirt.VIR_ERR_INTERNAL_ERROR:
            raise ours from error
        if name != "guest-info" and self._is_refused(name):
            raise GuestAgentRefusedError(
                f"{self._where}: its guest agent is configured not to run {name}", command=name
            ) from error
        raise GuestAgentFailedError(ours.message) from error

    def _is_refused(self, name: str) -> bool:
        """Ask the agent itself whether it has the command and lets us use it."""
        try:
            known = self.command("guest-info")["supported_commands"]
        except (GuestAgentFailedError, GuestAgentSilentError):
            return False
        return not any(command["name"] == name and command["enabled"] for command in known)
