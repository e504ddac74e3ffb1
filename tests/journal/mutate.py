"""Damage to a journal's files: by accident (any bytes), or by a forger who makes the checksums right again."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import xxhash

Edit = Callable[[bytearray, random.Random], str]
_EDGES = (8, 12, 16, 24, 31, 32, 47, 48, 62, 63, 64)
NUMBERS = (0, 1, 7, *(value for bits in _EDGES for value in ((1 << bits) - 1, 1 << bits)))


def files(folder: Path) -> list[Path]:
    """Every file of a journal that holds something."""
    return sorted(
        p for p in folder.rglob("*") if p.is_file() and p.stat().st_size and p.parent.name != "holds"
    )


def damage(folder: Path, choices: random.Random) -> str:
    """Damage one file, or two, in a way that happens."""
    done = []
    for _ in range(choices.choice((1, 1, 1, 2, 3))):
        path = choices.choice(files(folder))
        data = bytearray(path.read_bytes())
        edit = choices.choice((_flip, _flip, _garbage, _zeros, _cut, _append, _repeat, _exchange, _insert))
        done.append(f"{path.name}: {edit(data, choices)}")
        path.write_bytes(data)
    return "; ".join(done)


def _flip(data: bytearray, choices: random.Random) -> str:
    place = choices.randrange(len(data))
    if choices.random() < 0.6:  # heads of blocks matter more often than what is in them
        place = min(place // 4096 * 4096 + choices.randrange(200), len(data) - 1)
    data[place] ^= 1 << choices.randrange(8)
    return f"flip at {place}"


def _garbage(data: bytearray, choices: random.Random) -> str:
    place, length = choices.randrange(len(data)), choices.choice((1, 8, 100, 5000))
    data[place : place + length] = choices.randbytes(min(length, len(data) - place))
    return f"garbage at {place}, {length}"


def _zeros(data: bytearray, choices: random.Random) -> str:
    place, length = choices.randrange(len(data)), choices.choice((8, 512, 4096, 20_000))
    data[place : place + length] = bytes(min(length, len(data) - place))
    return f"zeros at {place}, {length}"


def _cut(data: bytearray, choices: random.Random) -> str:
    del data[choices.randrange(len(data)) :]
    return f"cut at {len(data)}"


def _append(data: bytearray, choices: random.Random) -> str:
    data += choices.choice((bytes(5000), choices.randbytes(5000), bytes(data[:9000])))
    return "something behind the end"


def _blocks(data: bytearray, choices: random.Random) -> tuple[int, int, int]:
    count = len(data) // 4096 or 1
    length = choices.choice((1, 1, 2, 5)) * 4096
    return choices.randrange(count) * 4096, choices.randrange(count) * 4096, length


def _repeat(data: bytearray, choices: random.Random) -> str:
    one, two, length = _blocks(data, choices)
    data[one : one + length] = data[two : two + length]
    return f"blocks at {two} again at {one}, {length}"


def _insert(data: bytearray, choices: random.Random) -> str:
    one, two, length = _blocks(data, choices)
    data[one:one] = data[two : two + length]
    return f"blocks at {two} inserted at {one}, {length}"


def _exchange(data: bytearray, choices: random.Random) -> str:
    one, two, _ = _blocks(data, choices)
    data[one : one + 4096], data[two : two + 4096] = data[two : two + 4096], data[one : one + 4096]
    return f"blocks at {one} and {two} exchanged"


# --- a forger


def forge(folder: Path, choices: random.Random) -> str:
    """Change fields of frames, headers, footers and metadata, with right checksums."""
    done = []
    for _ in range(choices.choice((1, 2, 5))):
        path = choices.choice(
            [p for p in files(folder) if p.suffix in (".seg", ".net", ".log") or choices.random() < 0.2]
        )
        data = bytearray(path.read_bytes())
        if path.suffix in (".seg", ".net"):
            done.append(f"{path.name}: {_forge_file(data, choices)}")
        elif path.suffix == ".log":
            done.append(f"{path.name}: {_forge_meta(data, choices)}")
        else:
            done.append(f"{path.name}: {_flip(data, choices)}")
        path.write_bytes(data)
    return "; ".join(done)


def _forge_file(data: bytearray, choices: random.Random) -> str:
    frames = _frames(data)
    if not frames or choices.random() < 0.2:
        return _forge_block(data, choices)
    place = choices.choice(frames)
    return f"frame at {place}: {forge_frame(data, place, choices)}"


def forge_frame(data: bytearray, place: int, choices: random.Random) -> str:
    """Change something in the head of the frame at a place, and make its sum right."""
    what = choices.choice((_forge_header, _forge_record, _forge_record, _forge_notes))
    told = what(data, place, choices)
    head = _head_bytes(data, place)
    view = memoryview(data)[place : place + head]
    digest = xxhash.xxh3_64(view[:56])
    digest.update(view[64:])
    struct.pack_into("<Q", data, place + 56, digest.intdigest())
    return told


def _frames(data: bytearray) -> list[int]:
    found, place = [], 4096
    while data[place : place + 4] == b"LWF1" and len(data) - place >= 64:
        found.append(place)
        (payload,) = struct.unpack_from("<I", data, place + 16)
        place += _head_bytes(data, place) + payload
    return found


def _head_bytes(data: bytearray, place: int) -> int:
    records, notes = struct.unpack_from("<II", data, place + 8)
    length: int = (64 + records * 16 + notes + 4095) & ~4095
    return min(length, len(data) - place)


def _number(choices: random.Random, old: int, bits: int) -> int:
    new = choices.choice((*NUMBERS, old + 1, old - 1, old * 2, choices.getrandbits(bits)))
    return new & ((1 << bits) - 1)


def _set(data: bytearray, place: int, kind: str, choices: random.Random) -> int:
    (old,) = struct.unpack_from(kind, data, place)
    new = _number(choices, old, 8 * struct.calcsize(kind))
    struct.pack_into(kind, data, place, new)
    return new


def _forge_header(data: bytearray, place: int, choices: random.Random) -> str:
    offset, kind = choices.choice(
        ((4, "<B"), (8, "<I"), (12, "<I"), (16, "<I"), (20, "<I"), (24, "<Q"), (32, "<Q"), (40, "<Q"))
    )
    return f"header +{offset} = {_set(data, place + offset, kind, choices)}"


def _forge_record(data: bytearray, place: int, choices: random.Random) -> str:
    (records,) = struct.unpack_from("<I", data, place + 8)
    at = place + 64 + 16 * choices.randrange(min(records, 60000) or 1)
    if at + 16 > len(data):
        return "nothing"
    offset, kind = choices.choice(((0, "<Q"), (8, "<I"), (12, "<I"), (6, "<H")))
    return f"record at {at} +{offset} = {_set(data, at + offset, kind, choices)}"


def _forge_notes(data: bytearray, place: int, choices: random.Random) -> str:
    """Change a value of a note; the notes' length may change within the head."""
    records, length = struct.unpack_from("<II", data, place + 8)
    start = place + 64 + records * 16
    head = _head_bytes(data, place)
    try:
        notes = msgpack.unpackb(bytes(data[start : start + length]), strict_map_key=False)
    except (ValueError, msgpack.UnpackException):
        return "no notes"
    told = _change(notes, choices)
    packed = msgpack.packb(notes)
    room = head - 64 - records * 16
    if len(packed) > room:
        return "no room"
    data[start : place + head] = packed.ljust(room, b"\0")
    struct.pack_into("<I", data, place + 12, len(packed))
    return told


VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1,
    1 << 40,
    (1 << 64) - 1,
    -(1 << 63),
    1.5,
    "",
    "x" * 2000,
    "cut",
    b"\0",
    [],
    {},
)


def _change(value: Any, choices: random.Random) -> str:
    """Change something somewhere in a value of msgpack."""
    while True:
        keys = (
            list(value)
            if isinstance(value, dict)
            else list(range(len(value)))
            if isinstance(value, list)
            else []
        )
        if not keys:
            return "nothing"
        key = choices.choice(keys)
        if isinstance(value[key], dict | list) and value[key] and choices.random() < 0.8:
            value = value[key]
            continue
        new = (
            choices.choice((*VALUES, *(other for other in value.values() if isinstance(value, dict))))
            if isinstance(value, dict)
            else choices.choice(VALUES)
        )
        if choices.random() < 0.2 and isinstance(value, dict):
            del value[key]
            return f"without {key}"
        value[key] = new
        return f"{key} = {str(new)[:30]}"


def _forge_block(data: bytearray, choices: random.Random) -> str:
    """Change a field of a file's header or footer, and make its sum right."""
    kinds = {b"LWSEG001": (64, (8, 24, 32, 40, 48)), b"LWNET001": (88, (8, 24, 32, 40, 48, 56, 72)),
             b"LWEND001": (56, (8, 16, 24, 32, 40))}  # fmt: skip
    place = choices.choice((0, max(0, len(data) - 4096)))
    found = kinds.get(bytes(data[place : place + 8]))
    if found is None:
        return "nothing"
    end, fields = found
    offset = choices.choice(fields)
    new = _set(data, place + offset, "<I" if offset == 24 else "<Q", choices)
    struct.pack_into("<Q", data, place + end, xxhash.xxh3_64_intdigest(bytes(data[place : place + end])))
    return f"block at {place} +{offset} = {new}"


def _forge_meta(data: bytearray, choices: random.Random) -> str:
    """Change a value of a record of the metadata log, or put another in; the sums are right."""
    records, place = [], 0
    while data[place : place + 4] == b"LWM1":
        (length,) = struct.unpack_from("<I", data, place + 4)
        records.append(msgpack.unpackb(bytes(data[place + 16 : place + 16 + length]), strict_map_key=False))
        place += (16 + length + 7) & ~7
    if not records:
        return "nothing"
    told = _change(records[choices.randrange(len(records))], choices)
    if choices.random() < 0.3:
        records.insert(choices.randrange(len(records) + 1), choices.choice(records))
    data[:] = b"".join(_meta(record) for record in records)
    return told


def _meta(record: Any) -> bytes:
    body = msgpack.packb(record)
    length = struct.pack("<I", len(body))
    packed = b"LWM1" + length + struct.pack("<Q", xxhash.xxh3_64_intdigest(length + body)) + body
    return bytes(packed.ljust((len(packed) + 7) & ~7, b"\0"))
