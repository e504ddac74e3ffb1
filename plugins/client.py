"""The client of the control process: REST over its unix socket.

An error that the server reports is raised here with the same code, message, hint and exit status.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import httpx

from lastwrite.catalog_tables import UnknownHypervisorError, UnknownVmError
from lastwrite.errors import LastwriteError
from lastwrite.ids import is_name
from plugins.errors import CommandLineError, NoServerError, ServerLostError
from plugins.lock import is_held
from plugins.models import Result

UNKNOWN = {
    "vms": (UnknownVmError, "no protected VM is named", "`lastwrite status` lists them."),
    "hypervisors": (
        UnknownHypervisorError,
        "no hypervisor is named",
        "`lastwrite hypervisor list` lists them.",
    ),
}

R = TypeVar("R", bound=Result)
Event = dict[str, Any]

CONNECT_S = 5.0
STARTING_S = 15.0
ANSWER_S = 120.0  # one question, hypervisors asked on the way among them
SILENCE_S = 60.0  # between two events of a stream: the server sends one every few seconds


class ControlClient:
    """Talks to the server whose socket is at `path`. A context manager: entering raises NoServerError."""

    def __init__(self, path: Path) -> None:
        self.socket = path
        transport = httpx.HTTPTransport(uds=str(path))
        timeout = httpx.Timeout(ANSWER_S, connect=CONNECT_S)
        self._http = httpx.Client(transport=transport, base_url="http://lastwrite", timeout=timeout)

    def __enter__(self) -> ControlClient:
        # The HTTP library leaves a socket open when it cannot connect; and this error is the more precise one.
        deadline = time.monotonic() + STARTING_S
        while True:
            try:
                require_server(self.socket)
                return self
            except NoServerError:
                # One that was started a moment ago holds the lock already, and answers soon.
                if not is_held(self.socket.parent) or time.monotonic() > deadline:
                    raise
            time.sleep(0.1)

    def __exit__(self, *_exc: object) -> None:
        self._http.close()

    def ask(self, kind: type[R], method: str, path: str, *, params: Any = None, body: Any = None) -> R:
        """Return the answer to one request as a `kind`. Raises NoServerError, ServerLostError."""
        try:
            response = self._http.request(method, path, params=params, json=body)
        except httpx.TransportError as error:
            raise self._lost(error) from None
        if response.is_error:
            raise _error_of(response)
        return kind.model_validate_json(response.content)

    def stream(self, path: str, body: Any) -> Generator[Event, None, None]:
        """Yield the events of a long operation, the one with the result last. Raises as `ask`."""
        timeout = httpx.Timeout(SILENCE_S, connect=CONNECT_S)
        try:
            with self._http.stream("POST", path, json=body, timeout=timeout) as response:
                if response.is_error:
                    response.read()
                    raise _error_of(response)
                for line in response.iter_lines():
                    event: Event = json.loads(line)
                    if event["event"] == "error":
                        raise remote_error(event["error"])
                    yield event
                    if event["event"] == "result":
                        return
        except httpx.TransportError as error:
            raise self._lost(error) from None
        raise ServerLostError(f"the server at {self.socket} ended in the middle of the operation")

    def _lost(self, error: httpx.TransportError) -> LastwriteError:
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return NoServerError(f"no server is running at {self.socket}")
        return ServerLostError(
            f"the server at {self.socket} stopped answering: {error or type(error).__name__}"
        )


def address(kind: str, name: str, *rest: str) -> str:
    """Return the address of a thing of a `kind` (vms or hypervisors) with this name, as a user wrote it.

    Raises CommandLineError for no name at all, UnknownVmError or UnknownHypervisorError for what cannot be one:
    it must not lead to another address.
    """
    if not name:
        raise CommandLineError("an empty name was given", hint="Name what is meant.")
    if not is_name(name):
        error, words, hint = UNKNOWN[kind]
        raise error(f"{words} {name!r}", hint=hint, name=name)
    return "/".join(["/v1", kind, quote(name, safe=""), *rest])


def require_server(path: Path) -> None:
    """Raise NoServerError when nobody accepts connections at `path`, saying why."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(CONNECT_S)
        try:
            probe.connect(str(path))
        except PermissionError:
            hint = "Use the account that the server runs as: whoever can use the socket can do everything."
            raise NoServerError(
                f"the server's socket {path} may not be used by this user", hint=hint
            ) from None
        except OSError:
            raise NoServerError(f"no server is running at {path}") from None


def remote_error(body: Any) -> LastwriteError:
    """Return the error that the server put into `body`, with its own code and exit status."""
    error = LastwriteError(str(body["message"]), hint=str(body["hint"]), **body.get("details", {}))
    error.code = str(body["code"])
    error.exit_code = int(body["exit_code"])
    return error


def _error_of(response: httpx.Response) -> LastwriteError:
    try:
        return remote_error(response.json())
    except (ValueError, KeyError, TypeError):
        return ServerLostError(f"the server gave an answer without a meaning (HTTP {response.status_code})")
