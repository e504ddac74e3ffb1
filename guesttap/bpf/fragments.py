"""Pieces of eBPF code that several of the tap's programs share.

Conventions: R9 points to a slot (abi.py); R6-R8 belong to the fragment; the stack below KEY is the
program's own. Each fragment falls through at its end.
"""

from __future__ import annotations

from typing import NamedTuple

from guesttap.bpf import abi
from guesttap.bpf.abi import D, T
from guesttap.bpf.assembler import FP, R0, R1, R2, R3, R4, R6, R7, R8, R9, Assembler

# Kernel helpers by number.
MAP_LOOKUP, MAP_UPDATE, MAP_DELETE, KTIME, TAIL_CALL = 1, 2, 3, 5, 12
PROBE_READ, QUEUE_PUSH, RING_RESERVE, RING_SUBMIT, RING_DISCARD = 113, 87, 131, 132, 133
NO_WAKEUP = 1

# The stack: the context, a map key, a u64 of scratch and a queue entry.
CONTEXT, KEY, WORD, ENTRY = -8, -16, -24, -40
FREE = ENTRY  # the program's own variables lie below


class Maps(NamedTuple):
    """File descriptors of the tap's maps (maps.py creates them)."""

    ring: int
    disks: int
    state: int
    disk_counters: int
    totals: int
    dirty: int
    queue: int
    pending: int
    walker: int
    taken: int
    meta: int


def probe_read(asm: Assembler, to: int, size: int, source: int, delta: int = 0) -> None:
    """Copy `size` bytes of kernel memory at `source + delta` to the stack at `to`; R0 is 0 if that worked."""
    asm.copy(R3, source)
    if delta:
        asm.alu("add", R3, delta)
    asm.stack_pointer(R1, to)
    asm.move(R2, size)
    asm.call(PROBE_READ)


def lookup(asm: Assembler, fd: int, key: int) -> None:
    """R0 = address of the value whose key lies on the stack at `key`, or 0."""
    asm.map_pointer(R1, fd)
    asm.stack_pointer(R2, key)
    asm.call(MAP_LOOKUP)


def lookup_only(asm: Assembler, fd: int, otherwise: str) -> None:
    """R0 = address of a one-entry array's value; to `otherwise` if there is none (there always is)."""
    asm.store_value(FP, KEY, 0, 4)
    lookup(asm, fd, KEY)
    asm.jump_if(R0, "==", 0, otherwise)


def add_constant(asm: Assembler, base: int, offset: int, value: int = 1) -> None:
    """`*(base + offset) += value`, atomically; R1 is lost."""
    asm.move(R1, value)
    asm.atomic_add(base, offset, R1)


def disk_counters(asm: Assembler, maps: Maps, otherwise: str) -> None:
    """R8 = the counters of the slot's disk."""
    asm.load(R1, R9, abi.S_DISK, 4)
    asm.store(FP, KEY, R1, 4)
    lookup(asm, maps.disk_counters, KEY)
    asm.jump_if(R0, "==", 0, otherwise)
    asm.copy(R8, R0)


def by_operation(asm: Assembler, to: int, opf: int) -> None:
    """`to` = R8 where discards count 8 bytes after writes, as the kernel counts them apart."""
    other = asm.fresh("counted-as-write")
    asm.copy(to, R8)
    asm.alu("and", opf, 0xFF)
    asm.jump_if(opf, "!=", abi.OP_DISCARD, other)
    asm.alu("add", to, 8)
    asm.label(other)


def reserve(asm: Assembler, maps: Maps, size: int, otherwise: str) -> None:
    """R6 = room for a record of `size` bytes of data; to `otherwise` if the ring is full."""
    asm.map_pointer(R1, maps.ring)
    asm.move(R2, abi.RECORD_BYTES + size)
    asm.move(R3, 0)
    asm.call(RING_RESERVE)
    asm.jump_if(R0, "==", 0, otherwise)
    asm.copy(R6, R0)


def submit(asm: Assembler, helper: int = RING_SUBMIT) -> None:
    """Give the record at R6 to the consumer, which polls (or, with RING_DISCARD, throw it away)."""
    asm.copy(R1, R6)
    asm.move(R2, NO_WAKEUP)
    asm.call(helper)


def fill_header(asm: Assembler) -> None:
    """Copy what the slot knows into the record at R6; length and flags are left to the caller."""
    for source, target in ((abi.S_TIME, abi.AT_TIME), (abi.S_OFFSET, abi.AT_OFFSET), (abi.S_BIO, abi.AT_BIO)):
        asm.load(R1, R9, source)
        asm.store(R6, target, R1)
    asm.load(R1, R9, abi.S_DISK)  # disk and opf in one
    asm.store(R6, abi.AT_DISK, R1)
    for source, target in ((abi.S_LOST, abi.AT_LOST), (abi.S_WHOLE, abi.AT_WHOLE)):
        asm.load(R1, R9, source, 4)
        asm.store(R6, target, R1, 4)


def leave(asm: Assembler, maps: Maps) -> None:
    """Give the slot back (the innermost one: nesting is last in, first out) and end the program."""
    end = asm.fresh("leave")
    lookup_only(asm, maps.state, end)
    asm.load(R1, R0, 0)
    asm.alu("sub", R1, 1)
    asm.store(R0, 0, R1)
    asm.label(end)
    asm.move(R0, 0)
    asm.exit()


