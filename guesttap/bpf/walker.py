"""The walker: copies the data of one bio into the ring, piece by piece.

The verifier of older kernels knows no loops, so PIECES steps are written out; a longer bio goes on in a tail
call of the walker to itself (the kernel allows 33). A record's size must be a constant to be reserved, so
a piece is copied in one of a few sizes; what a record holds beyond `length` is not part of it.
"""

from __future__ import annotations

from guesttap.bpf import abi
from guesttap.bpf import fragments as frag
from guesttap.bpf.abi import D
from guesttap.bpf.assembler import FP, R0, R1, R2, R3, R6, R7, R8, R9, Assembler
from guesttap.bpf.fragments import CONTEXT, FREE, Maps
from guesttap.bpf.layout import KernelLayout

PIECES = 64
_WHOLE_SIZES = (65536, 16384, 4096)  # cut off as long as they fit
_TAIL_SIZES = (512, 1024, 2048, 4096)  # for what is shorter than a page
_VEC = FREE - 16


def walker_program(
    layout: KernelLayout, maps: Maps, granularity: int, page_array: int, linear_base: int
) -> bytes:
    """Assemble the walker; the two addresses are calibrate.py's."""
    asm = Assembler()
    asm.store(FP, CONTEXT, R1)
    _find_slot(asm, maps)
    for number in range(PIECES):
        _piece(asm, layout, maps, number, page_array, linear_base)
    asm.load(R1, R9, abi.S_REST, 4)
    asm.jump_if(R1, "==", 0, "captured")
    asm.load(R1, FP, CONTEXT)
    asm.map_pointer(R2, maps.walker)
    asm.move(R3, 0)
    asm.call(frag.TAIL_CALL)
    asm.jump("lose")  # more than 33 times 64 pieces
    asm.label("discard")
    frag.submit(asm, frag.RING_DISCARD)
    asm.label("fault")
    frag.disk_counters(asm, maps, "lose")
    frag.add_constant(asm, R8, D["faults"])
    asm.label("lose")
    frag.lose(asm, maps, granularity, "leave")
    asm.jump("leave")
    asm.label("captured")
    frag.disk_counters(asm, maps, "leave")
    asm.load(R1, R9, abi.S_WHOLE, 4)
    asm.atomic_add(R8, D["write_bytes"], R1)
    asm.label("leave")
    frag.leave(asm, maps)
    asm.label("out")
    asm.move(R0, 0)
    asm.exit()
    return asm.assemble()


def _find_slot(asm: Assembler, maps: Maps) -> None:
    """R9 = the slot that `main` filled: the innermost."""
    frag.lookup_only(asm, maps.state, "out")
    asm.copy(R9, R0)
    asm.load(R1, R9, 0)
    asm.alu("sub", R1, 1)
    asm.jump_if(R1, ">", abi.SLOTS - 1, "out")
    asm.alu("lsh", R1, abi.SLOT_BYTES.bit_length() - 1)
    asm.alu_reg("add", R9, R1)
    asm.alu("add", R9, abi.SLOT_BYTES)


def _piece(
    asm: Assembler, layout: KernelLayout, maps: Maps, number: int, page_array: int, linear_base: int
) -> None:
    """One step: the next piece of the current bio_vec becomes a record."""
    asm.load(R1, R9, abi.S_REST, 4)
    asm.jump_if(R1, "==", 0, "captured")
    _measure(asm, layout, number)
    _address(asm, layout, page_array, linear_base)
    _reserve(asm, maps, number)
    _describe(asm, number)
    asm.copy(R1, R6)
    asm.alu("add", R1, abi.RECORD_BYTES)
    asm.copy(R2, R7)
    asm.copy(R3, R8)
    asm.call(frag.PROBE_READ)
    asm.jump_if(R0, "!=", 0, "discard")
    frag.submit(asm)
    _advance(asm, layout, number)


