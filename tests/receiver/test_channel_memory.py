"""A channel without memory for the next frame, or held back: it waits, and does not burn the processor."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from guesttap.channel import Channel, ChannelClosed, Frame, Item
from journal.frame import CAPTURED, FrameBuilder, verify

Ends = tuple[Channel, Channel, list[int]]


def frame(payload_blocks: int, seed: int) -> bytearray:
    builder = FrameBuilder(CAPTURED)
    for block in range(payload_blocks):
        builder.add_write(0, block * 8, bytes([seed]) * 4096, block)
    return builder.finish(first_lsn=1, epoch=1, position=seed)


@pytest.fixture
def ends() -> Iterator[Ends]:
    """A receiver that has memory for as many frames as the last part says, and a sender."""
    ours, theirs = socket.socketpair()
    room = [0]

    def allocate(length: int) -> memoryview | None:
        if not room[0]:
            return None
        room[0] -= 1
        return memoryview(bytearray(length))

    receiver, sender = Channel(ours, allocate), Channel(theirs)
    yield receiver, sender, room
    receiver.close()
    sender.close()


def take(ends: Ends, count: int) -> list[Item]:
    receiver, sender, _ = ends
    items: list[Item] = []
    deadline = time.monotonic() + 10
    while len(items) < count:
        assert time.monotonic() < deadline
        sender.pump(0)
        items += receiver.pump(0)
    return items


def test_what_came_waits_for_memory_and_is_whole_then(ends: Ends) -> None:
    receiver, sender, room = ends
    for seed in range(4):
        sender.send_frame(frame(40 * seed + 1, seed))
        sender.send_message({"type": "n", "number": seed})
    for _ in range(20):
        sender.pump(0)
        assert receiver.pump(0) == []
    items: list[Item] = []
    for _ in range(4):
        room[0] += 1
        items += take(ends, 2)
        assert receiver.pump(0) == []
    assert [item["number"] for item in items[1::2] if isinstance(item, dict)] == [0, 1, 2, 3]
    for seed, item in enumerate(items[::2]):
        assert isinstance(item, Frame) and item.header.position == seed
        verify(*item)


@pytest.mark.parametrize("held", ["no memory", "not reading"])
def test_a_channel_that_is_held_back_sleeps_until_it_is_woken(
    ends: Ends, held: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guesttap.channel.RECEIVE_BUDGET", 32 << 10)
    receiver, sender, room = ends
    data = frame(3000, 1)
    room[0] = 1
    sender.send_frame(data)
    sender.send_frame(frame(1, 2))
    while sender.pending_bytes > len(data) // 2:  # a full budget was received: the middle of a frame
        sender.pump(0)
        receiver.pump(0)
    if held == "not reading":
        receiver.reading = False
    else:
        take(ends, 1)
        receiver.pump(0)
    cpu, begin = time.thread_time(), time.monotonic()
    waking = threading.Timer(0.5, receiver.wake)
    waking.start()
    rounds = 0
    while time.monotonic() - begin < 0.4:
        assert receiver.pump(5) == []
        rounds += 1
    waking.join()
    assert rounds <= 2 and time.thread_time() - cpu < 0.2
    room[0] = 2
    receiver.reading = True
    assert len(take(ends, 2 if held == "not reading" else 1)) >= 1


def test_a_peer_that_goes_away_while_there_is_no_memory_is_noticed(ends: Ends) -> None:
    receiver, sender, _ = ends
    sender.send_frame(frame(1, 1))
    sender.pump(0)
    assert receiver.pump(0) == []
    sender.close()
    with pytest.raises(ChannelClosed):
        receiver.pump(5)
        receiver.pump(5)
