"""A disk in memory that can be served and written out, made without any of the journal's code."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from lastwrite.errors import IntegrityError, NotFoundError
from recovery.nbd.exports import Export
from tests.needs import missing

BLOCK = 4096
MIB = 1 << 20
_ZEROS = memoryview(bytes(1 << 20))


def tool(name: str) -> str:
    """Return the path of a program that a test needs."""
    path = shutil.which(name)
    return path or missing(f"{name} is not installed")


class MemoryDisk:
    """Blocks in a dict; what is not there is a hole. A read that touches a block of `bad` fails."""

    def __init__(self, disk_bytes: int, blocks: dict[int, bytes] | None = None) -> None:
        self.disk_bytes = disk_bytes
        self.blocks = blocks or {}
        self.bad: set[int] = set()

    def content(self) -> bytes:
        whole = bytearray(-(-self.disk_bytes // BLOCK) * BLOCK)
        for number, data in self.blocks.items():
            whole[number * BLOCK : (number + 1) * BLOCK] = data
        return bytes(whole[: self.disk_bytes])

    def write_to(self, path: Path) -> Path:
        path.write_bytes(self.content())
        return path

    def pieces(self, offset: int, length: int) -> list[memoryview]:
        found = []
        while length:
            number, inside = divmod(offset, BLOCK)
            size = min(length, BLOCK - inside)
            if number in self.bad:
                raise IntegrityError(f"the data of the frame at LSN {number} does not match its checksum")
            block = self.blocks.get(number)
            found.append(memoryview(block)[inside : inside + size] if block else _ZEROS[:size])
            offset += size
            length -= size
        return found

    def extents(self, offset: int, length: int) -> Iterator[tuple[int, int, bool]]:
        end = offset + length
        while offset < end:
            stop, data = self._run(offset // BLOCK, end)
            yield offset, stop - offset, data
            offset = stop

    def _run(self, number: int, end: int) -> tuple[int, bool]:
        """Return where the run of block `number` ends, at most at `end`, and whether it has data."""
        if number not in self.blocks:
            later = min((n for n in self.blocks if n > number), default=end)
            return min(end, later * BLOCK), False
        while number in self.blocks and number * BLOCK < end:
            number += 1
        return min(end, number * BLOCK), True


def scattered(disk_bytes: int, count: int, seed: int = 1) -> MemoryDisk:
    """Return a disk with `count` blocks of random data at random places."""
    choice = random.Random(seed)
    numbers = choice.sample(range(disk_bytes // BLOCK), count)
    return MemoryDisk(disk_bytes, {number: choice.randbytes(BLOCK) for number in numbers})


def dense(disk_bytes: int, seed: int = 1) -> MemoryDisk:
    """Return a disk whose first half is full of random data, its last block too, and the rest a hole."""
    choice = random.Random(seed)
    last = (disk_bytes - 1) // BLOCK
    numbers = [*range(last // 2), last]
    blocks = {number: choice.randbytes(BLOCK) for number in numbers}
    blocks[last] = blocks[last][: disk_bytes - last * BLOCK].ljust(BLOCK, b"\0")
    return MemoryDisk(disk_bytes, blocks)


class MemoryExports:
    """An export source of memory disks by name; names that end in @latest float."""

    def __init__(self, disks: dict[str, MemoryDisk]) -> None:
        self.disks = disks

    def open(self, name: str) -> Export:
        if name not in self.disks:
            raise NotFoundError(f"there is no export {name!r}")
        return Export(name, f"disk {name}", name.endswith("@latest"), self.disks[name])

    def names(self) -> list[tuple[str, str]]:
        return [(name, f"disk {name}") for name in self.disks]
