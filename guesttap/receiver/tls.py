"""TLS over an accepted socket, with its own reading of the network.

ssl.SSLSocket asks the kernel twice for each record of 16 KiB. Here the network is read in large pieces, and what
they hold is decrypted straight into the memory of the frame, which takes half of the time.
"""

from __future__ import annotations

import socket
import ssl
import time
from typing import Any

RAW_BYTES = 128 << 10
"""What is read from the network at once: small enough to be in the processor's cache still when it is decrypted."""

_BLOCKED = (BlockingIOError, InterruptedError)


class TlsSocket:
    """The server's end of a TLS connection over `sock`, as guesttap.channel.Channel needs it.

    It behaves as ssl.SSLSocket does, but that `recv_into` fills as much of its target as has arrived.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self._sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._raw = memoryview(bytearray(RAW_BYTES))
        self._unsent = memoryview(b"")
        self._accepted = 0

    def do_handshake(self, seconds: float) -> None:
        """Do the handshake within `seconds`. Raises OSError, which ssl.SSLError is too."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._sock.settimeout(max(0.001, deadline - time.monotonic()))
                self._sock.sendall(self._outgoing.read())
                self._read_network()
                continue
            finally:
                # When it failed this is the alert, which tells the peer why.
                self._sock.sendall(self._outgoing.read())
            return

    def getpeercert(self) -> dict[str, Any] | None:
        """Return what the peer's certificate says, None when it showed none."""
        return self._tls.getpeercert()

    # --- what Channel calls

    def recv_into(self, target: memoryview) -> int:
        """Receive what has arrived; 0 at the stream's end. Raises BlockingIOError when nothing has, OSError."""
        filled = 0
        while filled < len(target):
            try:
                count = self._tls.read(len(target) - filled, target[filled:])
            except ssl.SSLWantReadError:
                try:
                    self._read_network()
                except _BLOCKED:
                    if filled:
                        break
                    raise
                continue
            except ssl.SSLEOFError:  # the connection ended without a farewell
                break
            if not count:
                break
            filled += int(count)
        return filled

    def _read_network(self) -> None:
        count = self._sock.recv_into(self._raw)
        if count:
            self._incoming.write(self._raw[:count])
        else:
            self._incoming.write_eof()

    def send(self, data: memoryview) -> int:
        """Send; return how much of `data` was taken. Raises BlockingIOError: then send the same data again."""
        if not self._accepted:
            self._accepted = self._tls.write(data)
            self._unsent = memoryview(self._outgoing.read())
        while self._unsent:
            self._unsent = self._unsent[self._sock.send(self._unsent) :]
        taken, self._accepted = self._accepted, 0
        return taken

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._sock.fileno()

    def setblocking(self, flag: bool) -> None:
        """Choose whether the network is waited for."""
        self._sock.setblocking(flag)

    def settimeout(self, seconds: float) -> None:
        """Choose how long the network is waited for."""
        self._sock.settimeout(seconds)

    def shutdown(self, how: int) -> None:
        """End one direction of the connection; what `recv` gives then is not decrypted any more."""
        self._sock.shutdown(how)

    def recv(self, length: int) -> bytes:
        """Receive from the network, for draining it."""
        return self._sock.recv(length)

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()
        self._raw = memoryview(b"")
