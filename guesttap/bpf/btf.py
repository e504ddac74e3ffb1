"""Reads BTF, the kernel's description of its own types: where the members of a struct lie."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Dict

from guesttap.bpf.errors import KernelTypesError

VMLINUX = "/sys/kernel/btf/vmlinux"

_MAGIC = 0xEB9F
_STRUCT, _ENUM, _TYPEDEF = 4, 6, 8
# Bytes that follow a type's 12-byte head: fixed by kind, and per element (vlen) by kind.
_FIXED = {1: 4, 3: 12, 14: 4, 17: 4}
_PER_ELEMENT = {4: 12, 5: 12, 6: 8, 13: 8, 15: 12, 19: 12}
_HEAD = struct.Struct("<III")


class Struct(Dict[str, int]):
    """Member name -> byte offset, members of anonymous structs and unions included; `size` in bytes."""

    size = 0


class Btf:
    """The types of one BTF blob."""

    def __init__(self, blob: bytes) -> None:
        if len(blob) < 24 or struct.unpack_from("<H", blob)[0] != _MAGIC:
            raise KernelTypesError("the kernel's type information is not BTF")
        head, types, types_bytes, strings, _ = struct.unpack_from("<IIIII", blob, 4)
        self._blob = blob
        self._strings = head + strings
        self._types = [0]  # byte position of each type by its id; id 0 is void
        try:
            self._index(head + types, head + types + types_bytes)
        except struct.error:
            raise KernelTypesError("the kernel's type information is cut short") from None

    @classmethod
    def of_kernel(cls, path: str = VMLINUX) -> Btf:
        """Read the running kernel's types; raises KernelTypesError if it has none."""
        try:
            return cls(Path(path).read_bytes())
        except OSError as error:
            raise KernelTypesError(f"{path} cannot be read: {error.strerror}") from None

    def _index(self, position: int, end: int) -> None:
        unpack, add = _HEAD.unpack_from, self._types.append
        while position < end:
            _, info, _ = unpack(self._blob, position)
            add(position)
            kind = info >> 24 & 31
            position += 12 + _FIXED.get(kind, 0) + _PER_ELEMENT.get(kind, 0) * (info & 0xFFFF)

    def _name(self, offset: int) -> str:
        start = self._strings + offset
        return self._blob[start : self._blob.index(b"\0", start)].decode()

    def _find(self, kind: int, name: str) -> int:
        """Return the position of the first type of that kind and name."""
        needle = self._blob.find(b"\0" + name.encode() + b"\0", self._strings - 1)
        wanted = needle + 1 - self._strings
        if needle >= 0:
            for position in self._types[1:]:
                name_offset, info = struct.unpack_from("<II", self._blob, position)
                if name_offset == wanted and info >> 24 & 31 == kind:
                    return position
        raise KernelTypesError(f"this kernel's type information lacks {name}")

    def struct(self, name: str) -> Struct:
        """Return the layout of `struct name`; raises KernelTypesError if there is none."""
        position = self._find(_STRUCT, name)
        found = Struct()
        found.size = _HEAD.unpack_from(self._blob, position)[2]
        self._members(position, 0, found)
        return found

    def _members(self, position: int, base: int, found: Struct) -> None:
        _, info, _ = _HEAD.unpack_from(self._blob, position)
        for number in range(info & 0xFFFF):
            name, kind, bits = _HEAD.unpack_from(self._blob, position + 12 + 12 * number)
            if info >> 31:  # kind_flag: the upper 8 bits are a bitfield's size
                bits &= 0xFFFFFF
            if name:
                found.setdefault(self._name(name), base + bits // 8)
            elif self._types[kind]:
                self._members(self._types[kind], base + bits // 8, found)

    def enum(self, name: str) -> dict[str, int]:
        """Return the members of `enum name`; raises KernelTypesError if there is none."""
        position = self._find(_ENUM, name)
        _, info, _ = _HEAD.unpack_from(self._blob, position)
        entries = (struct.unpack_from("<Ii", self._blob, position + 12 + 8 * n) for n in range(info & 0xFFFF))
        return {self._name(name_offset): value for name_offset, value in entries}

    def tracepoint_arguments(self, name: str) -> int:
        """Return how many arguments the tracepoint `name` has.

        `btf_trace_NAME` is a typedef of a pointer to a function whose first parameter is the
        tracepoint's private `void *`, which a raw tracepoint program does not see.
        """
        position = self._find(_TYPEDEF, "btf_trace_" + name)
        for _ in range(2):  # typedef -> pointer -> function prototype
            target = _HEAD.unpack_from(self._blob, position)[2]
            position = self._types[target]
        return int(_HEAD.unpack_from(self._blob, position)[1] & 0xFFFF) - 1
