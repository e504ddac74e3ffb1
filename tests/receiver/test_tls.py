"""The receiver's own TLS over a socket: the same channel on both ends, and peers that misbehave."""

from __future__ import annotations

import random
import socket
import ssl
import threading
import time
from collections.abc import Iterator

import pytest
import trustme

from guesttap.channel import Channel, ChannelClosed, Frame
from guesttap.protocol import Message
from guesttap.receiver.tls import TlsSocket
from journal.frame import verify
from tests.receiver.double import exchange
from tests.receiver.test_channel import big_frame

AUTHORITY = trustme.CA()


def server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    AUTHORITY.issue_cert("appliance").configure_cert(context)
    return context


def connected(**options: int) -> tuple[TlsSocket, ssl.SSLSocket]:
    """Return both ends after their handshake."""
    client = ssl.create_default_context()
    AUTHORITY.configure_trust(client)
    ours, theirs = socket.socketpair()
    for name, value in options.items():
        for sock in (ours, theirs):
            sock.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
    secured = TlsSocket(ours, server_context())
    shaking = threading.Thread(target=secured.do_handshake, args=(10.0,))
    shaking.start()
    other = client.wrap_socket(theirs, server_hostname="appliance")
    shaking.join(10)
    return secured, other


@pytest.fixture
def ends() -> Iterator[tuple[TlsSocket, ssl.SSLSocket]]:
    pair = connected()
    yield pair
    for end in pair:
        end.close()


def test_frames_and_messages_in_both_directions(ends: tuple[TlsSocket, ssl.SSLSocket]) -> None:
    receiver, sender = Channel(ends[0]), Channel(ends[1])
    frame = big_frame()
    for number in range(3):
        sender.send_message({"type": "n", "number": number})
        sender.send_frame(frame)
    items = exchange(receiver, sender, 6)
    assert [item["number"] for item in items[::2] if isinstance(item, dict)] == [0, 1, 2]
    for item in items[1::2]:
        assert isinstance(item, Frame)
        verify(*item)
    answers: list[Message] = [{"type": "ack", "lsn": lsn, "padding": "x" * 5000} for lsn in range(300)]
    for answer in answers:
        receiver.send_message(answer)
    assert exchange(sender, receiver, 300) == answers


def test_a_peer_that_does_not_read_gets_everything_later() -> None:
    secured, other = connected(SO_SNDBUF=4096, SO_RCVBUF=4096)
    channel = Channel(secured)
    rest = random.Random(1).randbytes(900_000).hex()[:900_000]
    for number in range(3):
        channel.send_message({"type": "n", "number": number, "rest": rest})
    for _ in range(20):
        channel.pump(0)
    assert channel.pending_bytes > 0
    items = exchange(Channel(other), channel, 3)
    assert [item["rest"] == rest for item in items if isinstance(item, dict)] == [True] * 3
    assert channel.pending_bytes == 0
    channel.close()
    other.close()


@pytest.mark.parametrize("how", ["farewell", "reset", "half"])
def test_the_end_of_the_stream(ends: tuple[TlsSocket, ssl.SSLSocket], how: str) -> None:
    secured, other = ends
    channel, sender = Channel(secured), Channel(other)
    sender.send_message({"type": "last"})
    sender.pump(0)
    if how == "farewell":
        other.setblocking(True)
        other.settimeout(0.2)
        with pytest.raises(OSError):  # ours says no farewell back
            other.unwrap()
    elif how == "half":
        other.shutdown(socket.SHUT_WR)
    other.close()
    assert channel.pump(1) == [{"type": "last"}]
    with pytest.raises(ChannelClosed):
        channel.pump(1)


def test_garbage_in_the_stream_ends_it(ends: tuple[TlsSocket, ssl.SSLSocket]) -> None:
    secured, other = ends
    raw = socket.socket(fileno=other.detach())
    raw.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
    with pytest.raises(ChannelClosed, match="broke"):
        Channel(secured).pump(1)
    raw.close()


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.0\r\n\r\n", bytes(100), b""])
def test_who_speaks_no_tls_is_turned_away(sent: bytes) -> None:
    ours, theirs = socket.socketpair()
    theirs.sendall(sent)
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(OSError):
        TlsSocket(ours, server_context()).do_handshake(5.0)
    ours.close()
    theirs.close()


def test_a_handshake_byte_by_byte_does_not_last_longer_than_it_may() -> None:
    ours, theirs = socket.socketpair()
    stop = threading.Event()

    def trickle() -> None:
        for byte in b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500):
            if stop.wait(0.05):
                return
            theirs.send(bytes([byte]))

    thread = threading.Thread(target=trickle)
    thread.start()
    begin = time.monotonic()
    with pytest.raises(OSError):
        TlsSocket(ours, server_context()).do_handshake(0.5)
    assert time.monotonic() - begin < 5
    stop.set()
    thread.join()
    ours.close()
    theirs.close()
