"""The torture's tap without a network: its frames go straight into a JournalWriter of this process."""

from __future__ import annotations

import ssl
from typing import Any

from journal.frame import parse_header
from journal.writer import JournalWriter
from lastwrite.address import Address
from tests.torture.tap import TortureTap


class LocalTap(TortureTap):
    """Steps make frames; deliver() appends and commits them, and takes the acknowledgement."""

    def __init__(self, writer: JournalWriter, seed: int) -> None:
        super().__init__(Address("", 0), ssl.create_default_context(), seed)
        self.writer = writer
        self.appended = 0

    def connect(self) -> None:
        """Begin an epoch, as a receiver would tell it."""
        self.next_cut = self.writer.next_cut
        self.begin(self.writer.epoch + 1, self.writer.next_lsn, self.writer.valid_base)
        self.appended = self.resume

    def pump(self, seconds: float = 0.0) -> list[Any]:
        """Nothing comes."""
        return []

    def deliver(self, most: int = 1 << 30) -> int:
        """Append what waits (at most so many frames), commit, forget what is durable; return the next LSN."""
        waiting = self.ring[self.appended - self.resume :][:most]
        for data in waiting:
            header = parse_header(data)
            self.writer.append(header, data[: header.head_bytes], data[header.head_bytes :])
        self.acked_lsn, position = self.writer.commit()
        self.appended = self.resume + len(self.ring[: self.appended - self.resume]) + len(waiting)
        self.drop_before(position)
        self.forget()
        return self.acked_lsn

    def run(self, steps: int, frames_per_commit: int = 4) -> None:
        """Do so many random things, with commits between them."""
        for _ in range(steps):
            self.step()
            if len(self.ring) >= self.random.randint(1, frames_per_commit):
                self.deliver()
        self.deliver()

    def run_until_valid(self) -> None:
        """Go on until the epoch's sync has ended."""
        while self.valid_from is None:
            self.run(10)
