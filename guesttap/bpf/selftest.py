"""Tries the whole path of a bio into the ring on this kernel, without writing to any disk.

The main program is loaded once more in a form that captures the reads of this thread instead of writes. At
its submission a read's memory still holds what was there before: a random pattern of ours. If the ring shows
exactly that pattern, then struct offsets, page addresses, the walker and the ring are right.
"""

from __future__ import annotations

import os
import threading

from guesttap.bpf import syscall
from guesttap.bpf.calibrate import DirectBuffer
from guesttap.bpf.disks import Disk
from guesttap.bpf.errors import SelfTestError
from guesttap.bpf.fragments import Maps
from guesttap.bpf.layout import KernelLayout
from guesttap.bpf.programs import main_program
from guesttap.bpf.ring import Ring

_ATTEMPTS = 3
_MOST_BYTES = 512 << 10  # more than 64 pages: the walker has to go on in a tail call


def self_test(layout: KernelLayout, maps: Maps, granularity: int, ring: Ring, disks: list[Disk]) -> None:
    """Capture one O_DIRECT read of each disk and compare; leaves the ring empty. Raises SelfTestError."""
    code = main_program(layout, maps, granularity, self_test=threading.get_native_id())
    program = syscall.load_program(code, "lw_selftest")
    try:
        for disk in disks:
            _try_disk_repeatedly(program, ring, disk)
    finally:
        os.close(program)


def _try_disk_repeatedly(program: int, ring: Ring, disk: Disk) -> None:
    """A page fault of this thread during the read is captured too, and spoils one attempt."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return _try_disk(program, ring, disk)
        except SelfTestError:
            ring.release(ring.producer_position)
    return _try_disk(program, ring, disk)


def _try_disk(program: int, ring: Ring, disk: Disk) -> None:
    buffer = DirectBuffer(min(_MOST_BYTES, disk.bytes) & ~4095 or 4096)
    pattern = bytes(buffer.memory)
    begin = ring.producer_position
    link = syscall.attach_raw_tracepoint("block_bio_queue", program)
    try:
        buffer.read_from(disk.path)
    finally:
        os.close(link)
    captured = bytearray(len(pattern))
    seen = 0
    for record in ring.records(begin, ring.size):
        if record.disk != disk.index or record.offset + record.length > len(captured):
            raise SelfTestError(f"{disk.path}: a read of its start was seen at byte {record.offset}")
        captured[record.offset : record.offset + record.length] = record.data
        seen += record.length
    ring.release(ring.producer_position)
    if seen != len(pattern) or captured != pattern:
        verdict = "right" if captured == pattern else "wrong"
        raise SelfTestError(
            f"{disk.path}: {seen} of {len(pattern)} known bytes were seen, and the content is {verdict}"
        )
