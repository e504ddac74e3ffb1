"""The parts of the bpf tap that need no kernel: assembler, BTF reader, ring, dirty map, account, probe."""

from __future__ import annotations

import ast
import itertools
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import guesttap.bpf
from guesttap.bpf import DATA, DISCARD, FAILED, FLUSH, MARK, ZERO, Disk, abi, probe, syscall
from guesttap.bpf.accounting import Point, account
from guesttap.bpf.assembler import FP, R0, R1, R2, Assembler
from guesttap.bpf.btf import Btf
from guesttap.bpf.dirty import choose_granularity, chunks_of, merge, runs
from guesttap.bpf.errors import KernelTypesError, RingPositionError, TapUnsupportedError
from guesttap.bpf.layout import FlagMasks
from guesttap.bpf.meta import Meta
from guesttap.bpf.probe import kernel_version, locked_down, require
from guesttap.bpf.ring import Ring

_PACKAGE = Path(guesttap.bpf.__file__).parent


# the assembler
def test_instructions_are_encoded_as_the_kernel_defines_them() -> None:
    asm = Assembler()
    asm.move(R0, -1)
    asm.load(R1, FP, -8, 4)
    asm.store(R1, 16, R2)
    asm.atomic_add(R1, 8, R2)
    asm.load64(R2, 0x1122334455667788)
    asm.call(5)
    asm.exit()
    assert asm.assemble() == bytes.fromhex(
        "b7000000ffffffff"  # r0 = -1
        "61a1f8ff00000000"  # r1 = *(u32 *)(r10 - 8)
        "7b21100000000000"  # *(u64 *)(r1 + 16) = r2
        "db21080000000000"  # lock *(u64 *)(r1 + 8) += r2
        "1802000088776655"
        "0000000044332211"  # r2 = 0x1122334455667788
        "8500000005000000"  # call 5
        "9500000000000000"  # exit
    )


def test_jumps_count_instructions_in_both_directions() -> None:
    asm = Assembler()
    asm.label("again")
    asm.jump_if(R0, "==", 7, "end")
    asm.jump("again")
    asm.label("end")
    asm.exit()
    code = asm.assemble()
    assert struct.unpack_from("<BBhi", code, 0) == (0x15, 0, 1, 7)
    assert struct.unpack_from("<BBhi", code, 8) == (0x05, 0, -2, 0)


def test_labels_missing_doubled_or_too_far_are_refused() -> None:
    asm = Assembler()
    asm.jump("nowhere")
    with pytest.raises(ValueError, match="nowhere is not defined"):
        asm.assemble()
    asm.label("nowhere")
    with pytest.raises(ValueError, match="twice"):
        asm.label("nowhere")
    far = Assembler()
    far.jump("end")
    for _ in range(40_000):
        far.exit()
    far.label("end")
    with pytest.raises(ValueError, match="40000 instructions away"):
        far.assemble()
    with pytest.raises(ValueError, match="32 bits"):
        far.move(R0, 1 << 31)


# BTF
def _btf(strings: bytes, types: bytes) -> bytes:
    return (
        struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings)) + types + strings
    )


def _small_btf() -> bytes:
    """An int, a struct with an anonymous union in it, an enum, and a tracepoint of two arguments."""
    strings, at = b"\0", {}
    for name in ("int", "outer", "first", "inner", "flags", "ONE", "TWO", "btf_trace_event"):
        at[name] = len(strings)
        strings += name.encode() + b"\0"
    union = struct.pack("<III", 0, 5 << 24 | 1, 4) + struct.pack("<III", at["inner"], 1, 0)
    outer = struct.pack("<III", at["outer"], 4 << 24 | 2, 12) + struct.pack(
        "<IIIIII", at["first"], 1, 0, 0, 2, 64
    )
    enum = struct.pack("<III", at["flags"], 6 << 24 | 2, 4) + struct.pack(
        "<IiIi", at["ONE"], 1, at["TWO"], -2
    )
    proto = struct.pack("<III", 0, 13 << 24 | 3, 0) + struct.pack("<II", 0, 1) * 3
    types = struct.pack("<IIII", at["int"], 1 << 24, 4, 32) + union + outer + enum + proto
    types += struct.pack("<III", 0, 2 << 24, 5) + struct.pack("<III", at["btf_trace_event"], 8 << 24, 6)
    return _btf(strings, types)


