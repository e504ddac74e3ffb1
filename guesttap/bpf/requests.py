"""The program on the completion of requests: what the disk failed, and lost writes that land.

Drivers with request queues end bios inside a request, and the kernel then does not report the bios one by one;
block_rq_complete tells the request, its error and how many bytes of it are done. (Refused bios, and drivers
without requests, end in block_bio_complete instead: complete.py.)

A lost bio may have been split: the pieces in front are clones whose `bi_private` is the bio itself. So each bio
of a request is looked up under its own address and under that; a countdown of bytes tells when all have landed.

Completions can go unseen: an interrupt nests one inside another, or the tracepoint does not fire (seen on 6.18:
a few in 100,000). So nothing may depend on seeing each: what stays in the pending map is settled when its
address is used again (fragments.py) or when the disk is idle (pending.py).
"""

from __future__ import annotations

from guesttap.bpf import abi
from guesttap.bpf import fragments as frag
from guesttap.bpf.abi import D, T
from guesttap.bpf.assembler import FP, R0, R1, R2, R3, R6, R7, R8, R9, Assembler
from guesttap.bpf.fragments import CONTEXT, FREE, KEY, WORD, Maps
from guesttap.bpf.layout import KernelLayout

# A request of more bios leaves the rest to user space (pending.py).
MOST_BIOS = 128

_LEFT, _LOW, _HIGH, _LANDED, _FOUND, _BIO = (FREE - 8 * number for number in range(1, 7))
_SLOT = _BIO - abi.SLOT_BYTES  # an extent to mark, in the form of a slot
_HEAD_END = _SLOT


def request_program(layout: KernelLayout, maps: Maps, granularity: int) -> bytes:
    """Assemble the program for block_rq_complete(request, error, bytes)."""
    asm = Assembler()
    asm.load(R6, R1, 0)
    asm.load(R7, R1, 8)
    asm.load(R8, R1, 16)
    asm.store(FP, CONTEXT, R6)
    asm.store(FP, _LEFT, R8)
    asm.jump_if(R8, "==", 0, "out")
    asm.jump_if(R7, "==", 0, "land")
    _report_failure(asm, layout, maps, granularity)
    asm.label("land")
    _walk_bios(asm, layout, maps)
    asm.label("walked")
    _mark_landed(asm, maps, granularity)
    asm.label("out")
    asm.move(R0, 0)
    asm.exit()
    return asm.assemble()


def _read(asm: Assembler, base: int, offset: int, otherwise: str, size: int = 8) -> None:
    """The stack's WORD = `size` bytes at `base + offset`."""
    asm.store_value(FP, WORD, 0, 8)
    frag.probe_read(asm, WORD, size, base, offset)
    asm.jump_if(R0, "!=", 0, otherwise)


def _report_failure(asm: Assembler, layout: KernelLayout, maps: Maps, granularity: int) -> None:
    """R6 = request, R7 = error, R8 = bytes: a FAILED record with the extent, if it is a write to a tapped disk."""
    asm.store(FP, _LANDED, R7)
    _read(asm, R6, layout.request_flags, "land", 4)
    asm.load(R9, FP, WORD)
    asm.copy(R1, R9)
    asm.alu("and", R1, 0xFF)
    for operation in (abi.OP_WRITE, abi.OP_DISCARD, abi.OP_SECURE_ERASE, abi.OP_WRITE_ZEROES):
        asm.jump_if(R1, "==", operation, "failed-write")
    asm.jump("land")
    asm.label("failed-write")
    _find_disk(asm, layout, maps)
    _describe_extent(asm, layout)
    _count_failure(asm, maps)
    frag.reserve(asm, maps, 0, "no-room")
    _fill_record(asm, maps)
    frag.submit(asm)
    asm.jump("land")
    asm.label("no-room")  # nobody will read of it: the extent becomes dirty
    asm.stack_pointer(R9, _SLOT)
    frag.mark_range(asm, maps, granularity)
    frag.lookup_only(asm, maps.totals, "land")
    asm.copy(R8, R0)
    frag.add_constant(asm, R8, T["lost"])


