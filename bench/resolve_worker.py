"""What `bench resolve` times as a new process: a point as a map, or as an image by log replay. Prints JSON."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path


def resolve(folder: str, lsn: str, rounds: str) -> dict[str, object]:
    """Make the map of the whole disk; each round anew. `seconds`: of each round."""
    from journal.reader import JournalReader

    reader = JournalReader(folder)
    seconds = []
    for _ in range(int(rounds)):
        begun = time.perf_counter()
        blocks = reader.resolve(int(lsn), 0)
        for _ in blocks.windows():
            pass
        seconds.append(time.perf_counter() - begun)
    return {"seconds": seconds, "megabytes": peak()}


def peak() -> float:
    """Return the greatest resident memory of this process, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status has no VmHWM")


def count(folder: str, lsn: str) -> dict[str, object]:
    """Count the bytes of the disk that have data."""
    from journal.reader import JournalReader

    blocks = JournalReader(folder).resolve(int(lsn), 0)
    return {"bytes": sum(length for _, length, data in blocks.extents() if data)}


def replay(folder: str, lsn: str, image: str) -> dict[str, object]:
    """Write every record up to a point into a sparse image, in order, and make it durable."""
    from journal import frame
    from journal.frame import BLOCK, SECTOR, WRITE, round_up

    disk = os.open(image, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    os.ftruncate(disk, 100 << 30)
    for path in sorted((Path(folder) / "timelines" / "0001").glob("*.seg")):
        with open(path, "rb", buffering=0) as file:
            place, size = BLOCK, os.fstat(file.fileno()).st_size
            while place + BLOCK <= size:
                head = os.pread(file.fileno(), 4 * BLOCK, place)
                if head[:4] != frame.MAGIC:
                    break
                header = frame.parse_header(head)
                payload = memoryview(os.pread(file.fileno(), header.payload_bytes, place + header.head_bytes))
                left = min(header.records, int(lsn) + 1 - header.first_lsn)
                for record, at in frame.records(header, head[: header.head_bytes]):
                    if left <= 0:
                        break
                    left -= 1
                    if record.kind == WRITE:
                        length = record.sectors * SECTOR
                        os.pwrite(disk, payload[at : at + length], record.sector * SECTOR)
                place += round_up(header.head_bytes) + header.payload_bytes
    os.fdatasync(disk)
    os.close(disk)
    return {}


if __name__ == "__main__":
    commands: dict[str, Callable[..., dict[str, object]]] = {
        "resolve": resolve,
        "count": count,
        "replay": replay,
    }
    print(json.dumps(commands[sys.argv[1]](*sys.argv[2:])))
