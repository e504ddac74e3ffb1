"""One connection's bytes: exact reads, and sends that gather many buffers without copying them."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence

Buffer = bytes | bytearray | memoryview

MAX_VECTOR = 1024  # IOV_MAX of Linux
_BUFFER_BYTES = 64 << 10


class LinkClosed(Exception):
    """The peer has gone, or has said something after which nothing can be understood."""


class Link:
    """A socket with a receive buffer, so that a batch of requests costs one system call. One thread owns it."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._buffer = bytearray(_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._deadline: float | None = None

    def set_deadline(self, seconds: float | None) -> None:
        """Give everything from now on that many seconds together, or (None) all the time there is."""
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self.sock.settimeout(seconds)

    def _keep_deadline(self) -> None:
        if self._deadline is not None:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise LinkClosed("the handshake took too long")
            self.sock.settimeout(left)

    @property
    def buffered(self) -> int:
        """Bytes that have arrived and were not taken yet."""
        return self._end - self._start

    def take(self, length: int) -> bytes:
        """Return exactly `length` bytes (at most 64 KiB), waiting for them. Raises LinkClosed."""
        if length > _BUFFER_BYTES:
            raise ValueError(f"at most {_BUFFER_BYTES} bytes at once, not {length}")
        while self.buffered < length:
            self._fill(length)
        start = self._start
        self._start += length
        return bytes(self._view[start : self._start])

    def drain(self, length: int) -> None:
        """Read and forget `length` bytes. Raises LinkClosed."""
        while length:
            step = min(length, _BUFFER_BYTES)
            self.take(step)
            length -= step

    def _fill(self, wanted: int) -> None:
        if self._start + wanted > _BUFFER_BYTES:
            rest = bytes(self._view[self._start : self._end])
            self._buffer[: len(rest)] = rest
            self._start, self._end = 0, len(rest)
        elif self._start == self._end:
            self._start = self._end = 0
        self._keep_deadline()
        try:
            got = self.sock.recv_into(self._view[self._end :])
        except OSError as error:
            raise LinkClosed(str(error)) from error
        if not got:
            raise LinkClosed("the peer closed the connection")
        self._end += got

    def send(self, buffers: Sequence[Buffer]) -> None:
        """Send every buffer, in order. Raises LinkClosed."""
        self._keep_deadline()
        try:
            for first in range(0, len(buffers), MAX_VECTOR):
                self._send_vector(buffers[first : first + MAX_VECTOR])
        except OSError as error:
            raise LinkClosed(str(error)) from error

    def _send_vector(self, vector: Sequence[Buffer]) -> None:
        sent = self.sock.sendmsg(vector)
        for buffer in vector:
            if sent >= len(buffer):
                sent -= len(buffer)
            else:
                self.sock.sendall(memoryview(buffer)[sent:])
                sent = 0