def test_members_of_anonymous_unions_count_from_the_outer_struct() -> None:
    btf = Btf(_small_btf())
    outer = btf.struct("outer")
    assert dict(outer) == {"first": 0, "inner": 8}
    assert outer.size == 12
    assert btf.enum("flags") == {"ONE": 1, "TWO": -2}
    assert btf.tracepoint_arguments("event") == 2


def test_types_that_are_missing_or_damaged_are_named() -> None:
    btf = Btf(_small_btf())
    for ask in (
        lambda: btf.struct("bio"),
        lambda: btf.enum("outer"),
        lambda: btf.tracepoint_arguments("other"),
    ):
        with pytest.raises(KernelTypesError, match="lacks"):
            ask()
    with pytest.raises(KernelTypesError, match="not BTF"):
        Btf(b"\x7fELF" + bytes(60))
    with pytest.raises(KernelTypesError, match="cut short"):
        Btf(_small_btf()[:40])
    with pytest.raises(KernelTypesError, match="/no/such/file"):
        Btf.of_kernel("/no/such/file")


# the ring
_SIZE, _PAGE = 4096, 64


class _Memory:
    """A ring in plain memory: written here as the kernel would, the data pages twice in a row."""

    def __init__(self) -> None:
        self.consumer = bytearray(_PAGE)
        self.producer = bytearray(_PAGE + 2 * _SIZE)
        self.ring = Ring.over(memoryview(self.consumer), memoryview(self.producer), _SIZE, _PAGE)
        self.position = 0

    def put(self, opf: int, flags: int, data: bytes = b"", *, bits: int = 0, **fields: int) -> None:
        length = fields.get("length", len(data))
        header = abi.RECORD.pack(
            fields.get("time", 1), fields.get("offset", 0), fields.get("bio", 9), 0, opf, length, flags, 0,
            fields.get("whole", length),
        )  # fmt: skip
        body = header + data
        for at, byte in enumerate(struct.pack("<II", len(body) | bits, 0) + body):
            place = (self.position + at) % _SIZE
            self.producer[_PAGE + place] = self.producer[_PAGE + _SIZE + place] = byte
        self.position += 8 + (len(body) + 7) // 8 * 8
        self.producer[:8] = struct.pack("<Q", self.position)

    def kinds(self) -> list[int]:
        return [record.kind for record in self.ring.records(self.ring.consumer_position, _SIZE)]


_EXTENT = abi.FIRST | abi.LAST | abi.NO_DATA


def test_each_kind_of_record_is_told_by_operation_and_flags() -> None:
    memory = _Memory()
    memory.put(abi.OP_WRITE | 1 << 11, abi.FIRST | abi.LAST, b"data")
    memory.put(abi.OP_DISCARD, _EXTENT, length=512)
    memory.put(abi.OP_SECURE_ERASE, _EXTENT, length=512)
    memory.put(abi.OP_WRITE_ZEROES, _EXTENT, length=512)
    memory.put(abi.OP_WRITE, _EXTENT)
    memory.put(abi.OP_WRITE, abi.NO_DATA | abi.HAS_FAILED | 10 << abi.STATUS_SHIFT, length=512)
    memory.put(0, _EXTENT | abi.IS_MARK)
    assert memory.kinds() == [DATA, DISCARD, DISCARD, ZERO, FLUSH, FAILED, MARK]