def _find_disk(asm: Assembler, layout: KernelLayout, maps: Maps) -> None:
    """The slot's disk, base and chunks, from the request's disk; to `land` if it is not tapped."""
    asm.copy(R3, R6)
    for offset in layout.request_to_disk:
        _read(asm, R3, offset, "land")
        asm.load(R3, FP, WORD)
    _read(asm, R3, layout.disk_major, "land")
    frag.lookup(asm, maps.disks, WORD)
    asm.jump_if(R0, "==", 0, "land")
    for source, target in ((0, abi.S_DISK), (4, abi.S_BASE), (8, abi.S_CHUNKS)):
        asm.load(R1, R0, source, 4)
        asm.store(FP, _SLOT + target, R1, 4)


def _describe_extent(asm: Assembler, layout: KernelLayout) -> None:
    asm.store(FP, _SLOT + abi.S_OPF, R9, 4)
    asm.store(FP, _SLOT + abi.S_REST, R8, 4)
    asm.store(FP, _SLOT + abi.S_WHOLE, R8, 4)
    _read(asm, R6, layout.request_sector, "land")
    asm.load(R1, FP, WORD)
    asm.alu("lsh", R1, 9)
    asm.store(FP, _SLOT + abi.S_OFFSET, R1)
    _read(asm, R6, layout.request_bio, "land")
    asm.load(R1, FP, WORD)
    asm.store(FP, _SLOT + abi.S_BIO, R1)
    asm.call(frag.KTIME)
    asm.store(FP, _SLOT + abi.S_TIME, R0)


def _count_failure(asm: Assembler, maps: Maps) -> None:
    asm.load(R1, FP, _SLOT + abi.S_DISK, 4)
    asm.store(FP, KEY, R1, 4)
    frag.lookup(asm, maps.disk_counters, KEY)
    asm.jump_if(R0, "==", 0, "land")
    asm.copy(R8, R0)
    frag.add_constant(asm, R8, D["failed"])
    frag.lookup_only(asm, maps.totals, "land")
    asm.load(R1, R0, T["lost"], 4)
    asm.store(FP, _SLOT + abi.S_LOST, R1, 4)


def _fill_record(asm: Assembler, maps: Maps) -> None:
    asm.stack_pointer(R9, _SLOT)
    frag.fill_header(asm)
    asm.load(R1, R9, abi.S_REST, 4)
    asm.store(R6, abi.AT_LENGTH, R1, 4)
    asm.load(R1, FP, _LANDED)
    asm.alu("and", R1, 0xFF)
    asm.alu("lsh", R1, abi.STATUS_SHIFT)
    asm.alu("or", R1, abi.LAST | abi.NO_DATA | abi.HAS_FAILED | abi.BY_REQUEST)
    asm.store(R6, abi.AT_FLAGS, R1, 4)


def _walk_bios(asm: Assembler, layout: KernelLayout, maps: Maps) -> None:
    """For each bio that this completion covers: is it, or the bio it was split from, a lost one?"""
    frag.lookup_only(asm, maps.totals, "out")
    asm.load(
        R2, R0, T["landed"]
    )  # before `tracked`: the other way round a landing in between could hide ours
    asm.load(R1, R0, T["tracked"])
    asm.jump_if_reg(R1, "==", R2, "out")  # the usual case: no lost write is in flight
    asm.load(R6, FP, CONTEXT)
    _read(asm, R6, layout.request_bio, "out")
    asm.load(R1, FP, WORD)
    asm.store(FP, _BIO, R1)
    asm.load64(R1, 0xFFFFFFFFFFFFFFFF)
    asm.store(FP, _LOW, R1)
    for place in (_HIGH, _LANDED, _FOUND, _SLOT + abi.S_DISK, _SLOT + abi.S_BASE, _SLOT + abi.S_CHUNKS):
        asm.store_value(FP, place, 0, 8)
    for number in range(MOST_BIOS):
        _bio(asm, layout, maps, number)


