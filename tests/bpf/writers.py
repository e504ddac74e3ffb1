"""Writes numbered blocks in one of several ways, for a while. Runs as a program of its own.

    writers.py sequence PATH WAY FIRST_BLOCK BLOCKS SECONDS RATE SEED
    writers.py pair PATH1 PATH2 BLOCK COUNT
    writers.py flood PATH BYTES ROUNDS SEED

Each 4 KiB block of `sequence` begins with {u64 number of the block, u64 count of its rewrites};
RATE is the most writes per second, so that a test's ring can be made to hold all of them.
"""

from __future__ import annotations

import mmap
import os
import random
import struct
import sys
import time
from collections.abc import Callable

BLOCK = 4096
HEAD = struct.Struct("<QQ")
WAYS = ("fdatasync", "direct", "dsync", "mmap", "direct-dsync")

Write = Callable[[int, int], None]


def _with_calls(path: str, flags: int, sync: bool) -> Write:
    fd = os.open(path, os.O_RDWR | flags)
    buffer = mmap.mmap(-1, BLOCK)

    def write(block: int, count: int) -> None:
        HEAD.pack_into(buffer, 0, block, count)
        assert os.pwritev(fd, [buffer], block * BLOCK) == BLOCK
        if sync:
            os.fdatasync(fd)

    return write


def _with_mapping(path: str, first: int, blocks: int) -> Write:
    fd = os.open(path, os.O_RDWR)
    area = mmap.mmap(fd, blocks * BLOCK, offset=first * BLOCK)
    words = memoryview(area).cast("Q")  # stores 8 bytes at once, where struct stores byte after byte

    def write(block: int, count: int) -> None:
        at = (block - first) * BLOCK
        words[at // 8], words[at // 8 + 1] = block, count
        if count % 2:
            area.flush(at, BLOCK)

    return write


def writer(path: str, way: str, first: int, blocks: int) -> Write:
    if way == "mmap":
        return _with_mapping(path, first, blocks)
    flags = {
        "fdatasync": 0,
        "direct": os.O_DIRECT,
        "dsync": os.O_DSYNC,
        "direct-dsync": os.O_DIRECT | os.O_DSYNC,
    }
    return _with_calls(path, flags[way], way == "fdatasync")


def sequence(path: str, way: str, first: str, blocks: str, seconds: str, rate: str, seed: str) -> int:
    write, low, number = writer(path, way, int(first), int(blocks)), int(first), int(blocks)
    choose, counts, done = random.Random(seed), [0] * number, 0
    start = time.monotonic()
    while (passed := time.monotonic() - start) < float(seconds):
        if done >= passed * float(rate):
            time.sleep(0.001)
            continue
        at = choose.randrange(number)
        counts[at] += 1
        write(low + at, counts[at])
        done += 1
    return done


def pair(one: str, two: str, block: str, rounds: str) -> int:
    """n to the first disk, and after that has completed n to the second."""
    first, second = _with_calls(one, os.O_DIRECT, False), _with_calls(two, os.O_DIRECT, False)
    for count in range(1, int(rounds) + 1):
        first(int(block), count)
        second(int(block), count)
    return int(rounds)


def flood(path: str, size: str, rounds: str, seed: str) -> int:
    """Random contents at random places, in sizes from 512 bytes to 4 MiB, past the cache and through it."""
    choose, limit = random.Random(seed), int(size)
    direct, cached = os.open(path, os.O_RDWR | os.O_DIRECT), os.open(path, os.O_RDWR)
    buffer = mmap.mmap(-1, 4 << 20)
    for _ in range(int(rounds)):
        length = choose.choice((512, 1024, 3584, 4096, 69632, 1 << 20, 4 << 20))
        at = choose.randrange((limit - length) // 512) * 512
        buffer[:length] = choose.randbytes(64) * (length // 64)
        os.pwritev(direct, [memoryview(buffer)[:length]], at)
        os.pwrite(cached, buffer[:4096], choose.randrange(limit // 4096) * 4096)
    os.fsync(cached)
    return int(rounds)


if __name__ == "__main__":
    commands: dict[str, Callable[..., int]] = {"sequence": sequence, "pair": pair, "flood": flood}
    print(commands[sys.argv[1]](*sys.argv[2:]))
