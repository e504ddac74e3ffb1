"""bpf(2) through ctypes: maps, programs, links and pins, as plain functions on file descriptors.

Every failure is a BpfCallError that names the call; a program that the verifier refuses is a
ProgramRejectedError with the verifier's log. The attributes are packed by hand after linux/bpf.h.
"""

from __future__ import annotations

import errno
import os
import platform
import struct

from guesttap.bpf.errors import BpfCallError, ProgramRejectedError

try:
    import ctypes
except ImportError:  # Debian's python3-minimal: probe() names it
    ctypes = None  # type: ignore[assignment]

HAVE_CTYPES = ctypes is not None
SYSCALL_NUMBERS = {"x86_64": 321, "aarch64": 280}

MAP_HASH, MAP_ARRAY, MAP_PROG_ARRAY, MAP_PERCPU_ARRAY, MAP_QUEUE, MAP_RINGBUF = 1, 2, 3, 6, 22, 27
MMAPABLE = 1 << 10
RAW_TRACEPOINT = 17

_MAP_CREATE, _LOOKUP, _UPDATE, _DELETE, _NEXT_KEY, _PROG_LOAD, _PIN, _GET = range(8)
_TEST_RUN, _INFO, _RAW_TRACEPOINT_OPEN, _LOOKUP_AND_DELETE = 10, 15, 17, 21
_NAMES = {
    0: "create a map", 1: "look up", 2: "update", 3: "delete", 4: "find the next key of",
    5: "load a program", 6: "pin", 7: "open a pin",
    10: "run a program", 15: "read information", 17: "attach to a tracepoint", 21: "pop",
}  # fmt: skip
_ATTRIBUTE_BYTES = 128
_LOG_BYTES = 1 << 24
_MS_NOSUID_NODEV_NOEXEC = 14


class _Buffer:
    """Bytes at an address that the kernel may read and write."""

    def __init__(self, content: bytes) -> None:
        self.array = ctypes.create_string_buffer(content, max(1, len(content)))
        self.address = ctypes.addressof(self.array)

    def bytes(self) -> bytes:
        return self.array.raw


def _call(command: int, layout: str, *fields: int | bytes, subject: str = "") -> tuple[int, bytes]:
    """Do one bpf(2) call; return its result and the attributes as the kernel left them."""
    attributes = _Buffer(struct.pack(layout, *fields).ljust(_ATTRIBUTE_BYTES, b"\0"))
    libc = ctypes.CDLL(None, use_errno=True)
    number = SYSCALL_NUMBERS[platform.machine()]
    result = libc.syscall(number, command, attributes.array, _ATTRIBUTE_BYTES)
    if result < 0:
        number = ctypes.get_errno()
        what = _NAMES.get(command, f"do command {command}") + (" " + subject if subject else "")
        raise BpfCallError(f"bpf(2) could not {what}: {os.strerror(number)}", errno=number)
    return int(result), attributes.bytes()


def create_map(kind: int, key: int, value: int, entries: int, name: str, flags: int = 0) -> int:
    """Create a map with keys of `key` and values of `value` bytes; return its file descriptor."""
    layout = "<IIIIIII16s"
    return _call(_MAP_CREATE, layout, kind, key, value, entries, flags, 0, 0, name.encode(), subject=name)[0]


def lookup(fd: int, key: bytes, value_bytes: int) -> bytes | None:
    """Return the value under `key`, or None. On a queue (empty key): its head, left in place."""
    return _read(_LOOKUP, fd, key, value_bytes)


def pop(fd: int, value_bytes: int) -> bytes | None:
    """Take the head of a queue, or None if it is empty."""
    return _read(_LOOKUP_AND_DELETE, fd, b"", value_bytes)


def _read(command: int, fd: int, key: bytes, value_bytes: int) -> bytes | None:
    key_buffer, value = _Buffer(key), _Buffer(bytes(value_bytes))
    try:
        _call(command, "<IIQQQ", fd, 0, key_buffer.address if key else 0, value.address, 0)
    except BpfCallError as error:
        if error.details["errno"] == errno.ENOENT:
            return None
        raise
    return value.bytes()


def update(fd: int, key: bytes, value: bytes) -> None:
    """Store `value` under `key`."""
    key_buffer, value_buffer = _Buffer(key), _Buffer(value)
    _call(_UPDATE, "<IIQQQ", fd, 0, key_buffer.address, value_buffer.address, 0)


