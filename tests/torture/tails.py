"""The disk of a dead receiver lies: what it acknowledged last is damaged or gone. The next one cannot know what it was.

Such records are lost, and nothing else may be: the tap, which has given them up, must be made to send every block, and
no point may ever show a mixture.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

from journal.frame import parse_header
from tests.torture import verify
from tests.torture.flips import segments_of
from tests.torture.receivers import Receivers, until
from tests.torture.tap import TortureTap


class TailTrial:
    """One VM, whose journal loses its newest frames again and again."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.chance = chance
        self.receivers = Receivers(folder)
        self.seen: Counter[str] = Counter()

    def run(self, trials: int) -> None:
        """Lose so many tails."""
        try:
            self.receivers.start()
            vm = self.receivers.new_vm()
            tap = self.receivers.new_tap(vm, self.chance.getrandbits(32))
            for _ in range(trials):
                self._stream(tap)
                tap.close()
                self.receivers.kill()
                self._damage(Path(vm.journal))
                self.receivers.start()
                self._look(Path(vm.journal), tap)
            tap.close()
        finally:
            self.receivers.close()

    def _stream(self, tap: TortureTap) -> None:
        if tap.channel is None:
            tap.hello()
            tap.follow()
        deadline = until(15)
        for _ in range(150):
            tap.step()
        if tap.valid_from is not None and self.chance.random() < 0.5:
            tap.overflow()  # the end of its sync is the last thing that the journal gets
        while tap.valid_from is None:
            verify.require(until(0) < deadline, "the sync does not end")
            tap.step()
        tap.settle()

    def _damage(self, folder: Path) -> None:
        """Cut off, or alter, some of the newest frames."""
        segment = next(s for s in reversed(segments_of(folder)) if s.frames)
        first = self.chance.choice(segment.frames[-4:])
        data = bytearray(segment.path.read_bytes())
        place = self.chance.randrange(first[0], first[2])
        if self.chance.random() < 0.5:
            del data[place:]
            self.seen["frames cut off"] += 1
        else:
            data[place] ^= 1 << self.chance.randrange(8)
            self.seen["a bit flipped near the end"] += 1
        segment.path.write_bytes(data)

    def _look(self, folder: Path, tap: TortureTap) -> None:
        welcome = tap.hello()
        self.seen[f"told to {welcome['action']}{' on a base' if welcome['base'] else ''}"] += 1
        stored = verify.stored_frames(folder)
        tap.acknowledged = [frame for frame in tap.acknowledged if stored[frame]]
        for epoch in tap.truth.epochs:  # its sync-end may be among what was lost
            epoch.certain = False
        tap.follow()
        self._stream(tap)
        lost_before = tap.truth.epochs[-1].begins + 1
        tap.truth.epochs[:-1] = [e for e in tap.truth.epochs[:-1] if e.last < lost_before]
        points = verify.samples(self.chance, tap.truth, tap.acked_lsn, 3)
        reader = verify.opened(folder, tap.acked_lsn)
        for lsn in points:
            if lsn >= (tap.valid_from or 0):
                verify.served(reader, tap.truth, lsn)
            elif verify.refusal(reader, lsn) is None:
                for disk in tap.truth.sizes:
                    verify.served_or_refused(reader, tap.truth, lsn, disk)
        self.seen["records kept"] = sum(parse_header(frame).records for frame in tap.acknowledged)
