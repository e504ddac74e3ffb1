"""The ingest socket: what other processes of the appliance may ask the receiver.

A unix socket of mode 0600. One request per connection: a JSON object in one line with `do` and its
arguments; the answer is one line: `{"ok": result}` or `{"error": ...}` as LastwriteError.to_dict makes it.
"""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from guesttap.receiver.registry import Registry
from lastwrite.catalog import VmRow
from lastwrite.errors import LastwriteError, UsageError
from lastwrite.ids import valid_name

MAX_LINE = 64 << 10
REQUEST_SECONDS = 30.0

log = structlog.get_logger()


class BadRequestError(UsageError):
    """A request on the ingest socket that makes no sense."""

    code = "bad-ingest-request"


class LocalServer:
    """Serves the ingest socket at `path` on a thread of its own."""

    def __init__(self, path: Path, registry: Registry) -> None:
        self._path = path
        path.unlink(missing_ok=True)
        self._server = _Server(path, Requests(registry))
        self._thread = threading.Thread(target=self._server.serve_forever, name="local", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Stop answering and remove the socket."""
        self._server.shutdown()
        self._server.server_close()
        self._path.unlink(missing_ok=True)


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 32

    def __init__(self, path: Path, requests: Requests) -> None:
        self.requests = requests
        super().__init__(str(path), _Handler, bind_and_activate=False)
        self.server_bind()
        path.chmod(0o600)  # before anybody can connect
        self.server_activate()


class _Handler(socketserver.StreamRequestHandler):
    timeout = 10.0
    server: _Server

    def handle(self) -> None:
        try:
            answer = {"ok": self.server.requests.answer(self.rfile.readline(MAX_LINE))}
        except LastwriteError as error:
            answer = {"error": error.to_dict() | {"exit_code": error.exit_code}}
        except Exception as error:
            log.exception("defect in a request of the ingest socket")
            answer = {"error": LastwriteError(f"the receiver failed: {error!r}").to_dict()}
        try:
            self.wfile.write(json.dumps(answer).encode() + b"\n")
        except OSError:
            log.info("nobody waited for an answer on the ingest socket")


class Requests:
    """What can be asked, each answered when it is durable."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._known: dict[str, Callable[[dict[str, Any]], Any]] = {
            "status": self._status,
            "mark": self._mark,
            "appshot": self._mark,
            "detach": self._detach,
            "bookmark": self._bookmark,
            "end": self._end,
        }

    def answer(self, line: bytes) -> Any:
        """Do what one request line asks and return its result. Raises LastwriteError."""
        try:
            request = json.loads(line)
        except ValueError as error:
            raise BadRequestError(f"not JSON: {error}") from None
        work = self._known.get(str(request.get("do"))) if isinstance(request, dict) else None
        if work is None:
            raise BadRequestError(f"do is none of {', '.join(self._known)}")
        return work(request)

    def _status(self, _request: dict[str, Any]) -> dict[str, Any]:
        rows = self._registry.catalog.vms()
        return {row.id: {"name": row.name} | self._registry.status(row).as_dict() for row in rows}

    def _mark(self, request: dict[str, Any]) -> dict[str, Any]:
        label = request.get("label")
        if label is not None:
            label = valid_name(str(label), "bookmark")
        seconds = _seconds(request)
        session = self._registry.live_session(self._row(request))
        kind = "bookmark" if request["do"] == "mark" else "appshot"
        return session.request(request["do"], label, kind, seconds)

    def _detach(self, request: dict[str, Any]) -> dict[str, Any]:
        seconds = _seconds(request)
        return self._registry.live_session(self._row(request)).request("detach", None, None, seconds)

    def _bookmark(self, request: dict[str, Any]) -> None:
        row, lsn = self._row(request), request.get("lsn")
        name = valid_name(str(request.get("name")), "bookmark")
        if type(lsn) is not int or lsn < 0:
            raise BadRequestError("lsn is not a number")
        # Under the admission lock no session can begin between the look and the change.
        with self._registry.admission(row.id):
            session = self._registry.session(row.id)
            if session is not None and not session.finished.is_set():
                session.bookmark(lsn, name)
                return
            with self._registry.idle_journal(row) as journal:
                journal.bookmark(lsn, name)

    def _end(self, request: dict[str, Any]) -> None:
        """End a VM's session whatever its tap does. Under the admission lock: no other begins meanwhile."""
        row = self._row(request)
        with self._registry.admission(row.id):
            self._registry.end_session(row.id, "the protection of this VM was ended")

    def _row(self, request: dict[str, Any]) -> VmRow:
        return self._registry.catalog.vm(str(request.get("vm")))


def _seconds(request: dict[str, Any]) -> float:
    seconds = request.get("seconds", REQUEST_SECONDS)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= 3600:
        raise BadRequestError("seconds is not a number from 0 to 3600")
    return float(seconds)
