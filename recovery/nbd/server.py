"""The server: listens, gives each connection a thread, and ends all of them when told to.

Nothing that a client sends ends more than that client's own connection.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import structlog

from lastwrite.address import parse_address
from recovery.errors import ServerFailed
from recovery.nbd.exports import ExportSource
from recovery.nbd.link import Link, LinkClosed
from recovery.nbd.negotiation import Negotiation
from recovery.nbd.transmission import Transmission

MAX_CONNECTIONS = 256
HANDSHAKE_SECONDS = 30.0
STOP_SECONDS = 5.0
_BACKLOG = 128

log = structlog.get_logger("recovery.nbd")


class NbdServer:
    """Serves the exports of a source on one TCP address ("host:port", port 0 for any free one)."""

    def __init__(
        self,
        listen: str,
        source: ExportSource,
        *,
        max_connections: int = MAX_CONNECTIONS,
        handshake_seconds: float = HANDSHAKE_SECONDS,
    ) -> None:
        self._listen = listen
        self._source = source
        self._max_connections = max_connections
        self._handshake_seconds = handshake_seconds
        self._socket: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        self._lock = threading.Lock()
        self._open: dict[socket.socket, threading.Thread] = {}
        self._stopping = False

    @property
    def address(self) -> tuple[str, int]:
        """(host, port) that it listens on."""
        if self._socket is None:
            raise ServerFailed(f"the NBD server for {self._listen} is not running")
        name = self._socket.getsockname()
        return str(name[0]), int(name[1])

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        with self._lock:
            return len(self._open)

    def start(self) -> None:
        """Listen, and answer from threads of its own. Raises ServerFailed."""
        try:
            address = parse_address(self._listen)
            family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
            self._socket = socket.create_server(tuple(address), family=family, backlog=_BACKLOG)
        except (OSError, ValueError) as error:
            raise ServerFailed(f"the NBD server cannot listen on {self._listen!r}: {error}") from error
        self._acceptor = threading.Thread(target=self._accept, name="nbd-accept", daemon=True)
        self._acceptor.start()

    def stop(self) -> None:
        """Close the listener and every connection, and wait (at most 5 s) until their threads have ended."""
        self._stopping = True
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
        if self._acceptor is not None:
            self._acceptor.join(STOP_SECONDS)
        with self._lock:
            running = dict(self._open)
            for sock in running:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        ends = time.monotonic() + STOP_SECONDS
        for thread in running.values():
            thread.join(max(0.0, ends - time.monotonic()))

    def __enter__(self) -> NbdServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _accept(self) -> None:
        assert self._socket is not None
        while not self._stopping:
            try:
                sock, peer = self._socket.accept()
            except OSError as error:
                if self._stopping:
                    return
                log.warning("accept failed", reason=str(error))
                time.sleep(0.1)  # out of file descriptors: some connection must end first
                continue
            self._begin(sock, f"{peer[0]}:{peer[1]}")

    def _begin(self, sock: socket.socket, peer: str) -> None:
        thread = threading.Thread(target=self._serve, args=(sock, peer), name=f"nbd-{peer}", daemon=True)
        with self._lock:
            if self._stopping or len(self._open) >= self._max_connections:
                log.warning("connection refused", peer=peer, limit=self._max_connections)
                sock.close()
                return
            self._open[sock] = thread
        try:
            thread.start()
        except RuntimeError as error:
            log.warning("connection refused", peer=peer, reason=str(error))
            self._forget(sock)

    def _forget(self, sock: socket.socket) -> None:
        with self._lock:
            self._open.pop(sock, None)
        sock.close()

    def _serve(self, sock: socket.socket, peer: str) -> None:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self._talk(Link(sock), peer)
        except LinkClosed as closed:
            log.debug("connection ended", peer=peer, reason=str(closed))
        except OSError as error:
            log.info("connection ended", peer=peer, reason=str(error))
        except Exception:
            log.exception("connection ended by a defect", peer=peer)
        finally:
            self._forget(sock)

    def _talk(self, link: Link, peer: str) -> None:
        link.set_deadline(self._handshake_seconds)
        session = Negotiation(link, self._source).run()
        if session is None:
            return
        link.set_deadline(None)
        log.info("export opened", peer=peer, export=session.export.name, point=session.export.description)
        Transmission(link, session, peer).run()
