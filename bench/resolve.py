"""Any point of a journal as a map of the whole disk, against log replay: every record written into an image."""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.errors import BenchFailed
from bench.measure import Benchmark, Case, Sample
from bench.resolve_journal import RECORDS, Story, blocks_of, write_journal
from journal.frame import BLOCK

DISK = 100 << 30
SCATTERED = DISK // BLOCK  # writes to any block of the disk
HOT = (5 << 30) // BLOCK  # nine of ten writes to a twentieth of it
REPLAY = "log replay"
ROOM_MB = 240  # 200 MB and 40 MB for 100 GiB of disk
STORIES = {
    "cold-1m": Story(1_000_000, DISK, SCATTERED),
    "cold-10m": Story(10_000_000, DISK, HOT, holes=True),
    "memory-50m": Story(50_000_000, DISK, HOT, holes=True),
    "cold-250k": Story(250_000, DISK, SCATTERED, segment_bytes=256 << 20),
    "memory-5m": Story(5_000_000, DISK, HOT, holes=True),
}
SMOKE = ("cold-250k", "memory-5m")  # the others' replays take minutes
BOUNDS = {"cold-1m": (100, 300), "cold-10m": (100, 1000), "cold-250k": (10, 20)}  # floor, target


class Ran(NamedTuple):
    """A process that has ended: seconds from its start to its end, and what it printed."""

    seconds: float
    said: dict[str, Any]


class Resolve(Benchmark):
    """A new process makes the map; nothing of the journal is in the page cache, for the peer neither."""

    name = "resolve"
    summary = "any point of a journal as a map"

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        """`--only`: some of the cases."""
        parser.add_argument("--only", choices=STORIES, action="append", help="only these journals")

    @classmethod
    def cases(cls, options: argparse.Namespace) -> list[Case]:
        """Return what will be measured."""
        found = []
        for name in _chosen(options):
            if name not in BOUNDS:
                found.append(Case(name, "s", floor=0.6, target=0.25, lower_is_better=True))
            else:
                floor, target = BOUNDS[name]
                found.append(Case(name, "s", REPLAY, floor=floor, target=target, lower_is_better=True))
                found.append(
                    Case(f"{name}-memory", "MB", floor=ROOM_MB, target=ROOM_MB, lower_is_better=True)
                )
        return found

    def open(self) -> None:
        """Write the journals, and see that their maps are right."""
        for name in _chosen(self.setup.options):
            self.setup.progress.tell(f"writing {name}")
            write_journal(self._folder(name), STORIES[name])
            self._check(name)

    def round(self) -> dict[str, Sample]:
        """Make a map of a point near the end of each journal, and replay it to the same point."""
        found = {}
        for name in _chosen(self.setup.options):
            folder, lsn = self._folder(name), str(_point(STORIES[name]))
            self.setup.progress.tell(name)
            if name not in BOUNDS:
                said = self._run("resolve", str(folder), lsn, "5").said
                found[name] = Sample(statistics.median(said["seconds"][1:]))
                continue
            forget(folder)
            ours = self._run("resolve", str(folder), lsn, "1")
            self.setup.progress.tell(f"{name}, log replay")
            forget(folder)
            image = self.setup.folder / "replayed.img"
            found[name] = Sample(ours.seconds, self._run("replay", str(folder), lsn, str(image)).seconds)
            found[f"{name}-memory"] = Sample(ours.said["megabytes"])
            image.unlink()
        return found

    def _folder(self, name: str) -> Path:
        return self.setup.folder / name

    def _run(self, what: str, *arguments: str) -> Ran:
        return run(what, *arguments, modules=self.setup.folder / "modules")

    def _check(self, name: str) -> None:
        """Compare the number of blocks in a map with those that were written. Raises BenchFailed."""
        story = STORIES[name]
        frames = story.records // RECORDS * 9 // 10
        written = np.zeros(story.disk_bytes // BLOCK, np.bool_)
        for number in range(frames):
            written[blocks_of(story, number)] = True
        due = int(written.sum()) * BLOCK
        found = self._run("count", str(self._folder(name)), str(1 + frames * RECORDS)).said["bytes"]
        if found != due:
            raise BenchFailed(f"the map of {name} has {found} bytes of data, {due} were written")


def _chosen(options: argparse.Namespace) -> list[str]:
    if options.only:
        return [name for name in STORIES if name in options.only]
    return [name for name in STORIES if (name in SMOKE) == options.smoke]


def _point(story: Story) -> int:
    """Return a point among the last tenth of the records, which is no end of a frame."""
    return int(story.records * random.uniform(0.9, 0.999))


def run(what: str, *arguments: str, modules: Path) -> Ran:
    """Run bench.resolve_worker in a new process. Raises BenchFailed when it fails.

    `modules`: a folder for compiled modules, which an installed program has. Where the environment forbids Python to
    write them beside the source, each process would compile all of the journal's anew.
    """
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(modules)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    begun = time.perf_counter()
    command = [sys.executable, "-m", "bench.resolve_worker", what, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False, env=environment)
    if done.returncode:
        raise BenchFailed(f"`{what}` of a journal ended with {done.returncode}")
    return Ran(time.perf_counter() - begun, json.loads(done.stdout))


def forget(folder: Path) -> None:
    """Take a journal out of the page cache."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            fd = os.open(path, os.O_RDONLY)
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)
