"""A tap double: speaks the protocol over real TLS and invents its writes. It shows nothing about capturing.

Its "ring" is a list of frames that it keeps until they are acknowledged, as the real ring keeps records; ring
positions are counts of frames. Seeded: the same seed makes the same writes.
"""

from __future__ import annotations

import random
import socket
import ssl
import tempfile
import time
from dataclasses import dataclass, field
from typing import Any

from guesttap.channel import Channel, ChannelClosed, Item
from guesttap.protocol import Message
from journal.frame import CAPTURED, SYNC, FrameBuilder, parse_header
from lastwrite.address import Address

DISK_BYTES = 64 << 20
INSTANCE = "4c4c4544-0042-3510-8050-b8c04f4e3732"
DISKS = [{"disk": 0, "name": "vda", "bytes": DISK_BYTES, "serial": None}]


def context(ca_pem: str, identity: tuple[str, str] | None = None) -> ssl.SSLContext:
    """Return an agent's TLS settings; `identity` is (certificate, key)."""
    result = ssl.create_default_context(cadata=ca_pem)
    result.minimum_version = ssl.TLSVersion.TLSv1_3
    if identity:
        with tempfile.NamedTemporaryFile("w") as file:
            file.write("".join(identity))
            file.flush()
            result.load_cert_chain(file.name)
    return result


def connect(address: Address, tls: ssl.SSLContext, **options: Any) -> Channel:
    """Return a channel to the receiver."""
    sock = socket.create_connection(address, timeout=10)
    try:
        return Channel(tls.wrap_socket(sock, server_hostname="appliance"), **options)
    except OSError:
        sock.close()
        raise


def exchange(receiver: Channel, sender: Channel, count: int) -> list[Item]:
    """Pump both ends in turn until `count` items came."""
    items: list[Item] = []
    deadline = time.monotonic() + 20
    while len(items) < count:
        assert time.monotonic() < deadline
        sender.pump(0)
        items += receiver.pump(0)
    return items


