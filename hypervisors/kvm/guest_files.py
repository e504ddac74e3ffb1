"""Files in a guest, through its agent: read in pieces, written beside their place and renamed into it."""

from __future__ import annotations

import base64
import contextlib
import posixpath
import secrets
from collections.abc import Sequence

from hypervisors.errors import GuestAgentFailedError, GuestFileError
from hypervisors.kvm.agent import GuestAgent
from hypervisors.model import Progress
from lastwrite.errors import LastwriteError

CHUNK = 48 << 10
SHELL_TIMEOUT_S = 30.0

# Made empty and private first: what is written may be a key. -C refuses to follow a link laid in the way.
MAKE_PRIVATE = 'umask 077 && set -C && : >"$1"'
MOVE_INTO_PLACE = 'chmod "$1" "$2" && mv -f "$2" "$3"'


def write(
    agent: GuestAgent, where: str, path: str, data: bytes, mode: int, progress: Progress | None
) -> None:
    """Write `data` to `path` with the permission bits `mode`; at any failure the old file stays as it was.

    Needs /bin/sh in the guest. Raises GuestFileError.
    """
    if not posixpath.isabs(path) or path.endswith("/"):
        raise GuestFileError(f"{where}: {path!r} is not the absolute path of a file")
    draft = f"{path}.{secrets.token_hex(4)}.part"
    _shell(agent, where, path, MAKE_PRIVATE, [draft])
    try:
        _send(agent, draft, data, progress)
        _shell(agent, where, path, MOVE_INTO_PLACE, [f"{mode:04o}", draft, path])
    except BaseException as error:
        with contextlib.suppress(LastwriteError):
            agent.run(["rm", "-f", draft], b"", SHELL_TIMEOUT_S)
        if isinstance(error, GuestAgentFailedError):
            raise GuestFileError(f"{where}: {path} cannot be written: {error.message}") from error
        raise


def read(agent: GuestAgent, where: str, path: str) -> bytes:
    """Return the content of `path`; raises GuestFileError."""
    content = bytearray()
    try:
        handle = agent.command("guest-file-open", path=path, mode="r")
        try:
            ended = False
            while not ended:
                part = agent.command("guest-file-read", handle=handle, count=CHUNK)
                content += base64.b64decode(part["buf-b64"])
                ended = part["eof"]
        finally:
            _close(agent, handle)
    except GuestAgentFailedError as error:
        raise GuestFileError(f"{where}: {path} cannot be read: {error.message}") from error
    return bytes(content)


def _send(agent: GuestAgent, path: str, data: bytes, progress: Progress | None) -> None:
    handle = agent.command("guest-file-open", path=path, mode="w")
    try:
        done = 0
        while done < len(data):
            part = base64.b64encode(data[done : done + CHUNK]).decode()
            done += int(agent.command("guest-file-write", handle=handle, buf_b64=part)["count"])
            if progress:
                progress(done, len(data))
        agent.command("guest-file-flush", handle=handle)
    finally:
        _close(agent, handle)


def _close(agent: GuestAgent, handle: int) -> None:
    with contextlib.suppress(LastwriteError):  # nothing depends on it: what is written was flushed
        agent.command("guest-file-close", handle=handle)


def _shell(agent: GuestAgent, where: str, path: str, script: str, arguments: Sequence[str]) -> None:
    done = agent.run(["/bin/sh", "-c", script, "sh", *arguments], b"", SHELL_TIMEOUT_S)
    if done.rc != 0:
        reason = done.err.decode(errors="replace").strip()[-300:]
        raise GuestFileError(f"{where}: {path} cannot be written: {reason or f'exit status {done.rc}'}")
