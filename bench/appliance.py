"""The receiving side: the receiver's own sessions over journals of their own, in a process of its own.

What is left out is admission (catalog, fence): it costs nothing per write. Without TLS the sessions get the
bare socket, which the real receiver never does: this shows what TLS costs.
"""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import NamedTuple

from bench.worker import cpu_seconds, forget_peak, peak_bytes
from guesttap.authority import Authority
from guesttap.channel import ByteStream, Channel
from guesttap.receiver.buffers import BufferPool
from guesttap.receiver.session import Session
from guesttap.receiver.status import VmStatus
from guesttap.receiver.tls import TlsSocket
from journal.writer import JournalWriter
from lastwrite import logs

HANDSHAKE_SECONDS = 10.0
INSTANCE = "bench"


class Used(NamedTuple):
    """What the receiver used: CPU seconds, and the peak of its resident memory in bytes."""

    cpu: float
    peak: int


class Appliance:
    """Runs in a process of its own: `listen`, `serve`, then `begin` … `end` around what is measured, `close`."""

    def __init__(self, pki: Path) -> None:
        logs.configure("bench", json=False, level="warning")
        self._context = Authority(pki).server_context()
        self._listener: socket.socket | None = None
        self._threads: list[threading.Thread] = []
        self._cpu = 0.0

    def listen(self) -> int:
        """Listen; return the port."""
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        return int(self._listener.getsockname()[1])

    def serve(self, folder: Path, streams: int, tls: bool) -> None:
        """Take `streams` connections, each into a new journal in `folder`."""
        assert self._listener is not None
        self._listener.settimeout(30)
        for number in range(streams):
            sock, _ = self._listener.accept()
            journal = JournalWriter.create(folder / f"{number:03}", f"vm-{number}")
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            thread = threading.Thread(target=self._session, args=(sock, journal, number, tls), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _session(self, sock: socket.socket, journal: JournalWriter, number: int, tls: bool) -> None:
        secured: ByteStream = sock
        if tls:
            secured = TlsSocket(sock, self._context)
            secured.do_handshake(HANDSHAKE_SECONDS)
        pool = BufferPool()
        channel = Channel(secured, pool.take)
        Session(f"vm-{number}", INSTANCE, channel, pool, journal, VmStatus()).run()
        pool.close()

    def begin(self) -> None:
        """Begin to measure."""
        forget_peak()
        self._cpu = cpu_seconds()

    def end(self) -> Used:
        """Return what was used since `begin`."""
        return Used(cpu_seconds() - self._cpu, peak_bytes())

    def close(self) -> None:
        """Wait until every session is over (its tap has hung up) and its journal closed."""
        for thread in self._threads:
            thread.join(60)
        self._threads = []
        if self._listener is not None:
            self._listener.close()
