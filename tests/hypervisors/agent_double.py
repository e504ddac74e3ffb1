"""A double of our own for a guest agent: the commands that the adapter uses, done on this machine.

It follows the protocol of qemu-ga (names, base64, handles, partial writes); commands and files are real, and
run here. It does not show how libvirt carries the messages: test_kvm_guest.py does, with the real one.
"""

from __future__ import annotations

import base64
import json
import subprocess
from typing import IO, Any

import libvirt

from hypervisors.kvm.domains import AGENT_CHANNEL
from tests.hypervisors.libvirt_doubles import failure

COMMANDS = (
    "guest-ping",
    "guest-info",
    "guest-exec",
    "guest-exec-status",
    "guest-file-open",
    "guest-file-read",
    "guest-file-write",
    "guest-file-flush",
    "guest-file-close",
)


class AgentDouble:
    """Stands for `libvirt_qemu.qemuAgentCommand` and for the domain that it is called with."""

    def __init__(self) -> None:
        self.disabled: set[str] = set()
        self.silent = False
        self.channel = True
        self.state = libvirt.VIR_DOMAIN_RUNNING
        self.most_per_write = 1 << 30
        self.room: int | None = None  # bytes that can be written before the guest's disk is full
        self.sent: list[str] = []
        self._files: dict[int, IO[bytes]] = {}
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._inputs: dict[int, bytes] = {}

    def XMLDesc(self, _flags: int) -> str:  # noqa: N802 (libvirt's name)
        name = AGENT_CHANNEL if self.channel else "org.example.other"
        return f"<domain><devices><channel><target type='virtio' name='{name}'/></channel></devices></domain>"

    def state_of(self) -> list[int]:
        return [self.state, 0]

    def __call__(self, _domain: object, message: str, _timeout: int, _flags: int) -> str:
        request = json.loads(message)
        name = request["execute"]
        self.sent.append(message)
        if self.state == libvirt.VIR_DOMAIN_SHUTOFF:
            raise failure(
                libvirt.VIR_ERR_OPERATION_INVALID, "Requested operation is not valid: domain is not running"
            )
        if not self.channel:
            raise failure(libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED, "QEMU guest agent is not configured")
        if self.silent:
            raise failure(libvirt.VIR_ERR_AGENT_UNRESPONSIVE, "QEMU guest agent is not connected")
        if name in self.disabled:
            self._fail(name, f"Command {name} has been disabled: the command is not allowed")
        action = getattr(self, "_" + name.replace("-", "_"))
        return json.dumps(
            {"return": action(**{k.replace("-", "_"): v for k, v in request.get("arguments", {}).items()})}
        )

    def _fail(self, name: str, why: str) -> None:
        raise failure(
            libvirt.VIR_ERR_INTERNAL_ERROR,
            f"internal error: unable to execute QEMU agent command '{name}': {why}",
        )

    def _guest_ping(self) -> dict[str, Any]:
        return {}

    def _guest_info(self) -> dict[str, Any]:
        known = [{"name": name, "enabled": name not in self.disabled} for name in COMMANDS]
        return {"version": "7.2.0", "supported_commands": known}

    def _guest_exec(
        self, path: str, arg: list[str], capture_output: bool, input_data: str = ""
    ) -> dict[str, int]:
        assert capture_output
        try:
            process = subprocess.Popen(
                [path, *arg], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        except OSError as error:
            self._fail("guest-exec", f"Failed to execute child process “{path}” ({error.strerror})")
            raise AssertionError from error
        self._processes[process.pid] = process
        self._inputs[process.pid] = base64.b64decode(input_data)
        return {"pid": process.pid}

    def _guest_exec_status(self, pid: int) -> dict[str, Any]:
        process = self._processes[pid]
        try:
            out, err = process.communicate(self._inputs.pop(pid, None) or None, timeout=0.01)
        except subprocess.TimeoutExpired:
            return {"exited": False}
        rc = process.returncode
        answer: dict[str, Any] = {"exited": True, **({"signal": -rc} if rc < 0 else {"exitcode": rc})}
        for key, data in (("out-data", out), ("err-data", err)):
            if data:
                answer[key] = base64.b64encode(data).decode()
        return answer

    def _guest_file_open(self, path: str, mode: str) -> int:
        try:
            file = open(path, mode + "b", buffering=0)  # noqa: SIM115 (closed by guest-file-close)
        except OSError as error:
            self._fail("guest-file-open", f"failed to open file '{path}' (mode: '{mode}'): {error.strerror}")
            raise AssertionError from error
        self._files[file.fileno()] = file
        return file.fileno()

    def _guest_file_read(self, handle: int, count: int) -> dict[str, Any]:
        data = self._files[handle].read(count)
        return {"count": len(data), "buf-b64": base64.b64encode(data).decode(), "eof": len(data) < count}

    def _guest_file_write(self, handle: int, buf_b64: str) -> dict[str, Any]:
        data = base64.b64decode(buf_b64)[: self.most_per_write]
        if self.room is not None:
            self.room -= len(data)
            if self.room < 0:
                self._fail("guest-file-write", "failed to write to file: No space left on device")
        return {"count": self._files[handle].write(data), "eof": False}

    def _guest_file_flush(self, handle: int) -> dict[str, Any]:
        self._files[handle].flush()
        return {}

    def _guest_file_close(self, handle: int) -> dict[str, Any]:
        self._files.pop(handle).close()
        return {}

    def end(self) -> None:
        """End the commands that still run, and close what is open."""
        for process in self._processes.values():
            process.kill()
            process.communicate()
        for file in self._files.values():
            file.close()

    @property
    def open_files(self) -> int:
        return len(self._files)
