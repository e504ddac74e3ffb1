"""The program on the end of bios: refused ones, and those of drivers without request queues (else: requests.py).

Lost writes that land are marked again, failed writes are reported.
"""

from __future__ import annotations

from guesttap.bpf import abi
from guesttap.bpf import fragments as frag
from guesttap.bpf.abi import D, T
from guesttap.bpf.assembler import FP, R0, R1, R2, R6, R7, R8, R9, Assembler
from guesttap.bpf.fragments import CONTEXT, KEY, Maps
from guesttap.bpf.layout import KernelLayout
from guesttap.bpf.programs import DISK_VALUE, HEAD_END, all_dirty, select_disk


def complete_program(layout: KernelLayout, maps: Maps, granularity: int) -> bytes:
    """Assemble the program for block_bio_complete.

    A lost write that lands is marked dirty again. A write that failed was captured though the disk never
    had it, so a record says so: {bio, status}, with the extent as far as the kernel still knows it. (One that
    was lost and failed needs no record: all of it is dirty.)
    """
    asm = Assembler()
    head = HEAD_END - layout.bio_window
    asm.load(R6, R1, 8 * layout.complete_argument)
    frag.probe_read(asm, head, layout.bio_window, R6)
    asm.jump_if(R0, "!=", 0, "out")
    asm.load(R7, FP, head + layout.bio_opf, 4)
    asm.jump_if(R7, "&", 1, "write")
    asm.jump("out")
    asm.label("write")
    asm.store(FP, CONTEXT, R6)  # this program does not need its context again: the bio lies there
    asm.store_value(FP, DISK_VALUE + 8, 0, 8)  # 1: it is a landed one
    _land(asm, maps, granularity)
    asm.label("status")
    asm.load(R1, FP, head + layout.bio_status, 1)
    asm.jump_if(R1, "==", 0, "out")
    _select_disk_of_failed(asm, layout, maps, head)
    _count_failed(asm, layout, maps, head)
    _emit_failed(asm, layout, maps, head)
    asm.label("out")
    asm.move(R0, 0)
    asm.exit()
    return asm.assemble()


def _land(asm: Assembler, maps: Maps, granularity: int) -> None:
    """If the bio is one that was lost: mark its extent again, forget it."""
    frag.lookup_only(asm, maps.totals, "out")
    asm.load(
        R2, R0, T["landed"]
    )  # before `tracked`: the other way round a landing in between could hide ours
    asm.load(R1, R0, T["tracked"])
    asm.jump_if_reg(R1, "==", R2, "status")  # the usual case: no lost write is in flight
    frag.lookup(asm, maps.pending, CONTEXT)
    asm.jump_if(R0, "==", 0, "status")
    asm.copy(R9, R0)
    asm.store_value(FP, DISK_VALUE + 8, 1, 8)
    frag.mark_range(asm, maps, granularity)
    asm.map_pointer(R1, maps.pending)
    asm.stack_pointer(R2, CONTEXT)
    asm.call(frag.MAP_DELETE)
    asm.jump_if(R0, "!=", 0, "status")
    frag.lookup_only(asm, maps.totals, "out")
    asm.copy(R8, R0)
    frag.add_constant(asm, R8, T["lost"])
    frag.add_constant(asm, R8, T["landed"])  # last: who sees it landed sees the mark


def _select_disk_of_failed(asm: Assembler, layout: KernelLayout, maps: Maps, head: int) -> None:
    """As _select_disk, but only the index is kept: the second half of the value says `landed`."""
    asm.load(R7, FP, DISK_VALUE + 8)
    select_disk(asm, layout, maps, head)
    asm.store(FP, DISK_VALUE + 8, R7)
    asm.load(R1, FP, DISK_VALUE, 4)
    asm.store(FP, KEY, R1, 4)
    frag.lookup(asm, maps.disk_counters, KEY)
    asm.jump_if(R0, "==", 0, "out")
    asm.copy(R8, R0)


def _count_failed(asm: Assembler, layout: KernelLayout, maps: Maps, head: int) -> None:
    """Bytes left at the end were refused before they became a request: the kernel counts them neither."""
    frag.add_constant(asm, R8, D["failed"])
    asm.load(R7, FP, head + layout.bio_opf, 4)
    asm.load(R9, FP, head + layout.iter_size, 4)
    asm.copy(R1, R7)
    frag.by_operation(asm, R2, R1)
    asm.atomic_add(R2, D["refused_write_bytes"], R9)


def _emit_failed(asm: Assembler, layout: KernelLayout, maps: Maps, head: int) -> None:
    """R7 = opf, R9 = bytes left. A full ring makes the whole disk dirty, as nobody will learn the extent."""
    asm.load(R1, FP, DISK_VALUE + 8)
    asm.jump_if(R1, "!=", 0, "out")
    frag.reserve(asm, maps, 0, "no-room")
    asm.load(R1, FP, CONTEXT)
    asm.store(R6, abi.AT_BIO, R1)
    asm.load(R1, FP, head + layout.iter_sector)
    asm.alu("lsh", R1, 9)
    asm.store(R6, abi.AT_OFFSET, R1)
    asm.load(R1, FP, DISK_VALUE, 4)
    asm.store(R6, abi.AT_DISK, R1, 4)
    asm.store(R6, abi.AT_OPF, R7, 4)
    asm.store(R6, abi.AT_LENGTH, R9, 4)
    asm.store(R6, abi.AT_WHOLE, R9, 4)
    asm.load(R1, FP, head + layout.bio_status, 1)
    asm.alu("lsh", R1, abi.STATUS_SHIFT)
    asm.alu("or", R1, abi.LAST | abi.NO_DATA | abi.HAS_FAILED)
    asm.store(R6, abi.AT_FLAGS, R1, 4)
    asm.call(frag.KTIME)
    asm.store(R6, abi.AT_TIME, R0)
    asm.store_value(R6, abi.AT_LOST, 0, 4)
    asm.store_value(FP, KEY, 0, 4)
    frag.lookup(asm, maps.totals, KEY)
    asm.jump_if(R0, "==", 0, "failed-filled")
    asm.load(R1, R0, T["lost"], 4)
    asm.store(R6, abi.AT_LOST, R1, 4)
    asm.label("failed-filled")
    frag.submit(asm)
    asm.jump("out")
    asm.label("no-room")
    asm.load(R1, FP, DISK_VALUE, 4)
    all_dirty(asm, maps, "out")
    frag.add_constant(asm, R8, T["lost"])
