"""The programs that submissions run: `main` sees each bio on its way to a disk, `mark` is run by us.

`main` reads the head of a bio, keeps writes to the tapped disks, and hands those with data to the walker
(walker.py). What happens when bios end is in complete.py.
"""

from __future__ import annotations

from guesttap.bpf import abi
from guesttap.bpf import fragments as frag
from guesttap.bpf.abi import D, T
from guesttap.bpf.assembler import FP, R0, R1, R2, R3, R6, R7, R8, R9, Assembler
from guesttap.bpf.fragments import CONTEXT, FREE, KEY, WORD, Maps
from guesttap.bpf.layout import KernelLayout

_OP_READ = 0
_CURRENT_PID_TGID = 14
_DISK_KEY = FREE - 8
DISK_VALUE = FREE - 24
HEAD_END = DISK_VALUE  # the copy of the bio's head lies below


def main_program(layout: KernelLayout, maps: Maps, granularity: int, self_test: int = 0) -> bytes:
    """Assemble the program for block_bio_queue.

    `self_test` is a thread id, or 0: then not writes but the reads of this thread are captured (with what
    their memory held before), so that the whole path can be tried without writing to any disk.
    """
    asm = Assembler()
    head = HEAD_END - layout.bio_window
    asm.store(FP, CONTEXT, R1)
    asm.load(R6, R1, 8 * layout.queue_argument)
    frag.probe_read(asm, head, layout.bio_window, R6)
    asm.jump_if(R0, "!=", 0, "out")
    asm.load(R7, FP, head + layout.bio_opf, 4)
    _select_operation(asm, self_test)
    select_disk(asm, layout, maps, head)
    _take_slot(asm, maps)
    _fill_slot(asm, layout, maps, head)
    _dispatch(asm, layout, maps, head, bool(self_test))
    asm.label("lose")
    frag.lose(asm, maps, granularity, "leave")
    asm.label("leave")
    frag.leave(asm, maps)
    asm.label("too-deep")
    _lose_disk(asm, maps)
    asm.label("out")
    asm.move(R0, 0)
    asm.exit()
    return asm.assemble()


def _select_operation(asm: Assembler, self_test: int) -> None:
    """R7 = opf: go on with writes (odd operations), or with the reads of the thread under test."""
    if not self_test:
        asm.jump_if(R7, "&", 1, "wanted")
        asm.jump("out")
        asm.label("wanted")
        return
    asm.copy(R1, R7)
    asm.alu("and", R1, 0xFF)
    asm.jump_if(R1, "!=", _OP_READ, "out")
    asm.call(_CURRENT_PID_TGID)
    asm.alu("lsh", R0, 32)
    asm.alu("rsh", R0, 32)
    asm.jump_if(R0, "!=", self_test, "out")


def select_disk(asm: Assembler, layout: KernelLayout, maps: Maps, head: int) -> None:
    """Go on with tapped disks only; the disk's value is copied to the stack."""
    asm.load(R3, FP, head + layout.bio_device)
    if layout.device_disk is not None:
        frag.probe_read(asm, WORD, 8, R3, layout.device_disk)
        asm.jump_if(R0, "!=", 0, "out")
        asm.load(R3, FP, WORD)
    frag.probe_read(asm, _DISK_KEY, 8, R3, layout.disk_major)
    asm.jump_if(R0, "!=", 0, "out")
    frag.lookup(asm, maps.disks, _DISK_KEY)
    asm.jump_if(R0, "==", 0, "out")
    for half in (0, 8):
        asm.load(R1, R0, half)
        asm.store(FP, DISK_VALUE + half, R1)


def _take_slot(asm: Assembler, maps: Maps) -> None:
    """R9 = the slot of this nesting depth; R8 is left alone."""
    frag.lookup_only(asm, maps.state, "out")
    asm.copy(R9, R0)
    asm.load(R1, R9, 0)
    asm.jump_if(R1, ">", abi.SLOTS - 1, "too-deep")
    asm.copy(R2, R1)
    asm.alu("add", R2, 1)
    asm.store(R9, 0, R2)
    asm.alu("lsh", R1, abi.SLOT_BYTES.bit_length() - 1)
    asm.alu_reg("add", R9, R1)
    asm.alu("add", R9, abi.SLOT_BYTES)


def _fill_slot(asm: Assembler, layout: KernelLayout, maps: Maps, head: int) -> None:
    for source, target in ((0, abi.S_DISK), (4, abi.S_BASE), (8, abi.S_CHUNKS)):
        asm.load(R1, FP, DISK_VALUE + source, 4)
        asm.store(R9, target, R1, 4)
    asm.store(R9, abi.S_OPF, R7, 4)
    asm.store(R9, abi.S_BIO, R6)
    asm.load(R1, FP, head + layout.iter_sector)
    asm.alu("lsh", R1, 9)
    asm.store(R9, abi.S_OFFSET, R1)
    asm.load(R6, FP, head + layout.iter_size, 4)
    asm.store(R9, abi.S_REST, R6, 4)
    asm.store(R9, abi.S_WHOLE, R6, 4)
    asm.load(R1, FP, head + layout.iter_done, 4)
    asm.store(R9, abi.S_DONE, R1, 4)
    asm.load(R1, FP, head + layout.iter_index, 4)
    _multiply(asm, R1, layout.vec_bytes)
    asm.load(R2, FP, head + layout.bio_vecs)
    asm.alu_reg("add", R1, R2)
    asm.store(R9, abi.S_VEC, R1)
    frag.disk_counters(asm, maps, "leave")
    # The lost counter is read before anything of this bio is in the ring.
    frag.lookup_only(asm, maps.totals, "leave")
    asm.load(R1, R0, T["lost"], 4)
    asm.store(R9, abi.S_LOST, R1, 4)
    asm.call(frag.KTIME)
    asm.store(R9, abi.S_TIME, R0)


