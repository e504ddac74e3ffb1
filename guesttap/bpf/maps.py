"""The tap's maps: creating them, and finding them again under their pins."""

from __future__ import annotations

import mmap
import os
import struct

from guesttap.bpf import abi, syscall
from guesttap.bpf.fragments import Maps


def create_maps(ring_bytes: int, chunks: int) -> Maps:
    """Create all maps; `chunks` is the dirty map's size in bytes, one per chunk of a disk."""
    made: dict[str, int] = {}
    try:
        for name, kind, key, value, entries, flags in _specifications(ring_bytes, chunks):
            made[name] = syscall.create_map(kind, key, value, entries, "lw_" + name[:12], flags)
    except Exception:
        for fd in made.values():
            os.close(fd)
        raise
    return Maps(**made)


def _specifications(ring_bytes: int, chunks: int) -> list[tuple[str, int, int, int, int, int]]:
    """Return name, kind, key bytes, value bytes, entries, flags of each map."""
    array, shared = syscall.MAP_ARRAY, syscall.MMAPABLE
    return [
        ("ring", syscall.MAP_RINGBUF, 0, 0, ring_bytes, 0),
        ("disks", syscall.MAP_HASH, abi.DISK_KEY.size, abi.DISK_VALUE.size, abi.MAX_DISKS, 0),
        ("state", syscall.MAP_PERCPU_ARRAY, 4, abi.STATE_BYTES, 1, 0),
        ("disk_counters", array, 4, abi.DISK_COUNTER_BYTES, abi.MAX_DISKS, shared),
        ("totals", array, 4, abi.TOTALS_BYTES, 1, shared),
        ("dirty", array, 4, 8, -(-chunks // 8), shared),  # the kernel pads entries to 8 bytes
        ("taken", array, 4, 8, -(-chunks // 8), shared),
        ("queue", syscall.MAP_QUEUE, 0, abi.QUEUE_ENTRY.size, abi.QUEUE_ENTRIES, 0),
        ("pending", syscall.MAP_HASH, 8, abi.SLOT_BYTES, abi.PENDING_ENTRIES, 0),
        ("walker", syscall.MAP_PROG_ARRAY, 4, 4, 1, 0),
        ("meta", array, 4, abi.META_BYTES, 1, 0),
    ]


def map_entries(fd: int) -> int:
    """Return a map's max_entries (the ring's bytes, an array's length)."""
    return int(struct.unpack_from("<I", syscall.info(fd, 88), 16)[0])


def shared_memory(fd: int, size: int) -> mmap.mmap:
    """Map the values of an mmapable array into this process: plain loads and stores see the kernel's."""
    pages = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    return mmap.mmap(fd, pages, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