def test_reading_stops_at_a_record_in_the_making_and_skips_discarded_ones() -> None:
    memory = _Memory()
    memory.put(abi.OP_WRITE, abi.FIRST, b"one")
    memory.put(abi.OP_WRITE, abi.FIRST, b"bad", bits=abi.RING_DISCARDED)
    memory.put(abi.OP_WRITE, abi.FIRST, b"two")
    memory.put(abi.OP_WRITE, abi.FIRST, b"not yet", bits=abi.RING_BUSY)
    memory.put(abi.OP_WRITE, abi.FIRST, b"after")
    found = list(memory.ring.records(0, _SIZE))
    assert [bytes(record.data) for record in found] == [b"one", b"two"]
    assert [bytes(r.data) for r in memory.ring.records(found[0].end, _SIZE)] == [b"two"]
    assert [bytes(r.data) for r in memory.ring.records(0, 1)] == [b"one"]


def test_records_that_wrap_are_whole_and_room_is_given_back() -> None:
    memory = _Memory()
    for number in range(500):
        data = bytes([number % 256]) * (number % 300)
        memory.put(abi.OP_WRITE, abi.FIRST, data, offset=number * 512)
        (record,) = memory.ring.records(memory.ring.consumer_position, _SIZE)
        assert bytes(record.data) == data
        assert record.offset == number * 512
        assert record.end == memory.position
        memory.ring.release(record.end)
    with pytest.raises(RingPositionError, match="not in the ring"):
        memory.ring.release(memory.position - 8)


def test_a_failed_bio_gets_the_extent_that_it_was_submitted_with() -> None:
    memory = _Memory()
    failure = abi.NO_DATA | abi.HAS_FAILED | 10 << abi.STATUS_SHIFT
    memory.put(abi.OP_WRITE, abi.FIRST, bytes(512), offset=4096, bio=1, whole=1024)
    memory.put(abi.OP_WRITE, abi.LAST, bytes(512), offset=4608, bio=1, whole=1024)
    memory.put(abi.OP_WRITE, failure, offset=5120, bio=1)  # the kernel has gone past it
    memory.put(abi.OP_WRITE, failure, offset=8192, bio=2, length=2048)  # unknown, but the kernel knows
    memory.put(abi.OP_WRITE, failure, offset=8192, bio=3)  # unknown to both
    memory.put(abi.OP_WRITE, failure | abi.BY_REQUEST, offset=0, bio=1, length=99)  # a request tells itself
    found = [record for record in memory.ring.records(0, _SIZE) if record.kind == FAILED]
    assert [(r.offset, r.length, bool(r.flags & abi.UNRESOLVED)) for r in found] == [
        (4096, 1024, False),
        (8192, 2048, False),
        (8192, 0, True),
        (0, 99, False),
    ]
    assert {record.status for record in found} == {10}


# dirty extents
@given(st.lists(st.booleans(), max_size=200))
def test_runs_are_exactly_the_nonzero_bytes(bits: list[bool]) -> None:
    content = bytes(3 * bit for bit in bits)
    found = runs(content)
    assert {at for start, end in found for at in range(start, end)} == {
        at for at, b in enumerate(content) if b
    }
    assert all(one[1] < two[0] for one, two in itertools.pairwise(found))


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 50), st.integers(1, 20)), max_size=40))
def test_merged_extents_cover_the_same_places_and_never_touch(extents: list[tuple[int, int, int]]) -> None:
    merged = merge(extents)
    assert merged == sorted(merged)

    def places(given: list[tuple[int, int, int]]) -> set[tuple[int, int]]:
        return {(disk, at) for disk, start, length in given for at in range(start, start + length)}

    assert places(merged) == places(extents)
    assert all(a[0] != b[0] or a[1] + a[2] < b[1] for a, b in itertools.pairwise(merged))


def test_the_dirty_map_stays_below_32_mib_by_growing_its_chunks() -> None:
    def disks(size: int) -> list[Disk]:
        return [Disk(0, "vda", "/dev/vda", 1, 0, size)]

    assert choose_granularity(disks(1 << 40)) == 16
    assert choose_granularity(disks(2 << 40)) == 16
    assert choose_granularity(disks(20 << 40)) == 20
    assert chunks_of(65537, 16) == 2