def _multiply(asm: Assembler, register: int, factor: int) -> None:
    if factor & (factor - 1):
        raise ValueError(f"a bio_vec of {factor} bytes is not a power of two")
    asm.alu("lsh", register, factor.bit_length() - 1)


def _dispatch(asm: Assembler, layout: KernelLayout, maps: Maps, head: int, self_test: bool) -> None:
    """By operation: data to the walker, flushes and extents straight into the ring, the unknown to `lose`."""
    asm.copy(R1, R7)
    asm.alu("and", R1, 0xFF)
    asm.jump_if(R1, "==", _OP_READ if self_test else abi.OP_WRITE, "data")
    for operation in (abi.OP_DISCARD, abi.OP_SECURE_ERASE, abi.OP_WRITE_ZEROES):
        asm.jump_if(R1, "==", operation, "extent")
    asm.jump("lose")
    asm.label("extent")
    _emit_extent(asm, maps, "lose")
    asm.load(R7, R9, abi.S_OPF, 4)
    frag.by_operation(asm, R2, R7)
    asm.load(R1, R9, abi.S_WHOLE, 4)
    asm.atomic_add(R2, D["write_bytes"], R1)
    frag.add_constant(asm, R8, D["nodata"])
    asm.jump("leave")
    asm.label("flush")  # no content is lost with it: a full ring drops it
    _emit_extent(asm, maps, "leave")
    frag.add_constant(asm, R8, D["flushes"])
    asm.jump("leave")
    asm.label("data")
    asm.jump_if(R6, "==", 0, "flush")
    frag.add_constant(asm, R8, D["bios"])
    if layout.bio_crypt is not None:
        asm.load(R1, FP, head + layout.bio_crypt)
        asm.jump_if(R1, "==", 0, "plain")
        frag.add_constant(asm, R8, D["encrypted"])  # what reaches the disk is not what memory holds
        asm.jump("lose")
        asm.label("plain")
    asm.load(R1, FP, CONTEXT)
    asm.map_pointer(R2, maps.walker)
    asm.move(R3, 0)
    asm.call(frag.TAIL_CALL)  # does not return, unless there is no walker


def _emit_extent(asm: Assembler, maps: Maps, otherwise: str) -> None:
    frag.reserve(asm, maps, 0, otherwise)
    frag.fill_header(asm)
    asm.load(R1, R9, abi.S_REST, 4)
    asm.store(R6, abi.AT_LENGTH, R1, 4)
    asm.store_value(R6, abi.AT_FLAGS, abi.FIRST | abi.LAST | abi.NO_DATA, 4)
    frag.submit(asm)


def _lose_disk(asm: Assembler, maps: Maps) -> None:
    """Nested deeper than there are slots: the whole disk becomes dirty."""
    asm.load(R1, FP, DISK_VALUE, 4)
    all_dirty(asm, maps, "out")
    frag.add_constant(asm, R8, T["nested_too_deep"])
    frag.add_constant(asm, R8, T["lost"])


def all_dirty(asm: Assembler, maps: Maps, otherwise: str) -> None:
    """R1 = disk: mark it dirty as a whole; R8 = the totals afterwards."""
    asm.store(FP, KEY, R1, 4)
    frag.lookup(asm, maps.disk_counters, KEY)
    asm.jump_if(R0, "==", 0, otherwise)
    asm.store_value(R0, D["all_dirty"], 1, 8)
    frag.lookup_only(asm, maps.totals, otherwise)
    asm.copy(R8, R0)


def mark_program(maps: Maps) -> bytes:
    """Assemble the program that puts a mark with its argument as token into the ring; it returns 0 if so."""
    asm = Assembler()
    asm.load(R7, R1, 0)
    frag.lookup_only(asm, maps.totals, "full")
    asm.load(R8, R0, T["lost"], 4)  # before the reserve, as everywhere
    frag.reserve(asm, maps, 0, "full")
    asm.store(R6, abi.AT_BIO, R7)
    asm.store(R6, abi.AT_LOST, R8, 4)
    for at in (abi.AT_OPF, abi.AT_LENGTH, abi.AT_WHOLE):
        asm.store_value(R6, at, 0, 4)
    asm.store_value(R6, abi.AT_OFFSET, 0, 8)
    asm.store_value(R6, abi.AT_DISK, -1, 4)
    asm.store_value(R6, abi.AT_FLAGS, abi.FIRST | abi.LAST | abi.NO_DATA | abi.IS_MARK, 4)
    asm.call(frag.KTIME)
    asm.store(R6, abi.AT_TIME, R0)
    frag.submit(asm)
    asm.move(R0, 0)
    asm.exit()
    asm.label("full")
    asm.move(R0, 1)
    asm.exit()
    return asm.assemble()
