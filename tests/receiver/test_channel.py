"""The item stream by itself: pieces, limits, garbage, slowness. Sockets are pairs in this process."""

from __future__ import annotations

import random
import socket
import ssl
import struct
import threading
import time
import tracemalloc
from collections.abc import Iterator

import pytest
import trustme

from guesttap.channel import Channel, ChannelClosed, Frame, Item
from guesttap.protocol import ProtocolError, encode
from journal.frame import CAPTURED, MAX_PAYLOAD_BYTES, FrameBuilder, verify
from lastwrite.errors import LastwriteError
from tests.receiver.double import exchange

Ends = tuple[Channel, socket.socket]


def big_frame(payload: int = MAX_PAYLOAD_BYTES) -> bytearray:
    builder = FrameBuilder(CAPTURED)
    data = random.Random(1).randbytes(1 << 20)
    for number in range(payload >> 20):
        builder.add_write(0, number * 2048, data, number)
    return builder.finish(first_lsn=1, epoch=1, position=1)


@pytest.fixture
def ends() -> Iterator[Ends]:
    """A channel, and the bare socket at its other end."""
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    yield channel, theirs
    channel.close()
    theirs.close()


@pytest.fixture
def tls_pair() -> Iterator[tuple[Channel, Channel]]:
    """Two channels over TLS 1.3."""
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    server.minimum_version = ssl.TLSVersion.TLSv1_3
    authority.issue_cert("appliance").configure_cert(server)
    authority.configure_trust(client)
    ours, theirs = socket.socketpair()
    secured: list[ssl.SSLSocket] = []
    shaking = threading.Thread(target=lambda: secured.append(server.wrap_socket(ours, server_side=True)))
    shaking.start()
    other = client.wrap_socket(theirs, server_hostname="appliance")
    shaking.join()
    pair = Channel(secured[0]), Channel(other)
    yield pair
    for channel in pair:
        channel.close()


def test_frames_and_messages_come_whole_and_in_order_over_tls(tls_pair: tuple[Channel, Channel]) -> None:
    receiver, sender = tls_pair
    frame = big_frame()
    for number in range(3):
        sender.send_message({"type": "n", "number": number})
        sender.send_frame(frame)
    assert sender.pending_bytes > 3 * len(frame)
    items = exchange(receiver, sender, 6)
    for number in range(3):
        message, got = items[2 * number], items[2 * number + 1]
        assert message == {"type": "n", "number": number}
        assert isinstance(got, Frame)
        verify(*got)
        assert bytes(got.head) + bytes(got.payload) == frame
    assert sender.pending_bytes == 0


def test_both_ends_can_send_at_once_without_locking_up(tls_pair: tuple[Channel, Channel]) -> None:
    frame = big_frame(4 << 20)
    for channel in tls_pair:
        for _ in range(4):
            channel.send_frame(frame)
    got = [0, 0]
    deadline = time.monotonic() + 20
    while got != [4, 4]:
        assert time.monotonic() < deadline
        for end, channel in enumerate(tls_pair):
            got[end] += len(channel.pump(0))


def test_one_byte_at_a_time_is_the_same_stream(ends: Ends) -> None:
    channel, peer = ends
    builder = FrameBuilder(CAPTURED)
    builder.add_write(0, 0, bytes(4096), 5)
    stream = encode({"type": "a"}) + builder.finish(first_lsn=1, epoch=1, position=1) + encode({"type": "b"})
    items: list[Item] = []
    for number in range(len(stream)):
        peer.send(stream[number : number + 1])
        items += channel.pump(0)
    assert [item["type"] if isinstance(item, dict) else "frame" for item in items] == ["a", "frame", "b"]


def test_items_before_a_failure_are_given_out_first(ends: Ends) -> None:
    channel, peer = ends
    peer.sendall(encode({"type": "a"}) + b"garbage!")
    assert channel.pump(1) == [{"type": "a"}]
    with pytest.raises(ProtocolError):
        channel.pump(1)


def test_an_end_in_the_middle_of_an_item_says_so(ends: Ends) -> None:
    channel, peer = ends
    peer.sendall(big_frame(1 << 20)[:50000])
    peer.close()
    with pytest.raises(ChannelClosed, match="in the middle"):
        channel.pump(1)


