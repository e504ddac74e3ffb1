"""Opens damaged copies of a journal in a process of its own: fuzz_child.py FOLDER KIND SEED SECONDS

Prints JSON: how many copies, how many reads were served and refused, by how much its memory grew (MB). Ends with
status 1 and a traceback at anything that must not be: an error that is not ours, a wrong block, many seconds for one
copy.
"""

from __future__ import annotations

import json
import pickle
import random
import resource
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from journal import frame
from journal.offline.check import check
from journal.offline.info import info
from journal.reader import JournalReader
from journal.writer import JournalWriter
from lastwrite.errors import LastwriteError
from tests.journal import mutate

PATIENCE = 10  # seconds for one copy, on a busy machine

Expected = dict[int, dict[int, bytes]]


def look(
    folder: Path, expected: Expected, choices: random.Random, honest: bool, counts: Counter[str]
) -> None:
    """Do everything that reads; compare what is served when the damage is an accident (`honest`)."""
    for work in (JournalReader, check, info):
        try:
            work(folder)
        except LastwriteError:
            counts["refused whole"] += 1
    try:
        reader = JournalReader(folder)
        timelines = reader.timelines()
        for line in timelines:
            reader.cuts(line.number)
            reader.epochs(line.number)
    except LastwriteError:
        return
    for lsn in choices.sample(sorted(expected), 4):
        for disk, image in expected[lsn].items():
            try:
                found = reader.resolve(lsn, disk).read(0, len(image))
            except LastwriteError:
                counts["refused"] += 1
                continue
            counts["served"] += 1
            assert not honest or found == image, f"LSN {lsn}, disk {disk}: a wrong block"


def one(folder: Path, kind: str, expected: Expected, choices: random.Random, counts: Counter[str]) -> None:
    """One damaged copy: read it, let a writer open it, read again."""
    copy = folder.parent / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    what = mutate.damage(copy, choices) if kind == "accident" else mutate.forge(copy, choices)
    try:
        look(copy, expected, choices, kind == "accident", counts)
        try:
            with JournalWriter.open(copy) as writer:
                assert writer.next_lsn >= 1
        except LastwriteError:
            counts["not opened"] += 1
        look(copy, expected, choices, kind == "accident", counts)
    except BaseException:
        print(f"after: {what}", file=sys.stderr)
        raise


def stuck(*_: object) -> None:
    """What takes too long hangs."""
    raise AssertionError(f"it hangs: more than {PATIENCE} s for one copy")


def main(folder: Path, kind: str, seed: int, seconds: float) -> None:
    """Go on until the time is over."""
    expected: Expected = pickle.loads((folder.parent / "expected").read_bytes())
    choices, counts = random.Random(seed), Counter[str]()
    signal.signal(signal.SIGALRM, stuck)
    look(folder, expected, choices, True, Counter())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    end = time.monotonic() + seconds
    while time.monotonic() < end or not counts["copies"]:
        signal.alarm(PATIENCE)
        one(folder, kind, expected, choices, counts)
        counts["copies"] += 1
    signal.alarm(0)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    print(json.dumps({**counts, "grown_mb": grown, "frame_mb": frame.MAX_PAYLOAD_BYTES >> 20}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