def delete(fd: int, key: bytes) -> None:
    """Remove `key`; it is no error if it is not there."""
    key_buffer = _Buffer(key)
    try:
        _call(_DELETE, "<IIQQQ", fd, 0, key_buffer.address, 0, 0)
    except BpfCallError as error:
        if error.details["errno"] != errno.ENOENT:
            raise


def next_key(fd: int, key: bytes | None, key_bytes: int) -> bytes | None:
    """Return the key after `key` (None: the first one), or None at the end."""
    key_buffer, following = _Buffer(key or b""), _Buffer(bytes(key_bytes))
    try:
        _call(_NEXT_KEY, "<IIQQQ", fd, 0, key_buffer.address if key else 0, following.address, 0)
    except BpfCallError as error:
        if error.details["errno"] == errno.ENOENT:
            return None
        raise
    return following.bytes()


def load_program(code: bytes, name: str, kind: int = RAW_TRACEPOINT) -> int:
    """Load a program and return its file descriptor.

    Raises ProgramRejectedError with the end of the verifier's log in `details["log"]`.
    """
    instructions, license_text = _Buffer(code), _Buffer(b"GPL\0")
    layout = "<IIQQIIQII16s"

    def load(log: _Buffer | None) -> int:
        level, size, where = (1, _LOG_BYTES, log.address) if log else (0, 0, 0)
        head = (kind, len(code) // 8, instructions.address, license_text.address)
        return _call(_PROG_LOAD, layout, *head, level, size, where, 0, 0, name.encode(), subject=name)[0]

    try:
        return load(None)
    except BpfCallError as first:
        log = _Buffer(bytes(_LOG_BYTES))
        try:
            return load(log)  # a passing shortage: the second attempt may be accepted
        except BpfCallError:
            text = log.array.value.decode("utf-8", "replace")[-3000:]
        raise ProgramRejectedError(
            f"the kernel refused the program {name}: {first.message}", log=text, **first.details
        ) from first


def attach_raw_tracepoint(name: str, program: int) -> int:
    """Attach a program to a raw tracepoint; return the link, which ends with its last descriptor or pin."""
    text = _Buffer(name.encode() + b"\0")
    return _call(_RAW_TRACEPOINT_OPEN, "<QI", text.address, program, subject=name)[0]


def pin(fd: int, path: str) -> None:
    """Give a map, program or link a name in the bpf file system: it outlives this process."""
    text = _Buffer(path.encode() + b"\0")
    _call(_PIN, "<QI", text.address, fd, subject=path)


def open_pin(path: str) -> int:
    """Return a file descriptor of what is pinned at `path`."""
    text = _Buffer(path.encode() + b"\0")
    return _call(_GET, "<QII", text.address, 0, 0, subject=path)[0]


def run(program: int, arguments: list[int]) -> int:
    """Run a raw tracepoint program once, now, with up to 12 u64 arguments; return its result (signed)."""
    context = _Buffer(struct.pack("<12Q", *arguments, *[0] * (12 - len(arguments))))
    layout = "<IIIIQQIIIIQQ"
    _, out = _call(_TEST_RUN, layout, program, 0, 0, 0, 0, 0, 0, 0, 96, 0, context.address, 0)
    return int(struct.unpack_from("<i", out, 4)[0])


def info(fd: int, size: int = 256) -> bytes:
    """Return the kernel's struct bpf_map_info, bpf_prog_info or bpf_link_info for `fd`, zero-padded."""
    buffer = _Buffer(bytes(size))
    _call(_INFO, "<IIQ", fd, size, buffer.address)
    return buffer.bytes()


def mount_bpf(path: str) -> None:
    """Mount a bpf file system on `path`; raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"bpf", path.encode(), b"bpf", _MS_NOSUID_NODEV_NOEXEC, None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)


def is_bpf_mount(path: str) -> bool:
    """Return whether `path` lies in a bpf file system (BPF_FS_MAGIC)."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = _Buffer(bytes(256))
    if libc.statfs(path.encode(), buffer.array) != 0:
        return False
    return bool(struct.unpack_from("<q", buffer.bytes())[0] == 0xCAFE4A11)