def mark_range(asm: Assembler, maps: Maps, granularity: int) -> None:
    """Mark [S_OFFSET, + S_REST) of the slot at R9 dirty: bytes of the map, or the queue, or the whole disk.

    Plain byte stores, as an atomic OR needs Linux 5.12: a byte per chunk cannot disturb its neighbours.
    """
    done, queue, everything = asm.fresh("marked"), asm.fresh("queue"), asm.fresh("all-dirty")
    asm.load(R1, R9, abi.S_REST, 4)
    asm.jump_if(R1, "==", 0, done)
    asm.load(R7, R9, abi.S_OFFSET)
    asm.copy(R6, R7)
    asm.alu_reg("add", R6, R1)
    asm.alu("sub", R6, 1)
    asm.alu("rsh", R6, granularity)
    asm.alu("rsh", R7, granularity)
    asm.load(R2, R9, abi.S_CHUNKS, 4)
    asm.jump_if_reg(R6, ">=", R2, everything)  # the disk has grown since attach
    asm.jump_if(R1, ">", abi.MAX_MARKED_CHUNKS << granularity, queue)
    asm.load(R1, R9, abi.S_BASE, 4)
    asm.alu_reg("add", R6, R1)
    asm.alu_reg("add", R7, R1)
    for _ in range(abi.MAX_MARKED_CHUNKS + 1):  # one more, as a range need not begin with a chunk
        asm.jump_if_reg(R7, ">", R6, done)
        asm.copy(R1, R7)
        asm.alu("rsh", R1, 3)  # eight chunks to an entry
        asm.store(FP, KEY, R1, 4)
        lookup(asm, maps.dirty, KEY)
        asm.jump_if(R0, "==", 0, everything)
        asm.copy(R1, R7)
        asm.alu("and", R1, 7)
        asm.alu_reg("add", R0, R1)
        asm.store_value(R0, 0, 1, 1)
        asm.alu("add", R7, 1)
    asm.jump(done)
    asm.label(queue)
    _queue_range(asm, maps)
    asm.jump_if(R0, "==", 0, done)
    asm.label(everything)
    disk_counters(asm, maps, done)
    asm.store_value(R8, D["all_dirty"], 1, 8)
    asm.label(done)


def _queue_range(asm: Assembler, maps: Maps) -> None:
    asm.load(R1, R9, abi.S_OFFSET)
    asm.store(FP, ENTRY, R1)
    for source, target in ((abi.S_DISK, ENTRY + 8), (abi.S_REST, ENTRY + 12)):
        asm.load(R1, R9, source, 4)
        asm.store(FP, target, R1, 4)
    asm.map_pointer(R1, maps.queue)
    asm.stack_pointer(R2, ENTRY)
    asm.move(R3, 0)
    asm.call(QUEUE_PUSH)


def lose(asm: Assembler, maps: Maps, granularity: int, otherwise: str) -> None:
    """The rest of the slot's bio cannot be captured: count, mark all of the bio dirty, remember it.

    It is marked now, so that a look at the map shows it, and again when it lands (requests.py), because
    whoever reads the disk in between may see the old content. `lost` grows last: who sees it sees the marks.
    """
    _count_loss(asm, maps, otherwise)
    mark_range(asm, maps, granularity)
    asm.load(R1, R9, abi.S_BIO)
    asm.store(FP, WORD, R1)
    _mark_predecessor(asm, maps, granularity)
    lookup_only(asm, maps.totals, otherwise)
    asm.copy(R8, R0)
    asm.map_pointer(R1, maps.pending)
    asm.stack_pointer(R2, WORD)
    asm.copy(R3, R9)
    asm.move(R4, 0)
    asm.call(MAP_UPDATE)
    untracked, counted = asm.fresh("untracked"), asm.fresh("counted")
    asm.jump_if(R0, "!=", 0, untracked)
    add_constant(asm, R8, T["tracked"])
    asm.jump(counted)
    asm.label(untracked)
    add_constant(asm, R8, T["untracked"])
    asm.label(counted)
    add_constant(asm, R8, T["lost"])


def _mark_predecessor(asm: Assembler, maps: Maps, granularity: int) -> None:
    """An entry under the same address (in WORD) is of a bio that landed unseen: mark its extent before it goes."""
    none = asm.fresh("no-predecessor")
    lookup(asm, maps.pending, WORD)
    asm.jump_if(R0, "==", 0, none)
    asm.store(FP, CONTEXT, R9)  # the context is not needed any more
    asm.copy(R9, R0)
    mark_range(asm, maps, granularity)
    asm.load(R9, FP, CONTEXT)
    asm.label(none)


def _count_loss(asm: Assembler, maps: Maps, otherwise: str) -> None:
    """Count the captured part and the rest; then make the slot cover the whole bio again."""
    disk_counters(asm, maps, otherwise)
    add_constant(asm, R8, D["lost_bios"])
    asm.load(R1, R9, abi.S_OPF, 4)
    by_operation(asm, R2, R1)
    asm.load(R6, R9, abi.S_WHOLE, 4)
    asm.load(R7, R9, abi.S_REST, 4)
    asm.atomic_add(R2, D["dirty_write_bytes"], R7)
    asm.store(R9, abi.S_REST, R6, 4)
    asm.alu_reg("sub", R6, R7)
    asm.atomic_add(R2, D["write_bytes"], R6)
    asm.load(R1, R9, abi.S_OFFSET)
    asm.alu_reg("sub", R1, R6)
    asm.store(R9, abi.S_OFFSET, R1)
    asm.load(R1, R9, abi.S_WHOLE, 4)
    asm.store(R9, abi.S_COUNTDOWN, R1)
