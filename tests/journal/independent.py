"""A second reader, written from docs/journal-format.md alone: it shares no code with the journal package."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import xxhash


class Item(NamedTuple):
    """One record, or one note (kind 0), in the order of the files."""

    lsn: int
    epoch: int
    sync: bool
    kind: int
    disk: int
    sector: int
    sectors: int
    time: int
    data: bytes
    note: dict[str, Any]


def frames_of(path: Path) -> list[Item]:
    data = path.read_bytes()
    assert data[:8] == b"LWSEG001"
    assert struct.unpack_from("<Q", data, 64)[0] == xxhash.xxh3_64_intdigest(data[:64])
    digest = xxhash.xxh3_128(data[:4096])
    items: list[Item] = []
    place, frames, records = 4096, 0, 0
    while place < len(data) and data[place : place + 4] == b"LWF1":
        head_bytes, payload_bytes, found = one_frame(data, place)
        digest.update(data[place : place + 64])
        items += found
        frames += 1
        records += sum(item.kind > 0 for item in found)
        place += head_bytes + payload_bytes
    if place < len(data):
        magic, *counts, stored, total = struct.unpack_from("<8sQQQQ16sQ", data, place)
        assert magic == b"LWEND001" and len(data) == place + 4096
        assert total == xxhash.xxh3_64_intdigest(data[place : place + 56])
        assert counts[:2] == [frames, records] and counts[3] == place
        assert stored == bytes.fromhex(digest.hexdigest())
    return items


def one_frame(data: bytes, place: int) -> tuple[int, int, list[Item]]:
    _, kind, _, _, count, notes_bytes, payload_bytes, epoch, lsn = struct.unpack_from(
        "<4sBBHIIIIQ", data, place
    )
    _, base_time, payload_sum, head_sum = struct.unpack_from("<QQQQ", data, place + 32)
    head_bytes = (64 + 16 * count + notes_bytes + 4095) // 4096 * 4096
    head = data[place : place + head_bytes]
    payload = data[place + head_bytes : place + head_bytes + payload_bytes]
    assert head_sum == xxhash.xxh3_64_intdigest(head[:56] + head[64:])
    assert payload_sum == xxhash.xxh3_64_intdigest(payload)
    items, taken = [], 0
    for index in range(count):
        where, sectors, how = struct.unpack_from("<QII", head, 64 + 16 * index)
        written = b""
        if how & 15 == 1:
            written = payload[taken : taken + sectors * 512]
            taken += (sectors * 512 + 4095) // 4096 * 4096
        time = base_time + (how >> 8) * 1000
        fields: Any = (how & 15, where >> 48, where & (2**48 - 1), sectors, time, written, {})
        items.append(Item(lsn + index, epoch, kind == 2, *fields))
    assert taken == payload_bytes
    start = 64 + 16 * count
    for note in msgpack.unpackb(head[start : start + notes_bytes]) if notes_bytes else []:
        items.append(Item(lsn + count - 1, epoch, kind == 2, 0, 0, 0, 0, 0, b"", note))
    return head_bytes, payload_bytes, items


class IndependentReader:
    """Lists items and rebuilds images, record by record."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        assert json.loads((folder / "JOURNAL").read_text())["format"] == 1
        self.timelines: dict[int, dict[str, Any]] = {}
        self.meta = self._meta()
        for meta in self.meta:
            if meta["meta"] == "timeline":
                self.timelines[meta["timeline"]] = meta

    def _meta(self) -> list[dict[str, Any]]:
        data, place, found = (self.folder / "meta.log").read_bytes(), 0, []
        while place < len(data):
            magic, length, total = struct.unpack_from("<4sIQ", data, place)
            body = data[place + 16 : place + 16 + length]
            assert magic == b"LWM1" and total == xxhash.xxh3_64_intdigest(data[place + 4 : place + 8] + body)
            found.append(msgpack.unpackb(body))
            place += (16 + length + 7) // 8 * 8
        return found

    def items(self, timeline: int) -> list[Item]:
        found: list[Item] = []
        line = self.timelines[timeline]
        if line["parent"] is not None:
            inherited = self.items(line["parent"])
            found = [i for i in inherited if i.lsn <= line["fork_lsn"] and i.epoch <= line["epoch"]]
        for path in sorted((self.folder / "timelines" / f"{timeline:04d}").glob("*.seg")):
            found += frames_of(path)
        return found

    def image(self, timeline: int, lsn: int, disk: int) -> bytes | None:
        """The disk at a point, None when it is no recovery point."""
        items = self.items(timeline)
        begun = {i.epoch: i for i in items if i.note.get("note") == "epoch"}
        valid = {i.epoch: i.lsn for i in items if i.note.get("kind") == "sync-end"}
        gaps = {i.epoch: i.lsn for i in items if i.note.get("note") == "gap"}
        newest = max((i.lsn for i in items), default=0)
        ends = {e: gaps.get(e, begun[e + 1].lsn if e + 1 in begun else newest) for e in begun}
        holding = [e for e in valid if valid[e] <= lsn <= ends[e]]
        if not holding:
            return None
        point = max(holding)
        size = next(d["bytes"] for d in begun[point].note["disks"] if d["disk"] == disk)
        image = bytearray(size)
        for epoch in sorted(e for e in valid if e <= point):
            for sync in (True, False):
                for item in items:
                    if (
                        item.kind
                        and (item.epoch, item.sync, item.disk) == (epoch, sync, disk)
                        and item.lsn <= lsn
                    ):
                        start = item.sector * 512
                        image[start : start + item.sectors * 512] = item.data or bytes(item.sectors * 512)
        return bytes(image[:size])
