"""Control of a guest through the agent in it: run a command, read a file, write a file."""

from __future__ import annotations

import base64
import contextlib
import json
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import libvirt
import libvirt_qemu

from lab.errors import GuestAgentError, LabNotFoundError, LabTimeoutError

# Bytes of a file per agent command. Small on purpose: commands of 128 KiB went through; at 256 KiB qemu-ga 7.2
# answered "JSON parse error" after 14 s, and at 512 KiB it never answered anything again.
CHUNK = 64 << 10


class Outcome(NamedTuple):
    """What a command in a guest ended with: `rc` (128 + N after signal N), `out` and `err` as text."""

    rc: int
    out: str
    err: str


class GuestAgent:
    """The guest agent of one running libvirt domain."""

    def __init__(self, domain: libvirt.virDomain, name: str) -> None:
        self._domain = domain
        self._name = name

    def answers(self) -> bool:
        """Tell whether the agent answers within a second."""
        try:
            self.command("guest-ping", timeout_s=1)
        except GuestAgentError:
            return False
        return True

    def command(self, execute: str, *, timeout_s: int = 10, **arguments: Any) -> Any:
        """Send one agent command and return its `return` value; raises GuestAgentError."""
        message: dict[str, Any] = {"execute": execute}
        if arguments:
            message["arguments"] = {key.replace("_", "-"): value for key, value in arguments.items()}
        try:
            answer = libvirt_qemu.qemuAgentCommand(self._domain, json.dumps(message), timeout_s, 0)
        except libvirt.libvirtError as error:
            raise GuestAgentError(f"guest {self._name}: {execute}: {error.get_error_message()}") from None
        return json.loads(answer)["return"]

    def exec(self, command: str | Sequence[str], *, timeout_s: float = 60, stdin: bytes = b"") -> Outcome:
        """Run `command` as root in the guest (a string through /bin/sh) and wait for its end.

        Raises LabTimeoutError after `timeout_s` seconds (the command then goes on in the guest).
        """
        argv = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
        given: dict[str, Any] = {"input_data": base64.b64encode(stdin).decode()} if stdin else {}
        pid = self.command("guest-exec", path=argv[0], arg=argv[1:], capture_output=True, **given)["pid"]
        deadline, pause = time.monotonic() + timeout_s, 0.02
        while not (status := self.command("guest-exec-status", pid=pid))["exited"]:
            if time.monotonic() > deadline:
                raise LabTimeoutError(f"guest {self._name}: {command!r}: not done after {timeout_s:.0f} s")
            time.sleep(pause)
            pause = min(pause * 1.5, 0.3)
        return Outcome(
            status.get("exitcode", 128 + status.get("signal", 0)),
            _text(status, "out-data"),
            _text(status, "err-data"),
        )

    def check(self, command: str | Sequence[str], *, timeout_s: float = 60, stdin: bytes = b"") -> str:
        """Run `command` as `exec` does and return its output; raises GuestAgentError unless it ends 0."""
        done = self.exec(command, timeout_s=timeout_s, stdin=stdin)
        if done.rc != 0:
            tail = (done.err.strip() or done.out.strip())[-500:]
            raise GuestAgentError(f"guest {self._name}: {command!r}: exit status {done.rc}: {tail}")
        return done.out

    def read_file(self, path: str) -> bytes:
        """Return the content of a file in the guest; raises LabNotFoundError when it cannot be opened."""
        handle = self._open(path, "r")
        content = bytearray()
        try:
            while True:
                part = self.command("guest-file-read", handle=handle, count=CHUNK)
                content += base64.b64decode(part["buf-b64"])
                if part["eof"]:
                    return bytes(content)
        finally:
            self._close_quietly(handle)

    def write_file(self, path: str, content: bytes, *, mode: int | None = None) -> None:
        """Write `content` to a file in the guest, whole, and give it the permission bits `mode`."""
        handle = self._open(path, "w")
        try:
            for start in range(0, len(content), CHUNK):
                self._write_part(handle, path, content[start : start + CHUNK])
        except BaseException:
            self._close_quietly(handle)
            raise
        self.command("guest-file-close", handle=handle)  # flushes: a full disk may show only here
        if mode is not None:
            self.check(["chmod", f"{mode:o}", path])

    def _open(self, path: str, mode: str) -> int:
        try:
            return int(self.command("guest-file-open", path=path, mode=mode))
        except GuestAgentError as error:
            if "No such file" in error.message or "failed to open" in error.message:
                raise LabNotFoundError(
                    f"guest {self._name}: {path}: cannot be opened: {error.message}"
                ) from None
            raise

    def _write_part(self, handle: int, path: str, part: bytes) -> None:
        encoded = base64.b64encode(part).decode()
        written = self.command("guest-file-write", timeout_s=30, handle=handle, buf_b64=encoded)["count"]
        if written != len(part):
            raise GuestAgentError(f"guest {self._name}: {path}: {written} of {len(part)} bytes were written")

    def _close_quietly(self, handle: int) -> None:
        """Close after an error, or after reading, where a second error would only hide the first."""
        with contextlib.suppress(GuestAgentError):
            self.command("guest-file-close", handle=handle)


def _text(status: dict[str, Any], key: str) -> str:
    return base64.b64decode(status.get(key, "")).decode(errors="replace")