def await_message(channel: Channel, kind: str, seconds: float = 15.0) -> Message:
    """Return the next message of a type, pings and acks aside. Raises ChannelClosed when it is refused."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for item in channel.pump(0.2):
            assert isinstance(item, dict)
            if item["type"] == kind:
                return item
            if item["type"] == "error":  # it closes behind it
                raise ChannelClosed(f"{item['code']}: {item['message']}")
            assert item["type"] in ("ping", "ack"), item
    raise AssertionError(f"no {kind} came within {seconds} s")


def enrol(address: Address, ca_pem: str, token: str, instance: str = INSTANCE) -> Message:
    """Buy a certificate; return the answer, `enrolled` or `error`."""
    channel = connect(address, context(ca_pem))
    channel.send_message({"type": "enrol", "token": token, "instance": instance})
    try:
        while True:
            for item in channel.pump(15):
                assert isinstance(item, dict)
                return item
    finally:
        channel.close()


def note(which: str, **keys: Any) -> dict[str, Any]:
    """Return a note of now."""
    return {"note": which, "wall": time.time_ns(), "mono": time.monotonic_ns(), **keys}


def epoch_note(number: int, generation: int, sync: str = "initial", **keys: Any) -> dict[str, Any]:
    """Return the note that begins an epoch."""
    told = {"order": "total", "boot": "boot-1", "reason": "test", "disks": DISKS}
    return note("epoch", epoch=number, generation=generation, sync=sync, **(told | keys))


def cut_note(number: int, kind: str = "tick", **keys: Any) -> dict[str, Any]:
    """Return a cut."""
    told = {"label": None, "consistency": "crash", "offset": None, "frozen": None, "coordinates": None}
    return note("cut", number=number, kind=kind, **(told | keys))


@dataclass(repr=False)
class TapDouble:
    """One imitated tap: its identity lives as long as the object, its connections come and go."""

    address: Address
    tls: ssl.SSLContext
    seed: int = 1
    instance: str = INSTANCE
    boot: str = "boot-1"
    fence: str | None = None
    generation: int = 77
    attached: bool = False
    epoch: int | None = None
    acked_lsn: int = 1
    sent: dict[int, bytes] = field(default_factory=dict)
    """first LSN and number of frame -> the bytes of every frame ever made, for comparison."""

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.channel: Channel | None = None
        self.ring: list[bytes] = []
        self.resume = 0
        self.welcome: Message = {}
        self.next_lsn = 1
        self.next_cut = 1
        self.valid = False

    @property
    def head(self) -> int:
        """The highest ring position."""
        return self.resume + len(self.ring)

    def hello(self, **changes: Any) -> Message:
        """Connect, say hello, take in the answer and return it."""
        self.close()
        self.channel = connect(self.address, self.tls)
        self.channel.send_message(self.hello_message() | changes)
        self.welcome = await_message(self.channel, "welcome")
        if self.welcome["action"] != "dormant":
            self.fence = self.welcome["fence"]
        return self.welcome

    def hello_message(self) -> Message:
        """Return what this tap says of itself."""
        return {
            "type": "hello",
            "protocol": 1,
            "agent": "double",
            "instance": self.instance,
            "boot": self.boot,
            "fence": self.fence,
            "generation": self.generation if self.attached else None,
            "resume": self.resume,
            "head": self.head,
            "whole": True,
            "dirty_known": True,
            "epoch": self.epoch,
            "kernel": "6.1",
            "disks": [],
            "wall": time.time_ns(),
            "mono": time.monotonic_ns(),
        }

    def follow(self) -> None:
        """Do what the welcome says: go on with the ring, or begin an epoch with a small sync."""
        if self.welcome["action"] == "resume":
            self.drop_before(self.welcome["position"])
            assert not self.ring or parse_header(self.ring[0]).first_lsn == self.welcome["next_lsn"]
            for data in self.ring:
                self.live().send_frame(data)
            return
        self.attached, self.epoch = True, self.welcome["epoch"]
        self.ring, self.next_lsn = [], self.welcome["next_lsn"]
        self.next_cut = self.welcome["next_cut"]
        sync = "bitmap" if self.welcome["base"] else "initial"
        self.add(self.build(notes=[epoch_note(self.epoch, self.generation, sync)]))
        self.add(self.build(kind=SYNC, writes=4))
        self.cut("sync-end")

    def build(
        self, kind: int = CAPTURED, writes: int = 0, notes: list[dict[str, Any]] | None = None, **wrong: Any
    ) -> bytearray:
        """Return a frame of random writes; `wrong` replaces fields of its header."""
        builder = FrameBuilder(kind)
        for _ in range(writes):
            sectors = self.random.choice((1, 8, 8, 16))
            sector = self.random.randrange(0, DISK_BYTES // 512 - sectors)
            builder.add_write(0, sector, self.random.randbytes(sectors * 512), time.monotonic_ns())
        builder.notes.extend(notes or [])
        fields = {"first_lsn": self.next_lsn, "epoch": self.epoch or 1, "position": self.head + 1}
        return builder.finish(**(fields | wrong))

    def add(self, data: bytearray) -> None:
        """Put a frame into the ring and send it."""
        header = parse_header(data)
        self.next_lsn = header.next_lsn
        self.ring.append(bytes(data))
        self.sent[header.position] = bytes(data)
        if self.channel is not None:
            self.channel.send_frame(self.ring[-1])

    def write(self, writes: int = 3) -> None:
        """Make a frame of captured writes."""
        self.add(self.build(writes=writes))

    def cut(self, kind: str = "tick", **keys: Any) -> tuple[int, int]:
        """Make a cut; return (lsn, number)."""
        number = self.next_cut
        self.next_cut += 1
        self.add(self.build(notes=[cut_note(number, kind, **keys)]))
        return self.next_lsn - 1, number

    def live(self) -> Channel:
        """Return the channel; there must be one."""
        assert self.channel is not None
        return self.channel

    def drop_before(self, position: int) -> None:
        """Give ring space back."""
        count = position - self.resume
        assert 0 <= count <= len(self.ring), (position, self.resume, len(self.ring))
        del self.ring[:count]
        self.resume = position

    def pump(self, seconds: float = 0.0) -> list[Item]:
        """Send and receive once: answer pings, take acks; return everything else."""
        rest: list[Item] = []
        for item in self.live().pump(seconds):
            assert isinstance(item, dict)
            if item["type"] == "ack":
                assert item["lsn"] >= self.acked_lsn
                self.acked_lsn = item["lsn"]
                self.drop_before(item["position"])
            elif item["type"] == "ping":
                self.pong(item)
            else:
                rest.append(item)
        return rest

    def pong(self, ping: Message) -> None:
        """Answer a ping."""
        used = sum(map(len, self.ring))
        status = {"ring_used": used, "ring_bytes": 1 << 26, "lost": 0, "accounting": "balanced"}
        told = {"sent": ping["sent"], "wall": time.time_ns(), "mono": time.monotonic_ns(), "status": status}
        self.live().send_message({"type": "pong"} | told)

    def settle(self, seconds: float = 15.0) -> None:
        """Pump until everything is acknowledged."""
        deadline = time.monotonic() + seconds
        while self.ring:
            assert time.monotonic() < deadline, f"{len(self.ring)} frames are not acknowledged"
            self.pump(0.1)

    def await_end(self, seconds: float = 15.0) -> Message | None:
        """Pump until the receiver closes; return its `error` message, if it sent one."""
        error = None
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                for item in self.pump(0.2):
                    assert isinstance(item, dict)
                    error = item if item["type"] == "error" else error
            except ChannelClosed:
                return error
        raise AssertionError("the receiver did not close the connection")

    def close(self) -> None:
        """Drop the connection."""
        if self.channel is not None:
            self.channel.close()
            self.channel = None