# the account
_DISK = Disk(0, "none", "/dev/none", 4095, 4095, 1 << 20)


def _point(captured: int, dirty: int, refused: int, kernel: int, quiet: bool = True) -> Point:
    return Point(captured, dirty, refused, kernel, 0 if quiet else 1, quiet)


def test_an_account_at_a_quiet_moment_is_exact_to_the_sector() -> None:
    base = _point(100, 0, 0, 5000)
    assert account(_DISK, base, _point(180, 20, 8, 5092)).balanced
    assert account(_DISK, base, _point(180, 20, 8, 5093)).difference == -1
    assert not account(_DISK, base, _point(180, 20, 8, 5093)).balanced
    assert not account(_DISK, base, _point(180, 20, 8, 5091)).balanced


def test_an_account_under_load_lets_the_tap_be_ahead_but_never_the_kernel() -> None:
    base = _point(0, 0, 0, 0)
    assert account(_DISK, base, _point(1000, 0, 0, 500, quiet=False)).balanced
    assert not account(_DISK, base, _point(1000, 0, 0, 1001, quiet=False)).balanced
    assert not account(_DISK, base, _point(10_000_000, 0, 0, 0, quiet=False)).balanced


def test_an_account_without_a_baseline_is_not_known() -> None:
    assert not account(_DISK, None, _point(1, 0, 0, 1)).balanced


def test_meta_data_survives_the_pin_and_another_version_is_refused() -> None:
    meta = Meta(1 << 63, 16, [_DISK], FlagMasks(1, 2, 4, 8), {0: _point(1, 2, 3, 4)})
    assert Meta.unpack(meta.pack()) == meta
    with pytest.raises(guesttap.bpf.errors.BrokenTapError):
        Meta.unpack(meta.pack().replace(b'"version": 1', b'"version": 9'))


# the probe
def test_what_is_missing_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr(syscall, "HAVE_CTYPES", False)
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    lacks = {lack.name: lack for lack in probe()}
    assert {"root", "ctypes", "architecture"} <= set(lacks)
    assert "user 1000" in lacks["root"].what
    assert "python3-minimal" in lacks["ctypes"].remedy
    with pytest.raises(TapUnsupportedError, match="riscv64") as caught:
        require()
    assert "Run the agent as root." in caught.value.hint
    assert "ctypes" in caught.value.details["lacks"]


def test_old_kernels_lockdown_and_missing_types_are_seen(tmp_path: Path) -> None:
    from guesttap.bpf import probe as _  # noqa: F401

    module = sys.modules["guesttap.bpf.probe"]
    assert kernel_version("5.4.0-150-generic") == (5, 4)
    assert kernel_version("6.1.0-18-amd64") == (6, 1)
    assert kernel_version("strange") == (0, 0)
    assert not locked_down("none [integrity] confidentiality\n")
    assert locked_down("none integrity [confidentiality]\n")
    lockdown = tmp_path / "lockdown"
    lockdown.write_text("none integrity [confidentiality]\n")
    assert module._lockdown(str(lockdown)).name == "lockdown"
    assert module._lockdown(str(tmp_path / "none")) is None
    assert module._btf(str(tmp_path / "none")).name == "btf"


# what runs in a guest
def test_the_package_is_python_3_8_and_needs_the_standard_library_alone() -> None:
    for file in _PACKAGE.glob("*.py"):
        ast.parse(file.read_text(), feature_version=(3, 8))
    root = _PACKAGE.parent.parent
    program = (
        f"import sys; sys.path.insert(0, {str(root)!r}); import guesttap.bpf; print(guesttap.bpf.probe())"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr


def test_without_ctypes_the_package_can_be_imported_and_says_so() -> None:
    root = _PACKAGE.parent.parent
    program = (
        f"import sys; sys.path.insert(0, {str(root)!r}); sys.modules['ctypes'] = None\n"
        "import guesttap.bpf; print([lack.name for lack in guesttap.bpf.probe()])"
    )
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert "'ctypes'" in done.stdout
