"""What a longer history costs: appending to it, and making a map of a point of it, at 1, 10 and 100 times the length.

The payloads of the history are holes in its files: frames, indexes and net maps are those of a real one, and neither
appending nor resolving reads payloads.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path

from bench.measure import Benchmark, Case, Sample
from bench.resolve import run
from bench.resolve_journal import RECORDS, Story, write_journal
from journal.frame import BLOCK, CAPTURED, FrameBuilder, parse_header
from journal.writer import JournalWriter

BASE = 100_000  # records
FACTORS = (1, 10, 100)
SEGMENT = 64 << 20  # small: a hundred times the base is hundreds of files
DISK = 100 << 30
HOT = (1 << 30) // BLOCK
FRAMES = 64  # appended, each of 256 writes of 4 KiB


class Scaling(Benchmark):
    """Each case's peer is the same at 1 time the length, in the same round: the ratio is what is left of the speed."""

    name = "scaling"
    summary = "cost of appending and resolving as the history grows"

    @classmethod
    def cases(cls, options: argparse.Namespace) -> list[Case]:
        """Return what will be measured: factors of growth show as ratios below 1."""
        found = []
        for factor in FACTORS[1:]:
            peer = f"the same at {BASE:,} records"
            length = f"{BASE * factor:,}-records"
            found.append(Case(f"append-{length}", "us", peer, floor=0.5, target=0.9, lower_is_better=True))
            found.append(
                Case(
                    f"resolve-{length}", "ms", peer, floor=1 / factor, target=4 / factor, lower_is_better=True
                )
            )
        return found

    def open(self) -> None:
        """Write the histories."""
        for factor in FACTORS:
            story = Story(BASE * factor, DISK, HOT, SEGMENT, holes=True)
            self.setup.progress.tell(f"writing {story.records:,} records")
            write_journal(self._folder(factor), story)

    def _folder(self, factor: int) -> Path:
        return self.setup.folder / f"times-{factor}"

    def round(self) -> dict[str, Sample]:
        """Append the same frames to each, and resolve a point near the end of each."""
        appended = {factor: _append(self._folder(factor)) for factor in FACTORS}
        modules = self.setup.folder / "modules"
        resolved = {factor: _resolve(self._folder(factor), BASE * factor, modules) for factor in FACTORS}
        found = {}
        for factor in FACTORS[1:]:
            length = f"{BASE * factor:,}-records"
            found[f"append-{length}"] = Sample(appended[factor], appended[1])
            found[f"resolve-{length}"] = Sample(resolved[factor], resolved[1])
        return found


def _append(folder: Path) -> float:
    """Return the microseconds that a write of 4 KiB takes to append durably; the journal is open already."""
    data = os.urandom(BLOCK)
    with JournalWriter.open(folder, segment_bytes=1 << 30) as writer:
        begun = time.perf_counter()
        for _ in range(FRAMES):
            builder = FrameBuilder(CAPTURED)
            for number in range(RECORDS):
                builder.add_write(0, number * 8, data, 10**15)
            frame = builder.finish(
                first_lsn=writer.next_lsn, epoch=writer.epoch, position=writer.position + 1
            )
            header = parse_header(frame)
            writer.append(header, bytes(frame[: header.head_bytes]), bytes(frame[header.head_bytes :]))
            writer.commit()
        return (time.perf_counter() - begun) / (FRAMES * RECORDS) * 1e6


def _resolve(folder: Path, records: int, modules: Path) -> float:
    """Return the milliseconds that a map of a point near the end takes, in a process that has the journal open."""
    said = run("resolve", str(folder), str(records * 9 // 10), "5", modules=modules).said
    return float(statistics.median(said["seconds"][1:]) * 1000)
