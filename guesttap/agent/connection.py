"""Getting a connection to the appliance: TLS 1.3, its certificate checked, ours shown when there is one."""

from __future__ import annotations

import socket
import ssl
import time
from pathlib import Path

from guesttap.agent.errors import ApplianceUnreachableError, NotEnrolledError
from guesttap.agent.settings import Settings
from guesttap.channel import Channel
from guesttap.protocol import Message

APPLIANCE_NAME = "appliance"
CONNECT_SECONDS = 10.0
FIRST_DELAY, LAST_DELAY = 0.5, 10.0
SILENCE_SECONDS = 30.0
"""The appliance pings about once a second; after so long without anything the connection is dead."""


class Backoff:
    """How long to wait before the next attempt: 0.5 s, doubling up to 10 s."""

    def __init__(self) -> None:
        self._delay = FIRST_DELAY

    def next_delay(self) -> float:
        """Return the seconds to wait now."""
        delay, self._delay = self._delay, min(LAST_DELAY, 2 * self._delay)
        return delay

    def reset(self) -> None:
        """The last attempt went well."""
        self._delay = FIRST_DELAY


def connect(settings: Settings, identity: tuple[Path, Path] | None) -> Channel:
    """Return a channel to the appliance. `identity`: our certificate and key, or None to enrol.

    Raises ApplianceUnreachableError, NotEnrolledError when the certificate's files cannot be used.
    """
    context = _context(settings.ca, identity)
    host, port = settings.appliance
    try:
        plain = socket.create_connection((host, port), CONNECT_SECONDS)
    except OSError as error:
        raise ApplianceUnreachableError(f"{host}:{port} cannot be reached: {error}") from error
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return Channel(context.wrap_socket(plain, server_hostname=APPLIANCE_NAME), allow_frames=False)
    except OSError as error:  # ssl.SSLError is one
        plain.close()
        raise ApplianceUnreachableError(
            f"{host}:{port} is not an appliance that this agent trusts, or refused it: {error}"
        ) from error


def first_message(channel: Channel, seconds: float = CONNECT_SECONDS) -> Message:
    """Return the first message that comes. Raises ApplianceUnreachableError, ChannelClosed."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for item in channel.pump(0.1):
            if isinstance(item, dict):
                return item
    raise ApplianceUnreachableError(f"the appliance took the connection, but said nothing for {seconds:g} s")


def _context(ca: str, identity: tuple[Path, Path] | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(cadata=ca)
        if identity is not None:
            context.load_cert_chain(str(identity[0]), str(identity[1]))
    except (OSError, ValueError) as error:
        raise NotEnrolledError(f"the agent's certificates cannot be used: {error}") from error
    return context
