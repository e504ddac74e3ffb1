"""What a broken or lying connection can send: half frames, frames twice, in another order, with holes, altered."""

from __future__ import annotations

import random
import ssl
import time
from collections import Counter
from pathlib import Path

from guesttap.channel import Channel, ChannelClosed
from journal.frame import parse_header
from tests.torture import verify
from tests.torture.receivers import Receivers, until
from tests.torture.tap import TortureTap

_ENDS = (ChannelClosed, ssl.SSLError, ConnectionError)


class WireTrial:
    """One receiver, one VM, many bad connections."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.chance = chance
        self.receivers = Receivers(folder)
        self.seen: Counter[str] = Counter()
        self.kinds = {
            "cut within a frame": self._half,
            "a frame twice": self._twice,
            "an acknowledged frame again": self._replay,
            "two frames exchanged": self._exchanged,
            "a frame left out": self._hole,
            "a bit flipped": self._flipped,
            "no frames at all": self._garbage,
            "a second connection": self._second,
            "the tap started anew": self._reattached,
        }

    def run(self, trials: int) -> None:
        """Break so many connections."""
        try:
            self.receivers.start()
            vm = self.receivers.new_vm()
            tap = self.receivers.new_tap(vm, self.chance.getrandbits(32))
            for number in range(trials):
                name = list(self.kinds)[number % len(self.kinds)]
                try:
                    self._one(tap, name)
                    self._go_on(tap)
                    verify.require_frames(Path(vm.journal), tap.acknowledged)
                    verify.whole(Path(vm.journal), tap.truth, tap.acked_lsn, self.chance, 2)
                except verify.Lost as lost:
                    raise verify.Lost(f"after {name}: {lost}") from lost
                self.seen[name] += 1
            tap.close()
        finally:
            self.receivers.close()

    def _one(self, tap: TortureTap, name: str) -> None:
        self._go_on(tap)
        channel = tap.live()
        tap.channel = None  # frames are made, and sent as the trial wants
        frames: list[bytes] = []
        while len(frames) < 3:
            before = len(tap.ring)
            tap.guest_write()
            tap.captured()
            frames += tap.ring[before:]
        tap.channel = channel
        try:
            self.kinds[name](tap, channel, frames)
        except _ENDS:
            pass
        tap.close()

    def _go_on(self, tap: TortureTap) -> None:
        """Connect, follow, have everything acknowledged and a valid epoch."""
        tap.hello()
        tap.follow()
        deadline = until(20)
        while tap.ring or tap.valid_from is None:
            verify.require(time.monotonic() < deadline, "nothing is acknowledged any more")
            tap.step() if tap.valid_from is None else tap.pump(0.05)

    def _flush(self, channel: Channel) -> None:
        deadline = until(10)
        while channel.pending_bytes and time.monotonic() < deadline:
            channel.pump(0.05)

    def _until_refused(self, tap: TortureTap, channel: Channel) -> None:
        """The receiver must end this connection."""
        deadline = until(10)
        while True:
            verify.require(time.monotonic() < deadline, "the receiver takes it")
            tap.pump(0.1)

    def _half(self, tap: TortureTap, channel: Channel, frames: list[bytes]) -> None:
        channel.send_frame(frames[0])
        channel.send_frame(frames[1][: self.chance.randrange(1, len(frames[1]))])
        self._flush(channel)

    def _twice(self, tap: TortureTap, channel: Channel, frames: list[bytes]) -> None:
        records = next(frame for frame in frames if parse_header(frame).records)
        for frame in [*frames[: frames.index(records) + 1], records]:
            channel.send_frame(frame)
        self._until_refused(tap, channel)

    def _replay(self, tap: TortureTap, channel: Channel, frames: list[bytes]) -> None:
        channel.send_frame(self.chance.choice([f for f in tap.acknowledged if parse_header(f).records]))
        self._until_refused(tap, channel)

    def _exchanged(self, tap: TortureTap, channel: Channel, frames: list[bytes]) -> None:
        for frame in frames[::-1]:
            channel.send_frame(frame)
        self._until_refused(tap, channel)

    def _hole(self, tap: TortureTap, channel: Channel, frames: list[bytes]) -> None:
        for frame in frames[1:]:
            channel.send_frame(frame)
        self._until_refused(tap, channel)

    def _flipped(self, tap: TortureTap, channel: Channel, frames: list[bytes]) -> None:
        bad = bytearray(frames[0])
        bad[self.chance.randrange(len(bad))] ^= 1 << self.chance.randrange(8)
        channel.send_frame(bytes(bad))
        for frame in frames[1:] * 40:  # a length that grew waits for as many bytes
            channel.send_frame(frame)
        self._until_refused(tap, channel)

    def _garbage(self, tap: TortureTap, channel: Channel, frames: list[bytes]) -> None:
        channel.send_frame(frames[0])
        channel.send_frame(self.chance.randbytes(5000))
        self._until_refused(tap, channel)

    def _second(self, tap: TortureTap, channel: Channel, frames: list[bytes]) -> None:
        """The same tap connects again, and its first connection falls silent."""
        channel.send_frame(frames[0])
        self._flush(channel)
        tap.channel = None
        try:
            tap.hello()
            tap.follow()
        finally:
            channel.close()

    def _reattached(self, tap: TortureTap, channel: Channel, frames: list[bytes]) -> None:
        for frame in frames:
            channel.send_frame(frame)
        self._flush(channel)
        tap.reattach()
