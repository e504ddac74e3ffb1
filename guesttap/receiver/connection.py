"""One connection from its handshake on: who is it, and what may it ask."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

import structlog

from guesttap.authority import Authority
from guesttap.channel import Channel, ChannelClosed
from guesttap.protocol import Message, ProtocolError
from guesttap.receiver.admission import admit, enrol
from guesttap.receiver.buffers import BufferPool
from guesttap.receiver.errors import NotEnrolledError
from guesttap.receiver.registry import Registry
from guesttap.receiver.session import error_message
from guesttap.receiver.tls import TlsSocket
from lastwrite.errors import LastwriteError
from lastwrite.ids import is_id

HANDSHAKE_SECONDS = 10.0
FIRST_MESSAGE_SECONDS = 10.0
FIRST_MESSAGE_BYTES = 64 << 10

log = structlog.get_logger()


class Connection:
    """Serves one accepted socket to its end. `known` is called once the peer has shown who it is."""

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        authority: Authority,
        registry: Registry,
        known: Callable[[], None],
    ) -> None:
        self._sock = sock
        self._context = context
        self._authority = authority
        self._registry = registry
        self._known = known
        self._pool = BufferPool()

    def run(self) -> None:
        """Serve until the end; the socket is closed then, and no exception leaves."""
        try:
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            secured = TlsSocket(self._sock, self._context)
            secured.do_handshake(HANDSHAKE_SECONDS)
        except (OSError, ValueError) as error:
            self._sock.close()
            log.info("connection ended in its handshake", reason=str(error))
            return
        self._serve(secured)

    def _serve(self, secured: TlsSocket) -> None:
        vm_id = _common_name(secured)
        channel = Channel(secured, self._pool.take, allow_frames=False, message_limit=FIRST_MESSAGE_BYTES)
        try:
            self._first_message(channel, vm_id)
        except ChannelClosed as error:
            log.info("connection ended", vm=vm_id, reason=error.message)
            channel.close()
        except LastwriteError as error:
            log.warning("connection refused", vm=vm_id, code=error.code, reason=error.message)
            channel.send_message(error_message(error))
            channel.close(flush_seconds=2.0)
        except OSError as error:
            log.error("connection failed", vm=vm_id, reason=str(error))
            channel.close()
        finally:
            self._pool.close()

    def _first_message(self, channel: Channel, vm_id: str | None) -> None:
        message = _await_message(channel)
        if vm_id is None:
            if message["type"] != "enrol":
                raise NotEnrolledError("a connection without a certificate may only enrol")
            channel.send_message(enrol(self._registry, self._authority, message))
            channel.close(flush_seconds=5.0)
            return
        if message["type"] != "hello":
            raise ProtocolError(f"a tap says hello first, not {message['type'][:40]!r}")
        if not is_id(vm_id):
            raise NotEnrolledError("the certificate names no VM")
        self._known()
        session = admit(self._registry, vm_id, message, channel, self._pool)
        if session is None:
            channel.close(flush_seconds=2.0)
            return
        channel.allow_frames = True
        session.run()
        self._registry.leave(session)


def _await_message(channel: Channel) -> Message:
    deadline = time.monotonic() + FIRST_MESSAGE_SECONDS
    while time.monotonic() < deadline:
        for item in channel.pump(deadline - time.monotonic()):
            if isinstance(item, dict):
                return item
    raise ProtocolError(f"no message came within {FIRST_MESSAGE_SECONDS:g} s")


def _common_name(secured: TlsSocket) -> str | None:
    """Return the common name of the peer's certificate, which TLS has checked; None when it showed none."""
    certificate = secured.getpeercert()
    if not certificate:
        return None
    subject: Any = certificate.get("subject", ())
    names = [value for part in subject for key, value in part if key == "commonName"]
    return str(names[0]) if len(names) == 1 else ""
