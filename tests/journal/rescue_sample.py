"""A small journal to try `lastwrite journal` on: `python -m tests.journal.rescue_sample DIR [--damaged]`.

A VM whose disk begins with a line that is written anew in each of the last 60 seconds; 20 seconds ago a mistake is
made, right after the bookmark `before-the-mistake`. With --damaged a bit of the newest segment is wrong.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from journal.scan import SegmentScan
from journal.writer import JournalWriter
from lastwrite.errors import LastwriteError
from lastwrite.instant import SECOND
from tests.journal.tap import WALL, Tap

DISK_BYTES = 1 << 20
SECONDS, MISTAKE_AT = 60, 40


def write_sample(folder: Path, now: int | None = None) -> None:
    """Write the journal into a new folder; its newest record is of `now` (ns). Raises JournalExists."""
    newest = time.time_ns() if now is None else now
    with JournalWriter.create(folder, "sample", segment_bytes=1_200_000) as writer:
        tap = Tap(writer, {0: DISK_BYTES})
        tap.mono = newest - (SECONDS + 1) * SECOND - WALL
        tap.protect(b"\0")
        for second in range(1, SECONDS + 1):
            tap.mono += SECOND
            if second == MISTAKE_AT:
                tap.cut("bookmark", "before-the-mistake")
            line = f"line {second}\n" if second < MISTAKE_AT else "everything is gone\n"
            tap.write(0, 0, line.encode().ljust(4096, b"\0"))


def damage(folder: Path) -> None:
    """Flip a bit in the head of a frame in the newest segment."""
    path = sorted((folder / "timelines/0001").glob("*.seg"))[-1]
    scan = SegmentScan(path, int(path.stem))
    scan.extend()
    offset = int(scan.frames.array()["offset"][-10])
    data = bytearray(path.read_bytes())
    data[offset + 20] ^= 1
    path.write_bytes(data)


def main() -> int:
    """Write what the command line asks for; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.journal.rescue_sample", description=__doc__)
    parser.add_argument("folder", metavar="DIR", type=Path, help="a folder that is not there yet")
    parser.add_argument("--damaged", action="store_true", help="with a wrong bit in the newest segment")
    options = parser.parse_args()
    try:
        write_sample(options.folder)
    except LastwriteError as error:
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
        return error.exit_code
    if options.damaged:
        damage(options.folder)
    print(f"{options.folder} is a journal now: lastwrite journal info {options.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
