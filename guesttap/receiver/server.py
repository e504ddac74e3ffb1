"""Accepts the taps' connections: one thread each, bounded in number, strangers more so."""

from __future__ import annotations

import socket
import threading
import time

import structlog

from guesttap.authority import Authority
from guesttap.receiver.connection import Connection
from guesttap.receiver.registry import Registry
from lastwrite.address import Address
from lastwrite.errors import UnavailableError

MAX_CONNECTIONS = 512
MAX_STRANGERS = 32
"""Connections that have not shown yet who they are. Each is closed after 20 s at the latest."""
END_SECONDS = 15.0

log = structlog.get_logger()


class ListenError(UnavailableError):
    """The address for the taps cannot be listened on."""

    code = "cannot-listen"
    hint = "Another process may hold the port; `tap.listen` in the configuration names the address."


class TapServer:
    """Listens on `address` (port 0: any; see `address` afterwards). Raises ListenError."""

    def __init__(self, address: Address, authority: Authority, registry: Registry) -> None:
        self._authority = authority
        self._context = authority.server_context()
        self._registry = registry
        self._lock = threading.Lock()
        self._strangers = 0
        self._connections = 0
        self._stopping = False
        try:
            self._listener = socket.create_server(
                (address.host, address.port), backlog=128, family=_family(address), reuse_port=False
            )
        except OSError as error:
            raise ListenError(f"cannot listen on {address} for taps: {error}") from error
        self.address = Address(address.host, self._listener.getsockname()[1])

    def serve(self) -> None:
        """Accept connections until `stop`."""
        log.info("listening for taps", address=str(self.address))
        while not self._stopping:
            try:
                sock, peer = self._listener.accept()
            except OSError as error:
                if self._stopping:
                    return
                log.error("accepting a connection failed", reason=str(error))
                time.sleep(0.2)  # no descriptors, perhaps: let some be closed
                continue
            if not self._enter():
                log.warning("connection turned away: too many", peer=peer[0])
                sock.close()
                continue
            self._start(sock)

    def stop(self) -> None:
        """End `serve` and every session; what was received is written first."""
        self._stopping = True
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._listener.close()
        self._registry.end_all(END_SECONDS)

    def _enter(self) -> bool:
        with self._lock:
            if self._strangers >= MAX_STRANGERS or self._connections >= MAX_CONNECTIONS:
                return False
            self._strangers += 1
            self._connections += 1
            return True

    def _start(self, sock: socket.socket) -> None:
        try:
            threading.Thread(target=self._run, args=(sock,), name="connection", daemon=True).start()
        except RuntimeError as error:
            log.error("no thread for a connection", reason=str(error))
            sock.close()
            with self._lock:
                self._strangers -= 1
                self._connections -= 1

    def _run(self, sock: socket.socket) -> None:
        stranger = True

        def known() -> None:
            nonlocal stranger
            with self._lock:
                self._strangers -= stranger
                stranger = False

        try:
            Connection(sock, self._context, self._authority, self._registry, known).run()
        except Exception:  # a defect in one connection must not be silent, nor end the others
            log.exception("defect in a connection")
        finally:
            known()
            with self._lock:
                self._connections -= 1


def _family(address: Address) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address.host else socket.AF_INET
