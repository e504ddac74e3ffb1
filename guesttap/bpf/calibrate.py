"""Finds two addresses of the running kernel: its page array (vmemmap) and its map of physical memory.

Kernels randomise both and need not tell them. A temporary program notes the `struct page *` that one
O_DIRECT read of our own memory shows; /proc/self/pagemap tells the frame number of the same memory: that
gives the page array. Then the linear map is looked for downwards from an address that lies in it (our
task_struct), by peeking for a random pattern that we wrote into that page.
"""

from __future__ import annotations

import mmap
import os
import platform
import struct
import threading
from pathlib import Path
from typing import NamedTuple, Tuple

from guesttap.bpf import fragments as frag
from guesttap.bpf import syscall
from guesttap.bpf.assembler import FP, R0, R1, R2, R3, R6, R9, Assembler
from guesttap.bpf.errors import CalibrationError
from guesttap.bpf.layout import KernelLayout

try:
    import ctypes
except ImportError:  # probe() names it
    ctypes = None  # type: ignore[assignment]

_CURRENT_TASK, _CURRENT_PID_TGID = 35, 14
_PATTERN_BYTES = 4096
_ATTEMPTS = 3
_MOST_STEPS = 1 << 17
_STEP = {"x86_64": 1 << 30, "aarch64": 1 << 21}  # alignment of the linear map
_PRESENT, _FRAME_MASK = 1 << 63, (1 << 55) - 1


class Calibration(NamedTuple):
    """`page_array`: address of struct page 0. `linear_base`: address of the byte 0 of physical memory."""

    page_array: int
    linear_base: int


class DirectBuffer:
    """Page-aligned memory of our own, fit for O_DIRECT."""

    def __init__(self, size: int) -> None:
        self.memory = mmap.mmap(-1, size)
        self.memory[:] = os.urandom(size)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))

    def read_from(self, disk: str) -> None:
        """Read the disk's first bytes into the buffer, past the page cache; raises CalibrationError."""
        try:
            fd = os.open(disk, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
            try:
                os.preadv(fd, [self.memory], 0)
            finally:
                os.close(fd)
        except OSError as error:
            raise CalibrationError(f"{disk} cannot be read with O_DIRECT: {error.strerror}") from None

    def frame(self) -> int:
        """Return the page frame number of the first page; raises CalibrationError if it is not told."""
        with Path("/proc/self/pagemap").open("rb", buffering=0) as pagemap:
            pagemap.seek(self.address // mmap.PAGESIZE * 8)
            (entry,) = struct.unpack("<Q", pagemap.read(8))
        if not entry & _PRESENT or not entry & _FRAME_MASK:
            raise CalibrationError("/proc/self/pagemap does not tell where this process's memory lies")
        return int(entry & _FRAME_MASK)


def calibrate(layout: KernelLayout, disk: str) -> Calibration:
    """Find both addresses with one read of `disk`; nothing stays loaded. Raises CalibrationError.

    It is tried a few times, for this thread may have to read a page of its own program in between.
    """
    for _ in range(_ATTEMPTS - 1):
        try:
            return _calibrate_once(layout, disk)
        except CalibrationError:
            continue
    return _calibrate_once(layout, disk)


def _calibrate_once(layout: KernelLayout, disk: str) -> Calibration:
    notes = syscall.create_map(syscall.MAP_ARRAY, 4, _PATTERN_BYTES, 2, "lw_calibrate")
    try:
        buffer = DirectBuffer(mmap.PAGESIZE)
        page, offset, task = _observe_read(layout, notes, buffer, disk)
        # A large folio shows its first page, and our page as an offset.
        frame = buffer.frame() - (offset >> layout.page_shift)
        pattern = os.urandom(mmap.PAGESIZE)
        buffer.memory[:] = pattern
        physical = buffer.frame() << layout.page_shift
        base = _search(notes, task, physical, pattern[:_PATTERN_BYTES])
        return Calibration(page - frame * layout.page_bytes, base)
    finally:
        os.close(notes)


def _observe_read(layout: KernelLayout, notes: int, buffer: DirectBuffer, disk: str) -> Tuple[int, int, int]:  # noqa: UP006
    """Return page pointer and offset of the buffer in a bio, and the address of our task_struct."""
    program = syscall.load_program(_observer(layout, notes, threading.get_native_id()), "lw_observe")
    try:
        link = syscall.attach_raw_tracepoint("block_bio_queue", program)
        try:
            buffer.read_from(disk)
        finally:
            os.close(link)
    finally:
        os.close(program)
    noted = syscall.lookup(notes, struct.pack("<I", 1), _PATTERN_BYTES) or b""
    page, task, offset = struct.unpack_from("<QQI", noted)
    if not page or not task:
        raise CalibrationError(
            f"a read of {disk} did not pass the block layer of this process's own kernel",
            hint="Run the tap on the machine itself, not in a container or a process namespace of its own.",
        )
    return page, offset, task


def _observer(layout: KernelLayout, notes: int, thread: int) -> bytes:
    """Notes the first bio_vec of this thread's bios: {page, task, offset}."""
    asm = Assembler()
    asm.load(R6, R1, 8 * layout.queue_argument)
    asm.call(_CURRENT_PID_TGID)
    asm.alu("lsh", R0, 32)
    asm.alu("rsh", R0, 32)
    asm.jump_if(R0, "!=", thread, "out")
    asm.store_value(FP, frag.KEY, 1, 4)
    frag.lookup(asm, notes, frag.KEY)
    asm.jump_if(R0, "==", 0, "out")
    asm.copy(R9, R0)
    frag.probe_read(asm, frag.WORD, 8, R6, layout.bio_vecs)
    asm.load(R3, FP, frag.WORD)
    frag.probe_read(asm, frag.ENTRY, 16, R3)
    asm.load(R1, FP, frag.ENTRY + layout.vec_page)
    asm.store(R9, 0, R1)
    asm.load(R1, FP, frag.ENTRY + layout.vec_offset, 4)
    asm.store(R9, 16, R1, 4)
    asm.call(_CURRENT_TASK)
    asm.store(R9, 8, R0)
    asm.label("out")
    asm.move(R0, 0)
    asm.exit()
    return asm.assemble()


def _search(notes: int, start: int, physical: int, pattern: bytes) -> int:
    """Return the base below `start` under which `physical` holds the pattern."""
    program = syscall.load_program(_peeker(notes), "lw_peek")
    step = _STEP[platform.machine()]
    try:
        for number in range(_MOST_STEPS):
            base = (start & ~(step - 1)) - number * step
            readable = syscall.run(program, [base + physical]) == 0
            if readable and syscall.lookup(notes, bytes(4), _PATTERN_BYTES) == pattern:
                return base
    finally:
        os.close(program)
    raise CalibrationError(f"this kernel's map of physical memory was not found below {start:#x}")


def _peeker(notes: int) -> bytes:
    """Reads kernel memory at its argument into the first note; returns 0 if it is readable."""
    asm = Assembler()
    asm.load(R6, R1, 0)
    frag.lookup_only(asm, notes, "none")
    asm.copy(R1, R0)
    asm.move(R2, _PATTERN_BYTES)
    asm.copy(R3, R6)
    asm.call(frag.PROBE_READ)
    asm.exit()
    asm.label("none")
    asm.move(R0, 1)
    asm.exit()
    return asm.assemble()
