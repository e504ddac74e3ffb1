"""A consumer that may be killed at any instant: adopts the tap, appends records to a file, goes on after the last.

    consumer.py PIN_DIR FILE

A record in the file: {u64 end, u32 kind, u32 disk, u64 offset, u32 length, u32 lost}, then the data.
"""

from __future__ import annotations

import os
import struct
import sys
import time
from pathlib import Path

from guesttap.bpf import BpfTap

HEAD = struct.Struct("<QIIQII")


def good_part(content: bytes) -> tuple[int, int]:
    """Return how many bytes of the file are whole records, and the ring position after the last."""
    at = position = 0
    while at + HEAD.size <= len(content):
        end, _, _, _, length, _ = HEAD.unpack_from(content, at)
        if at + HEAD.size + length > len(content):
            break
        at += HEAD.size + length
        position = end
    return at, position


def main(pin_dir: str, file: str) -> None:
    out = os.open(file, os.O_RDWR | os.O_CREAT)
    size, position = good_part(Path(file).read_bytes())
    os.ftruncate(out, size)
    os.lseek(out, size, os.SEEK_SET)
    tap = BpfTap.adopt(pin_dir)
    assert tap is not None
    position = max(position, tap.consumer_position)
    while True:
        start = position
        for record in tap.records(position, 1 << 20):
            length = len(record.data) if record.data else 0
            os.write(out, HEAD.pack(record.end, record.kind, record.disk, record.offset, length, record.lost))
            os.write(out, record.data)
            position = record.end
        tap.release(position)
        if position == start:
            time.sleep(0.002)


if __name__ == "__main__":
    main(*sys.argv[1:])
