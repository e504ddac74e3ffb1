"""A small assembler for eBPF: methods add instructions, labels are resolved by `assemble`."""

from __future__ import annotations

import struct

R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, FP = range(11)

_SIZES = {1: 0x10, 2: 0x08, 4: 0x00, 8: 0x18}
_ALU = {"add": 0x00, "sub": 0x10, "div": 0x30, "or": 0x40, "and": 0x50, "lsh": 0x60, "rsh": 0x70, "mov": 0xB0}
_JUMPS = {"==": 0x10, ">": 0x20, ">=": 0x30, "&": 0x40, "!=": 0x50, "<": 0xA0, "<=": 0xB0}

_CLASS_LDX, _CLASS_ST, _CLASS_STX, _CLASS_JMP, _CLASS_ALU64 = 0x01, 0x02, 0x03, 0x05, 0x07
_MODE_MEM, _MODE_ATOMIC, _SOURCE_REGISTER = 0x60, 0xC0, 0x08
_LOAD_IMM64, _CALL, _EXIT = 0x18, 0x85, 0x95
_PSEUDO_MAP_FD = 1

BYTES_PER_INSTRUCTION = 8


class Assembler:
    """Collects the instructions of one program. Conditions compare 64 bits, unsigned."""

    def __init__(self) -> None:
        self._code: list[tuple[int, int, int, int]] = []
        self._labels: dict[str, int] = {}
        self._jumps: list[tuple[int, str]] = []
        self._fresh = 0

    def __len__(self) -> int:
        return len(self._code)

    def _emit(self, code: int, dst: int = 0, src: int = 0, offset: int = 0, value: int = 0) -> None:
        self._code.append((code, dst | src << 4, offset, value))

    # moves and arithmetic
    def move(self, dst: int, value: int) -> None:
        """`dst = value` (a signed 32-bit constant)."""
        self.alu("mov", dst, value)

    def copy(self, dst: int, src: int) -> None:
        """`dst = src`."""
        self.alu_reg("mov", dst, src)

    def alu(self, operation: str, dst: int, value: int) -> None:
        """`dst = dst operation value` on 64 bits, with a signed 32-bit constant."""
        if not -(1 << 31) <= value < 1 << 31:
            raise ValueError(f"{value} does not fit into 32 bits")
        self._emit(_CLASS_ALU64 | _ALU[operation], dst, value=value)

    def alu_reg(self, operation: str, dst: int, src: int) -> None:
        """`dst = dst operation src` on 64 bits."""
        self._emit(_CLASS_ALU64 | _SOURCE_REGISTER | _ALU[operation], dst, src)

    def load64(self, dst: int, value: int, source: int = 0) -> None:
        """`dst = value` (64 bits; two instruction slots)."""
        self._emit(_LOAD_IMM64, dst, source, value=value & 0xFFFFFFFF)
        self._emit(0, value=value >> 32 & 0xFFFFFFFF)

    def map_pointer(self, dst: int, fd: int) -> None:
        """`dst =` the map behind the file descriptor `fd`."""
        self.load64(dst, fd, _PSEUDO_MAP_FD)

    # memory
    def load(self, dst: int, src: int, offset: int, size: int = 8) -> None:
        """`dst = *(src + offset)`, `size` bytes, zero-extended."""
        self._emit(_CLASS_LDX | _MODE_MEM | _SIZES[size], dst, src, offset)

    def store(self, dst: int, offset: int, src: int, size: int = 8) -> None:
        """`*(dst + offset) = src`, `size` bytes."""
        self._emit(_CLASS_STX | _MODE_MEM | _SIZES[size], dst, src, offset)

    def store_value(self, dst: int, offset: int, value: int, size: int) -> None:
        """`*(dst + offset) = value`, `size` bytes."""
        self._emit(_CLASS_ST | _MODE_MEM | _SIZES[size], dst, 0, offset, value)

    def atomic_add(self, dst: int, offset: int, src: int) -> None:
        """`*(dst + offset) += src`, 64 bits, atomically."""
        self._emit(_CLASS_STX | _MODE_ATOMIC | _SIZES[8], dst, src, offset)

    def stack_pointer(self, dst: int, offset: int) -> None:
        """`dst =` the address of the stack byte at `offset` (negative)."""
        self.copy(dst, FP)
        self.alu("add", dst, offset)

    # control
    def label(self, name: str) -> None:
        """Name the next instruction."""
        if name in self._labels:
            raise ValueError(f"label {name} is defined twice")
        self._labels[name] = len(self._code)

    def fresh(self, stem: str) -> str:
        """Return a label name not used before."""
        self._fresh += 1
        return f"{stem}#{self._fresh}"

    def jump(self, label: str) -> None:
        """Go to `label`."""
        self._jumps.append((len(self._code), label))
        self._emit(_CLASS_JMP)

    def jump_if(self, left: int, condition: str, value: int, label: str) -> None:
        """Go to `label` if the register `left` compares so with a constant."""
        self._jumps.append((len(self._code), label))
        self._emit(_CLASS_JMP | _JUMPS[condition], left, value=value)

    def jump_if_reg(self, left: int, condition: str, right: int, label: str) -> None:
        """Go to `label` if the register `left` compares so with the register `right`."""
        self._jumps.append((len(self._code), label))
        self._emit(_CLASS_JMP | _SOURCE_REGISTER | _JUMPS[condition], left, right)

    def call(self, helper: int) -> None:
        """Call a kernel helper by number: arguments in R1-R5, result in R0; R1-R5 are lost."""
        self._emit(_CALL, value=helper)

    def exit(self) -> None:
        """Return R0."""
        self._emit(_EXIT)

    def assemble(self) -> bytes:
        """Return the program's bytes, all jumps resolved.

        Raises ValueError for a label that is missing or farther away than a jump reaches.
        """
        code = list(self._code)
        for at, label in self._jumps:
            if label not in self._labels:
                raise ValueError(f"label {label} is not defined")
            distance = self._labels[label] - at - 1
            if not -32768 <= distance <= 32767:
                raise ValueError(f"label {label} is {distance} instructions away")
            opcode, registers, _, value = code[at]
            code[at] = (opcode, registers, distance, value)
        return b"".join(struct.pack("<BBhI", c, r, o, v & 0xFFFFFFFF) for c, r, o, v in code)