def _measure(asm: Assembler, layout: KernelLayout, number: int) -> None:
    """R7 = bytes left in this bio_vec and bio, R1 = bytes of it already done."""
    fits = f"fits-{number}"
    asm.load(R3, R9, abi.S_VEC)
    frag.probe_read(asm, _VEC, 16, R3)
    asm.jump_if(R0, "!=", 0, "fault")
    asm.load(R7, FP, _VEC + layout.vec_length, 4)
    asm.load(R1, R9, abi.S_DONE, 4)
    asm.jump_if_reg(R1, ">=", R7, "fault")
    asm.alu_reg("sub", R7, R1)
    asm.load(R2, R9, abi.S_REST, 4)
    asm.jump_if_reg(R7, "<=", R2, fits)
    asm.copy(R7, R2)
    asm.label(fits)


def _address(asm: Assembler, layout: KernelLayout, page_array: int, linear_base: int) -> None:
    """R8 = kernel address of the piece: linear base + page frame number * page size + offset + done (R1)."""
    asm.load(R8, FP, _VEC + layout.vec_page)
    asm.load64(R2, page_array)
    asm.alu_reg("sub", R8, R2)
    asm.alu("div", R8, layout.page_bytes)
    asm.alu("lsh", R8, layout.page_shift)
    asm.load64(R2, linear_base)
    asm.alu_reg("add", R8, R2)
    asm.load(R2, FP, _VEC + layout.vec_offset, 4)
    asm.alu_reg("add", R8, R2)
    asm.alu_reg("add", R8, R1)


def _reserve(asm: Assembler, maps: Maps, number: int) -> None:
    """R6 = a record with room for R7 bytes, after R7 was cut to one of the sizes."""
    got = f"got-{number}"
    for size in _WHOLE_SIZES:
        asm.jump_if(R7, ">=", size, f"whole-{size}-{number}")
    for size in _TAIL_SIZES[:-1]:
        asm.jump_if(R7, "<=", size, f"tail-{size}-{number}")
    asm.jump(f"tail-{_TAIL_SIZES[-1]}-{number}")
    for size in _WHOLE_SIZES:
        asm.label(f"whole-{size}-{number}")
        asm.move(R7, size)
        frag.reserve(asm, maps, size, "lose")
        asm.jump(got)
    for size in _TAIL_SIZES:
        asm.label(f"tail-{size}-{number}")
        frag.reserve(asm, maps, size, "lose")
        asm.jump(got)
    asm.label(got)


def _describe(asm: Assembler, number: int) -> None:
    """Fill the header of the record at R6: the piece's length, and whether it is the bio's first or last."""
    not_last, not_first = f"not-last-{number}", f"not-first-{number}"
    frag.fill_header(asm)
    asm.store(R6, abi.AT_LENGTH, R7, 4)
    asm.load(R1, R9, abi.S_REST, 4)
    asm.load(R3, R9, abi.S_WHOLE, 4)
    asm.move(R2, 0)
    asm.jump_if_reg(R1, "!=", R7, not_last)
    asm.alu("or", R2, abi.LAST)
    asm.label(not_last)
    asm.jump_if_reg(R1, "!=", R3, not_first)
    asm.alu("or", R2, abi.FIRST)
    asm.label(not_first)
    asm.store(R6, abi.AT_FLAGS, R2, 4)


def _advance(asm: Assembler, layout: KernelLayout, number: int) -> None:
    """Move the slot on by R7 bytes, to the next bio_vec if this one is done."""
    same = f"same-vec-{number}"
    asm.load(R1, R9, abi.S_OFFSET)
    asm.alu_reg("add", R1, R7)
    asm.store(R9, abi.S_OFFSET, R1)
    asm.load(R1, R9, abi.S_REST, 4)
    asm.alu_reg("sub", R1, R7)
    asm.store(R9, abi.S_REST, R1, 4)
    asm.load(R1, R9, abi.S_DONE, 4)
    asm.alu_reg("add", R1, R7)
    asm.load(R2, FP, _VEC + layout.vec_length, 4)
    asm.jump_if_reg(R1, "<", R2, same)
    asm.load(R1, R9, abi.S_VEC)
    asm.alu("add", R1, layout.vec_bytes)
    asm.store(R9, abi.S_VEC, R1)
    asm.move(R1, 0)
    asm.label(same)
    asm.store(R9, abi.S_DONE, R1, 4)