@pytest.mark.parametrize(
    "header",
    [
        b"LWMS" + struct.pack("<I", 0xFFFFFFFF),
        b"LWMS" + struct.pack("<I", (1 << 20) + 1),
        struct.pack("<4sBBHIIIIQQQQQ", b"LWF1", 1, 0, 0, 0, 0, 0xFFFFF000, 1, 1, 1, 1, 0, 0),
        struct.pack("<4sBBHIIIIQQQQQ", b"LWF1", 1, 0, 0, 0xFFFFFFFF, 0, 0, 1, 1, 1, 1, 0, 0),
        struct.pack("<4sBBHIIIIQQQQQ", b"LWF1", 1, 0, 0, 0, 0xFFFFFFFF, 0, 1, 1, 1, 1, 0, 0),
        struct.pack("<4sBBHIIIIQQQQQ", b"LWF1", 9, 0, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0),
    ],
)
def test_an_impossible_length_is_refused_before_memory_is_taken(ends: Ends, header: bytes) -> None:
    channel, peer = ends
    peer.sendall(header)
    tracemalloc.start()
    try:
        with pytest.raises(LastwriteError):
            channel.pump(1)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_stranger_may_send_neither_frames_nor_long_messages(ends: Ends) -> None:
    channel, peer = ends
    channel.allow_frames, channel.message_limit = False, 100
    peer.sendall(b"LWF1" + bytes(60))
    with pytest.raises(ProtocolError, match="none is allowed"):
        channel.pump(1)
    other, peer2 = socket.socketpair()
    limited = Channel(other, message_limit=100)
    peer2.sendall(encode({"type": "x" * 101}))
    with pytest.raises(ProtocolError, match="too long here"):
        limited.pump(1)
    limited.close()
    peer2.close()


@pytest.mark.parametrize("seed", range(30))
def test_random_bytes_end_in_an_error_of_ours_quickly(ends: Ends, seed: int) -> None:
    channel, peer = ends
    chance = random.Random(seed)
    start = chance.choice([b"", b"LWMS", b"LWF1\x01", b"LWMS\x05\0\0\0", b"LWMS\x20\0\0\0"])
    peer.sendall(start + chance.randbytes(chance.randrange(1, 60000)))
    peer.shutdown(socket.SHUT_WR)
    begun = time.monotonic()
    with pytest.raises(LastwriteError):
        while True:
            channel.pump(1)
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize("seed", range(30))
def test_a_flipped_byte_never_gives_a_frame_that_verifies(ends: Ends, seed: int) -> None:
    channel, peer = ends
    chance = random.Random(seed)
    builder = FrameBuilder(CAPTURED)
    builder.add_write(0, 8, chance.randbytes(4096), 5)
    stream = builder.finish(first_lsn=1, epoch=1, position=1)
    stream[chance.randrange(len(stream))] ^= 1 << chance.randrange(8)
    peer.sendall(stream)
    peer.shutdown(socket.SHUT_WR)
    with pytest.raises(LastwriteError):
        while True:
            for item in channel.pump(1):
                assert isinstance(item, Frame)
                verify(*item)


def test_a_peer_that_is_held_back_is_not_read(ends: Ends) -> None:
    channel, peer = ends
    channel.reading = False
    peer.sendall(encode({"type": "a"}))
    assert channel.pump(0.05) == []
    channel.reading = True
    assert channel.pump(1) == [{"type": "a"}]


def test_post_from_another_thread_wakes_the_owner(ends: Ends) -> None:
    channel, peer = ends
    threading.Timer(0.1, channel.post, ({"type": "ack"},)).start()
    begun = time.monotonic()
    channel.pump(10)
    assert time.monotonic() - begun < 5
    assert peer.recv(100) == encode({"type": "ack"})


def test_an_extra_descriptor_wakes_the_owner(ends: Ends) -> None:
    channel, _ = ends
    one, other = socket.socketpair()
    other.send(b"x")
    begun = time.monotonic()
    channel.pump(10, (one.fileno(),))
    assert time.monotonic() - begun < 5
    one.close()
    other.close()


def test_post_and_wake_after_close_do_nothing(ends: Ends) -> None:
    channel, _ = ends
    channel.close()
    channel.post({"type": "ack"})
    channel.wake()
    with pytest.raises(ChannelClosed):
        channel.pump(0)


def test_a_last_message_arrives_although_the_peer_still_sends(tls_pair: tuple[Channel, Channel]) -> None:
    server, client = tls_pair
    frame = big_frame(4 << 20)
    for _ in range(8):
        client.send_frame(frame)
    stop = threading.Event()
    heard: list[Item] = []

    def send() -> None:
        try:
            while not stop.is_set():
                heard.extend(client.pump(0.05))
        except ChannelClosed:
            pass

    sender = threading.Thread(target=send)
    sender.start()
    server.pump(1)
    server.send_message({"type": "error", "code": "x", "message": "enough"})
    server.close(flush_seconds=3)
    sender.join(10)
    stop.set()
    assert heard == [{"type": "error", "code": "x", "message": "enough"}]
