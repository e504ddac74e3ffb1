"""A load for a mounted file system: appends with fdatasync, O_DIRECT, memory maps, files made and deleted.

Usage: load.py FOLDER SECONDS PAUSE (seconds between rounds of about 300 KB). Ends at SIGTERM. Standard library only.
"""

from __future__ import annotations

import itertools
import mmap
import os
import random
import sys
import time
from pathlib import Path


def main(folder: Path, seconds: float, pause: float) -> None:
    deadline = time.monotonic() + seconds
    chance = random.Random(7)
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    direct = os.open(folder / "direct", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    os.posix_fallocate(direct, 0, 8 << 20)
    buffer = mmap.mmap(-1, 64 << 10)
    for number in itertools.count():
        if time.monotonic() > deadline:
            return
        time.sleep(pause)
        os.write(log, b"%016d\n" % number * 64)
        os.fdatasync(log)
        if os.fstat(log).st_size > 8 << 20:
            os.ftruncate(log, 0)
        buffer[:8] = number.to_bytes(8, "little")
        os.pwrite(direct, buffer, chance.randrange(128) * (64 << 10))
        name = folder / f"file{number % 40}"
        name.write_bytes(os.urandom(chance.randrange(1, 200_000)))
        if number % 7 == 0:
            name.unlink()
        if number % 50 == 0:
            os.sync()


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))
