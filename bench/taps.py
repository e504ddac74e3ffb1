"""The sending side: taps that have their frames ready, send them as fast as they can, and wait for the acks."""

from __future__ import annotations

import select
import socket
import ssl
import time
from pathlib import Path
from typing import NamedTuple

from bench.errors import BenchFailed
from bench.stream import make_stream
from guesttap.channel import Channel

WINDOW_BYTES = 64 << 20
"""What one tap has sent, or is sending, and is not acknowledged: as much as a small ring holds."""
STALL_SECONDS = 60.0


class Identity(NamedTuple):
    """What a tap needs to speak TLS: the authority's certificate, and a file with its own one and its key."""

    ca_pem: str
    path: str


class _Tap:
    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.acked_lsn = 1
        self.sent = 0


class Taps:
    """Runs in a process of its own. `connect`, then `send`, then `hang_up`."""

    def __init__(self, frames: int) -> None:
        self._stream = make_stream(frames)
        self._taps: list[_Tap] = []

    def connect(self, port: int, streams: int, identity: Identity | None) -> None:
        """Connect `streams` taps, begin their epochs, and wait until all of that is acknowledged."""
        self._taps = [_Tap(_connect(port, identity)) for _ in range(streams)]
        for tap in self._taps:
            for frame in self._stream.preamble:
                tap.channel.send_frame(frame)
        self._run(0, 2)

    def send(self, count: int) -> float:
        """Send `count` frames over every connection; return the seconds until all are acknowledged."""
        begin = time.perf_counter()
        self._run(count, self._stream.next_lsn(count))
        return time.perf_counter() - begin

    def hang_up(self) -> None:
        """Close the connections."""
        for tap in self._taps:
            tap.channel.close()
        self._taps = []

    def _run(self, count: int, next_lsn: int) -> None:
        """Send frames up to `count` over each connection until `next_lsn` is acknowledged over each."""
        by_fd = {tap.channel.fileno(): tap for tap in self._taps}
        poll = select.poll()
        for fd in by_fd:
            poll.register(fd, select.POLLIN | select.POLLOUT)
        ready = list(by_fd)
        while by_fd:
            for fd in ready:
                tap = by_fd[fd]
                self._turn(tap, count)
                if tap.acked_lsn >= next_lsn:
                    poll.unregister(fd)
                    del by_fd[fd]
                else:
                    poll.modify(fd, select.POLLIN | (select.POLLOUT if tap.channel.pending_bytes else 0))
            ready = [fd for fd, _ in poll.poll(STALL_SECONDS * 1000)] if by_fd else []
            if by_fd and not ready:
                raise BenchFailed(f"{len(by_fd)} connections stood still for {STALL_SECONDS:g} s")

    def _turn(self, tap: _Tap, count: int) -> None:
        for item in tap.channel.pump(0):
            if not isinstance(item, dict):
                raise BenchFailed("the receiver sent a frame")
            if item["type"] == "ack":
                tap.acked_lsn = item["lsn"]
            elif item["type"] == "ping":
                pong = {"type": "pong", "sent": item["sent"], "status": {}}
                tap.channel.send_message(pong | {"wall": time.time_ns(), "mono": time.monotonic_ns()})
            else:
                raise BenchFailed(f"the receiver said {item}")
        frames = self._stream.frames
        while tap.sent < count and (tap.sent - self._durable(tap)) * len(frames[0]) < WINDOW_BYTES:
            tap.channel.send_frame(frames[tap.sent])
            tap.sent += 1

    def _durable(self, tap: _Tap) -> int:
        """Return how many frames are acknowledged."""
        return max(0, (tap.acked_lsn - self._stream.next_lsn(0)) // (self._stream.next_lsn(1) - 2))


def _connect(port: int, identity: Identity | None) -> Channel:
    sock = socket.create_connection(("127.0.0.1", port), timeout=20)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if identity is None:
        return Channel(sock)
    context = ssl.create_default_context(cadata=identity.ca_pem)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(Path(identity.path))
    return Channel(context.wrap_socket(sock, server_hostname="appliance"))
