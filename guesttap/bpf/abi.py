"""What the programs in the kernel and the readers in user space agree on: records, counters, maps.

A *record* is 48 bytes of header, then (for data) the piece's bytes:

    0  u64 time    ns, CLOCK_MONOTONIC          24 u32 disk    index; ANY_DISK in a mark
    8  u64 offset  bytes from the disk's start  28 u32 opf     the kernel's operation and flags
    16 u64 bio     groups the pieces of a bio   32 u32 length  bytes of this piece
                   (a mark: its token)          36 u32 flags   below
    40 u32 lost    the lost counter then        44 u32 whole   bytes of the whole bio

Before each record the kernel puts 8 bytes of its own (length and two bits), and pads to 8.
"""

from __future__ import annotations

import struct

RECORD = struct.Struct("<QQQIIIIII")
RECORD_BYTES = 48
assert RECORD.size == RECORD_BYTES
AT_TIME, AT_OFFSET, AT_BIO, AT_DISK, AT_OPF, AT_LENGTH, AT_FLAGS, AT_LOST, AT_WHOLE = (
    0, 8, 16, 24, 28, 32, 36, 40, 44,
)  # fmt: skip
RING_HEAD_BYTES = 8
RING_BUSY, RING_DISCARDED, RING_LENGTH = 1 << 31, 1 << 30, (1 << 30) - 1

# Flags of a record. A failed write's status (the kernel's blk_status_t) is in bits 8 to 15.
FIRST, LAST, NO_DATA, HAS_FAILED, IS_MARK, UNRESOLVED, BY_REQUEST = 1, 2, 4, 8, 16, 32, 64
STATUS_SHIFT = 8
ANY_DISK = 0xFFFFFFFF

# Kernel operations (the low 8 bits of opf) that can reach a conventional disk as a write.
OP_WRITE, OP_DISCARD, OP_SECURE_ERASE, OP_WRITE_ZEROES = 1, 3, 5, 9

# One lost bio is remembered until it completes: a *slot* as below, under its address.
# A slot is also the programs' working state, one per nesting depth and CPU.
SLOT_BYTES = 64
S_TIME, S_OFFSET, S_BIO, S_DISK, S_OPF, S_VEC, S_REST, S_DONE, S_BASE, S_LOST, S_CHUNKS, S_WHOLE = (
    0, 8, 16, 24, 28, 32, 40, 44, 48, 52, 56, 60,
)  # fmt: skip
S_COUNTDOWN = S_VEC  # of a lost bio: bytes that have not landed
SLOTS = 3  # kernels before 6.1 let an interrupt nest a program inside itself
STATE_BYTES = SLOT_BYTES * (1 + SLOTS)  # depth in the first 8 bytes, then the slots

# Per-disk counters (u64 each), and the byte offset of each in a disk's entry.
DISK_COUNTERS = (
    "bios", "write_bytes", "discard_bytes", "dirty_write_bytes", "dirty_discard_bytes", "flushes", "nodata",
    "failed", "refused_write_bytes", "refused_discard_bytes", "all_dirty", "encrypted", "faults", "lost_bios",
)  # fmt: skip
DISK_COUNTER_BYTES = 128
D = {name: 8 * number for number, name in enumerate(DISK_COUNTERS)}

# Counters of the whole tap. `lost` breaks the stream: it grows with each loss, and when a lost write lands.
TOTALS = ("lost", "tracked", "landed", "untracked", "nested_too_deep")
TOTALS_BYTES = 64
T = {name: 8 * number for number, name in enumerate(TOTALS)}

MAX_DISKS = 64
DISK_VALUE = struct.Struct("<IIII")  # index, first chunk in the dirty map, chunks, 0
DISK_KEY = struct.Struct("<II")  # major, first minor
QUEUE_ENTRY = struct.Struct("<QII")  # offset, disk, length
QUEUE_ENTRIES = 4096
PENDING_ENTRIES = 16384
MAX_MARKED_CHUNKS = 16  # a longer loss goes to the range queue
META_BYTES = 16384