def _bio(asm: Assembler, layout: KernelLayout, maps: Maps, number: int) -> None:
    found, following, fits = f"found-{number}", f"following-{number}", f"fits-{number}"
    head = _HEAD_END - layout.bio_links_window
    asm.load(R3, FP, _BIO)
    asm.jump_if(R3, "==", 0, "walked")
    frag.probe_read(asm, head, layout.bio_links_window, R3)
    asm.jump_if(R0, "!=", 0, "walked")
    asm.load(R7, FP, head + layout.iter_size, 4)
    asm.load(R8, FP, _LEFT)
    asm.jump_if_reg(R7, "<=", R8, fits)
    asm.copy(R7, R8)
    asm.label(fits)  # R7 = bytes of this bio that are done
    frag.lookup(asm, maps.pending, _BIO)
    asm.jump_if(R0, "!=", 0, found)
    frag.lookup(asm, maps.pending, head + layout.bio_private)
    asm.jump_if(R0, "==", 0, following)
    asm.label(found)
    asm.copy(R9, R0)
    _widen(asm, number)
    _count_down(asm, maps, following)
    asm.label(following)
    asm.load(R1, FP, _LEFT)
    asm.alu_reg("sub", R1, R7)
    asm.store(FP, _LEFT, R1)
    asm.jump_if(R1, "==", 0, "walked")
    asm.load(R1, FP, head + layout.bio_next)
    asm.store(FP, _BIO, R1)


def _widen(asm: Assembler, number: int) -> None:
    """Let [_LOW, _HIGH) cover all of the lost bio at R9, and take its disk.

    All of it and not only this part: the entry may be of an earlier bio at this address that landed unseen.
    """
    asm.store_value(FP, _FOUND, 1, 8)
    lower, higher = f"lower-{number}", f"higher-{number}"
    asm.load(R1, R9, abi.S_OFFSET)
    asm.load(R2, FP, _LOW)
    asm.jump_if_reg(R1, ">=", R2, lower)
    asm.store(FP, _LOW, R1)
    asm.label(lower)
    asm.load(R2, R9, abi.S_WHOLE, 4)
    asm.alu_reg("add", R1, R2)
    asm.load(R2, FP, _HIGH)
    asm.jump_if_reg(R1, "<=", R2, higher)
    asm.store(FP, _HIGH, R1)
    asm.label(higher)
    for field in (abi.S_DISK, abi.S_BASE, abi.S_CHUNKS):
        asm.load(R1, R9, field, 4)
        asm.store(FP, _SLOT + field, R1, 4)


def _count_down(asm: Assembler, maps: Maps, following: str) -> None:
    """Take R7 bytes off the lost bio's countdown; at zero it has landed."""
    asm.load(
        R1, R9, abi.S_BIO
    )  # now: at zero another CPU may remove the entry, and another bio take its place
    asm.store(FP, WORD, R1)
    asm.move(R1, 0)
    asm.alu_reg("sub", R1, R7)
    asm.atomic_add(R9, abi.S_COUNTDOWN, R1)
    asm.load(R1, R9, abi.S_COUNTDOWN)
    asm.jump_if(R1, "!=", 0, following)
    asm.map_pointer(R1, maps.pending)
    asm.stack_pointer(R2, WORD)
    asm.call(frag.MAP_DELETE)
    asm.jump_if(R0, "!=", 0, following)  # another part of it, on another CPU, was quicker
    asm.load(R1, FP, _LANDED)
    asm.alu("add", R1, 1)
    asm.store(FP, _LANDED, R1)


def _mark_landed(asm: Assembler, maps: Maps, granularity: int) -> None:
    """Mark what the lost bios of this request cover, then count: who sees them landed sees the marks."""
    asm.load(R1, FP, _FOUND)
    asm.jump_if(R1, "==", 0, "out")
    # Copied by a helper, both become numbers of which the verifier knows nothing. Otherwise it would go
    # back through all the steps to learn their exact ranges, and give up.
    asm.stack_pointer(R3, _HIGH)
    frag.probe_read(asm, frag.ENTRY, 16, R3)
    asm.load(R2, FP, frag.ENTRY)
    asm.load(R1, FP, frag.ENTRY + 8)
    asm.store(FP, _SLOT + abi.S_OFFSET, R1)
    asm.alu_reg("sub", R2, R1)
    asm.store(FP, _SLOT + abi.S_REST, R2, 4)
    asm.stack_pointer(R9, _SLOT)
    frag.mark_range(asm, maps, granularity)
    frag.lookup_only(asm, maps.totals, "out")
    asm.copy(R8, R0)
    frag.add_constant(asm, R8, T["lost"])
    asm.load(R1, FP, _LANDED)
    asm.atomic_add(R8, T["landed"], R1)
