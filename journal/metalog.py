"""The metadata log: timelines, bookmarks, fences, damage that was found (docs/journal-format.md)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import xxhash

MAGIC = b"LWM1"
META_HEADER = struct.Struct("<4sIQ")
MAX_BODY_BYTES = 1 << 20

Meta = dict[str, Any]


class MetaLog(NamedTuple):
    """The records of a log, where the last correct one ends (bytes), where it is damaged (offsets)."""

    records: list[Meta]
    end: int
    damaged: list[int]


@dataclass(frozen=True, slots=True)
class Timeline:
    """One history: shares everything with `parent` up to `fork_lsn`, which lies in its epoch `fork_epoch`."""

    number: int
    name: str
    parent: int | None
    fork_lsn: int
    fork_epoch: int
    created: int


def encode(meta: Meta) -> bytes:
    """Return the bytes of one record."""
    body: bytes = msgpack.packb(meta)
    length = struct.pack("<I", len(body))
    record = META_HEADER.pack(MAGIC, len(body), xxhash.xxh3_64_intdigest(length + body)) + body
    return record + bytes(-len(record) % 8)


def read(path: Path) -> MetaLog:
    """Return what the log at `path` holds; bytes that are no record are stepped over, 8 at a time."""
    data = path.read_bytes()
    records: list[Meta] = []
    damaged: list[int] = []
    place = end = 0
    while (place := data.find(MAGIC, place)) >= 0:
        found = _record_at(data, place) if place % 8 == 0 else None
        if found is None:
            place += 4
            continue
        if place > end:
            damaged.append(end)
        records.append(found[0])
        place = end = found[1]
    return MetaLog(records, end, damaged)


def _record_at(data: bytes, place: int) -> tuple[Meta, int] | None:
    if len(data) - place < META_HEADER.size:
        return None
    _, length, stored = META_HEADER.unpack_from(data, place)
    start = place + META_HEADER.size
    body = data[start : start + length]
    end = start + length + -(META_HEADER.size + length) % 8
    if length > MAX_BODY_BYTES or end > len(data):
        return None
    if xxhash.xxh3_64_intdigest(data[place + 4 : place + 8] + body) != stored:
        return None
    try:
        meta = msgpack.unpackb(body)
    except (ValueError, msgpack.UnpackException):
        return None
    return (meta, end) if isinstance(meta, dict) and isinstance(meta.get("meta"), str) else None


def timelines(records: list[Meta]) -> list[Timeline]:
    """Return the timelines that a log names, by number; timeline 1 is there even when its record is lost."""
    found = {1: Timeline(1, "main", None, 0, 0, 0)}
    for meta in records:
        if meta["meta"] == "timeline":
            number = int(meta["timeline"])
            parent, fork = meta.get("parent"), meta.get("fork_lsn") or 0
            name, created = str(meta["name"]), meta.get("created") or 0
            found[number] = Timeline(number, name, parent, fork, meta.get("epoch") or 0, created)
    return [found[number] for number in sorted(found)]
