"""The ingest process as its neighbours see it: requests over its unix socket (guesttap/receiver/local.py)."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from guesttap.receiver.errors import IngestUnavailableError, TapNotConnectedError, TapRequestFailedError
from lastwrite.errors import LastwriteError, all_errors

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 30.0
_MARGIN_SECONDS = 10.0

__all__ = ["IngestClient", "IngestUnavailableError", "TapNotConnectedError", "TapRequestFailedError"]


class IngestClient:
    """Asks the receiver behind `socket_path`. One connection per request; safe for several threads.

    Every method raises IngestUnavailableError when nobody answers, and the receiver's own error otherwise:
    UnknownVmError, TapNotConnectedError, TapRequestFailedError, JournalBusy and others. `vm` is a name or id.
    """

    def __init__(self, socket_path: Path) -> None:
        self._path = socket_path

    def status(self) -> dict[str, dict[str, Any]]:
        """Return the status of every VM of the catalog by id (bytes, ns and ms as the keys say)."""
        return dict(self._ask({"do": "status"}, ANSWER_SECONDS))

    def mark(self, vm: str, label: str | None, seconds: float = ANSWER_SECONDS) -> dict[str, Any]:
        """Set a bookmark now; returns lsn, number, wall (ns), mono, consistency once it is durable."""
        return dict(self._ask({"do": "mark", "vm": vm, "label": label, "seconds": seconds}, seconds))

    def appshot(self, vm: str, label: str | None, seconds: float = 60.0) -> dict[str, Any]:
        """Set an application-consistent cut now; returns as `mark`, and frozen (ns) and messages."""
        return dict(self._ask({"do": "appshot", "vm": vm, "label": label, "seconds": seconds}, seconds))

    def detach(self, vm: str, seconds: float = ANSWER_SECONDS) -> dict[str, Any]:
        """Have the tap detach itself in the guest."""
        return dict(self._ask({"do": "detach", "vm": vm, "seconds": seconds}, seconds))

    def end(self, vm: str) -> None:
        """End the VM's session, whatever its tap does, and wait until its journal is free.

        Raises TapNotConnectedError when the journal is still being written.
        """
        self._ask({"do": "end", "vm": vm}, ANSWER_SECONDS)

    def bookmark(self, vm: str, lsn: int, name: str) -> None:
        """Give a name to a point of the past."""
        self._ask({"do": "bookmark", "vm": vm, "lsn": lsn, "name": name}, ANSWER_SECONDS)

    def _ask(self, request: dict[str, Any], seconds: float) -> Any:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(CONNECT_SECONDS)
                connection.connect(str(self._path))
                connection.settimeout(seconds + _MARGIN_SECONDS)
                connection.sendall(json.dumps(request).encode() + b"\n")
                with connection.makefile("rb") as stream:
                    answer = json.loads(stream.readline())
        except (OSError, ValueError) as error:
            raise IngestUnavailableError(
                f"the ingest process does not answer on {self._path}: {error}"
            ) from None
        if "error" in answer:
            raise _rebuilt(answer["error"])
        return answer.get("ok")


def _rebuilt(said: dict[str, Any]) -> LastwriteError:
    """Return the receiver's error as an object of its own class."""
    code = str(said.get("code"))
    kinds = {kind.code: kind for kind in all_errors()}
    error = LastwriteError.__new__(kinds.get(code, LastwriteError))
    LastwriteError.__init__(error, str(said.get("message")), hint=said.get("hint"))
    error.code, error.exit_code = code, int(said.get("exit_code", error.exit_code))
    error.details = dict(said.get("details") or {})
    return error
