"""`overhead`: what a journal takes beyond the data, for random 4 KiB writes in the frames that the agent makes.

The agent's own Stream closes the frames and a real writer appends them, with a tick for each second's worth of
writes. Counted are all files of the journal, the footer of its segment included; caches that can be deleted
(indexes) are made later, by upkeep.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import time

from bench.measure import Benchmark, Case, Sample
from bench.stream import DISK_BYTES
from guesttap.agent.clock import now
from guesttap.agent.stream import Stream
from journal.frame import BLOCK, SECTOR, Buffer, parse_header
from journal.writer import JournalWriter

WRITES, SMOKE_WRITES = 262_144, 32_768
"""1 GiB, in a smoke run 128 MiB."""
WRITES_PER_TICK = 16_384
PEER_PERCENT = 100 * SECTOR / BLOCK
"""dm-log-writes puts an entry of one sector before the data of each write; nothing needs to be run to know that."""


class Overhead(Benchmark):
    """The size of a journal beside the size of what was written."""

    name = "overhead"
    summary = "bytes of a journal beyond the data, percent"

    @classmethod
    def cases(cls, options: argparse.Namespace) -> list[Case]:
        """Return the one case."""
        return [Case("4k", "percent", "dm-log-writes", 1.0, 0.5, lower_is_better=True, bounds_value=True)]

    def round(self) -> dict[str, Sample]:
        """Write one journal and weigh it."""
        folder = self.setup.folder / "journal"
        writes = SMOKE_WRITES if self.setup.smoke else WRITES
        with JournalWriter.create(folder, "bench") as writer:
            _write(writer, writes)
        held = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        shutil.rmtree(folder)
        payload = writes * BLOCK
        return {"4k": Sample(100 * (held - payload) / payload, PEER_PERCENT)}


def _write(writer: JournalWriter, writes: int) -> None:
    def send(frame: Buffer) -> None:
        view = memoryview(frame)
        header = parse_header(view)
        writer.append(header, view[: header.head_bytes], view[header.head_bytes :])

    stream = Stream(send, {0: 0}, epoch=1, next_lsn=1, next_cut=1, position=0)
    disks = [{"disk": 0, "name": "vda", "bytes": DISK_BYTES, "serial": "bench"}]
    told = {"order": "total", "generation": 1, "boot": "bench", "reason": "benchmark", "sync": "initial"}
    stream.begin_epoch(1, 0, now(), disks=disks, **told)
    draw, data = random.Random(1), os.urandom(BLOCK)
    for number in range(1, writes + 1):
        stream.write(0, draw.randrange(DISK_BYTES // BLOCK) * BLOCK, data, time.monotonic_ns(), 0)
        stream.reach(number)
        if number % WRITES_PER_TICK == 0:
            stream.cut(now(), "tick", "crash")
            writer.commit()
    stream.flush()
