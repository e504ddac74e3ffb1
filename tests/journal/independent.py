"""A second reader, written from docs/journal-format.md alone: it shares no code with the journal package.

It asserts every rule of that text that it meets, and is not meant to read damaged journals. `python -m
tests.journal.independent DIR` lists what a journal holds.
"""

from __future__ import annotations

import json
import struct
import sys
import uuid
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import xxhash

BLOCK, SECTOR = 4096, 512
TIMES = {1: "captured", 2: "sync", 3: "net of captured", 4: "net of sync"}


class Item(NamedTuple):
    """One record, or one note (kind 0), in the order of the files. A net record stands at the end of its interval."""

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


class Frame(NamedTuple):
    """One frame; `end` is where the next one begins in the file, `next_lsn` the LSN after it (of a net frame: after
    its interval)."""

    place: int
    end: int
    kind: int
    epoch: int
    first_lsn: int
    next_lsn: int
    base_time: int
    items: list[Item]


class StoredFile(NamedTuple):
    """A segment or net segment, taken apart. `digest`: of its footer, None without one."""

    path: Path
    is_net: bool
    first_lsn: int
    next_lsn: int
    previous: bytes
    named_by_next: bytes
    digest: bytes | None
    frames: list[Frame]

    @property
    def interval_ends(self) -> list[int]:
        """The last LSNs of the intervals of a net segment."""
        return sorted({frame.next_lsn - 1 for frame in self.frames}) if self.is_net else []


def read_file(path: Path, journal: bytes, timeline: int) -> StoredFile:
    data = path.read_bytes()
    is_net = path.suffix == ".net"
    if is_net:
        fields = struct.unpack_from("<8s16sIIQQQ16s16sQ", data)
        magic, owner, line, _, first, end, _, previous, stands_for, total = fields
        assert magic == b"LWNET001" and path.stem == f"{first:020d}-{end:020d}" and end > first
    else:
        magic, owner, line, _, first, _, previous, total = struct.unpack_from("<8s16sIIQQ16sQ", data)
        assert magic == b"LWSEG001" and path.stem == f"{first:020d}"
        end, stands_for = 0, b""
    size = 88 if is_net else 64
    assert total == xxhash.xxh3_64_intdigest(data[:size]) and not any(data[size + 8 : BLOCK])
    assert (owner, line) == (journal, timeline)
    frames, place = [], BLOCK
    while place < len(data) and data[place : place + 4] == b"LWF1":
        frames.append(one_frame(data, place))
        place = frames[-1].end
    (_net_order if is_net else _order)(frames, first, end)
    footer = _footer(data, place, frames) if place < len(data) else None
    assert footer or not is_net
    following = frames[-1].next_lsn if frames else first
    if footer:
        assert footer[0] == (end if is_net else following)
    named = stands_for if is_net else footer[1] if footer else bytes(16)
    return StoredFile(
        path, is_net, first, end or following, previous, named, footer[1] if footer else None, frames
    )


def _footer(data: bytes, place: int, frames: list[Frame]) -> tuple[int, bytes]:
    magic, count, records, next_lsn, length, stored, total = struct.unpack_from("<8sQQQQ16sQ", data, place)
    assert magic == b"LWEND001" and len(data) == place + BLOCK and not any(data[place + 64 :])
    assert total == xxhash.xxh3_64_intdigest(data[place : place + 56]) and length == place
    assert count == len(frames)
    assert records == sum(item.kind > 0 for frame in frames for item in frame.items)
    digest = xxhash.xxh3_128(data[:BLOCK])
    for frame in frames:
        digest.update(data[frame.place : frame.place + 64])
    assert stored == bytes.fromhex(digest.hexdigest())
    return next_lsn, stored


def _order(frames: list[Frame], first: int, end: int) -> None:
    due, epoch = first, 0
    for frame in frames:
        assert frame.kind in (1, 2) and frame.first_lsn == due
        assert not epoch or epoch <= frame.epoch <= epoch + 1
        due, epoch = frame.next_lsn, frame.epoch


def _net_order(frames: list[Frame], first: int, end: int) -> None:
    low = high = first
    rank = (0, 0)
    taken: dict[tuple[int, int, int, int], list[tuple[int, int]]] = {}
    for frame in frames:
        assert frame.kind in (3, 4)
        if (frame.first_lsn, frame.next_lsn) != (low, high):
            assert frame.first_lsn == high < frame.next_lsn
            low, high, rank = frame.first_lsn, frame.next_lsn, (0, 0)
        assert rank <= (frame.epoch, -frame.kind)
        rank = (frame.epoch, -frame.kind)
        for item in frame.items:
            assert item.time == frame.base_time if item.kind else low - 1 <= item.lsn < high
            if item.kind:
                key = (low, frame.epoch, frame.kind, item.disk)
                taken.setdefault(key, []).append((item.sector, item.sector + item.sectors))
    assert high == end
    for extents in taken.values():
        assert all(a[1] <= b[0] for a, b in pairwise(sorted(extents)))


def one_frame(data: bytes, place: int) -> Frame:
    _, kind, _, _, count, notes_bytes, payload_bytes, epoch, lsn = struct.unpack_from(
        "<4sBBHIIIIQ", data, place
    )
    position, base_time, payload_sum, head_sum = struct.unpack_from("<QQQQ", data, place + 32)
    assert kind in TIMES and count <= 65536 and notes_bytes <= 65536
    assert payload_bytes % BLOCK == 0 and payload_bytes <= 16 << 20 and epoch >= 1
    head_bytes = (64 + 16 * count + notes_bytes + 4095) // 4096 * 4096
    head = data[place : place + head_bytes]
    payload = data[place + head_bytes : place + head_bytes + payload_bytes]
    assert head_sum == xxhash.xxh3_64_intdigest(head[:56] + head[64:])
    assert payload_sum == xxhash.xxh3_64_intdigest(payload)
    net, sync = kind in (3, 4), kind in (2, 4)
    items, taken = [], 0
    for index in range(count):
        where, sectors, how = struct.unpack_from("<QII", head, 64 + 16 * index)
        assert how & 15 in (1, 2, 3) and sectors
        written = b""
        if how & 15 == 1:
            written = payload[taken : taken + sectors * 512]
            taken += (sectors * 512 + 4095) // 4096 * 4096
        time = base_time + (how >> 8) * 1000
        fields: Any = (how & 15, where >> 48, where & (2**48 - 1), sectors, time, written, {})
        items.append(Item(position - 1 if net else lsn + index, epoch, sync, *fields))
    assert taken == payload_bytes
    start = 64 + 16 * count
    assert not any(head[start + notes_bytes :])
    for note in msgpack.unpackb(head[start : start + notes_bytes]) if notes_bytes else []:
        stands = note["lsn"] if net else lsn + count - 1
        items.append(Item(stands, epoch, sync, 0, 0, 0, 0, 0, b"", note))
    end = place + head_bytes + payload_bytes
    return Frame(place, end, kind, epoch, lsn, position if net else lsn + count, base_time, items)


class IndependentReader:
    """Lists items and rebuilds images, record by record."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        identity = json.loads((folder / "JOURNAL").read_text())
        assert identity["format"] in (1, 2)
        self.format = identity["format"]
        self.journal = uuid.UUID(identity["journal"]).bytes
        self.meta = self._meta()
        self.timelines: dict[int, dict[str, Any]] = {}
        for meta in self.meta:
            if meta["meta"] == "timeline":
                self.timelines[meta["timeline"]] = meta
            elif meta["meta"] == "pruned":
                del self.timelines[meta["timeline"]]
            assert self.format == 2 or meta["meta"] in ("timeline", "bookmark", "fence", "damage")
        self._files: dict[int, list[StoredFile]] = {}

    def _meta(self) -> list[dict[str, Any]]:
        data, place, found = (self.folder / "meta.log").read_bytes(), 0, []
        while place < len(data):
            magic, length, total = struct.unpack_from("<4sIQ", data, place)
            body = data[place + 16 : place + 16 + length]
            assert magic == b"LWM1" and total == xxhash.xxh3_64_intdigest(data[place + 4 : place + 8] + body)
            found.append(msgpack.unpackb(body))
            place += (16 + length + 7) // 8 * 8
        return found

    def files(self, timeline: int) -> list[StoredFile]:
        """The files of a timeline that count, in order; the chain between them and the log hold."""
        if timeline not in self._files:
            self._files[timeline] = self._read_files(timeline)
        return self._files[timeline]

    def _read_files(self, timeline: int) -> list[StoredFile]:
        home = self.folder / "timelines" / f"{timeline:04d}"
        paths = [path for path in home.glob("*") if path.suffix in (".seg", ".net")] if home.exists() else []
        assert self.format == 2 or all(path.suffix == ".seg" for path in paths)
        ranges = {path: _range(path) for path in paths}
        # A segment's own range is not in its name; net segments replace whole files, so it is the smaller one.
        hidden = {
            path
            for path, (first, end) in ranges.items()
            if any(low <= first < high and high - low > end - first for low, high in ranges.values())
        }
        order = sorted((path for path in paths if path not in hidden), key=lambda path: ranges[path])
        found = [read_file(path, self.journal, timeline) for path in order]
        due, named = self.timelines[timeline]["fork_lsn"] + 1, bytes(16)
        for file in found:
            assert (file.first_lsn, file.previous) == (due, named), file.path
            due, named = file.next_lsn, file.named_by_next
        said = {
            (meta["first_lsn"], meta["next_lsn"], meta["digest"])
            for meta in self.meta
            if meta["meta"] == "thinned" and meta["timeline"] == timeline
        }
        for file in found:
            assert not file.is_net or (file.first_lsn, file.next_lsn, file.digest) in said
        return found

    def items(self, timeline: int) -> list[Item]:
        """Records and notes of a timeline with its ancestors up to their forks."""
        found: list[Item] = []
        line = self.timelines[timeline]
        if line["parent"] is not None:
            inherited = self.items(line["parent"])
            found = [i for i in inherited if i.lsn <= line["fork_lsn"] and i.epoch <= line["epoch"]]
        for file in self.files(timeline):
            found += [item for frame in file.frames for item in frame.items]
        return found

    def newest(self, timeline: int) -> int:
        """The newest LSN."""
        own = self.files(timeline)
        return own[-1].next_lsn - 1 if own else int(self.timelines[timeline]["fork_lsn"])

    def thinned(self, timeline: int) -> set[int]:
        """The LSNs between the interval ends of net segments."""
        line = self.timelines[timeline]
        gone: set[int] = set()
        if line["parent"] is not None:
            gone = {lsn for lsn in self.thinned(line["parent"]) if lsn <= line["fork_lsn"]}
        for file in self.files(timeline):
            if file.is_net:
                gone |= set(range(file.first_lsn, file.next_lsn)) - set(file.interval_ends)
        return gone

    def epoch_of(self, timeline: int, lsn: int) -> Item | None:
        """The note of the epoch that a recovery point lies in, None when it is none."""
        items = self.items(timeline)
        begun = {i.epoch: i for i in items if i.note.get("note") == "epoch"}
        valid = {i.epoch: i.lsn for i in reversed(items) if i.note.get("kind") == "sync-end"}
        gaps = {i.epoch: i.lsn for i in items if i.note.get("note") == "gap"}
        newest = self.newest(timeline)
        ends = {e: gaps.get(e, begun[e + 1].lsn if e + 1 in begun else newest) for e in begun}
        holding = [e for e in valid if valid[e] <= lsn <= ends[e]]
        if not holding or lsn in self.thinned(timeline):
            return None
        point = begun[max(holding)]
        cuts = {i.lsn for i in items if i.note.get("note") == "cut" and i.epoch == point.epoch}
        return point if point.note["order"] != "cycle" or lsn in cuts else None

    def image(self, timeline: int, lsn: int, disk: int) -> bytes | None:
        """The disk at a point, None when it is no recovery point."""
        point = self.epoch_of(timeline, lsn)
        if point is None:
            return None
        items = self.items(timeline)
        valid = {i.epoch for i in items if i.note.get("kind") == "sync-end"}
        size = next(d["bytes"] for d in point.note["disks"] if d["disk"] == disk)
        image = bytearray(size)
        for epoch in sorted(e for e in valid if e <= point.epoch):
            for sync in (True, False):
                for item in items:
                    if (
                        item.kind
                        and (item.epoch, item.sync, item.disk) == (epoch, sync, disk)
                        and item.lsn <= lsn
                    ):
                        start = item.sector * SECTOR
                        image[start : start + item.sectors * SECTOR] = item.data or bytes(
                            item.sectors * SECTOR
                        )
        return bytes(image[:size])


def _range(path: Path) -> tuple[int, int]:
    first, _, end = path.stem.partition("-")
    assert len(first) == 20 and (path.suffix == ".net") == (len(end) == 20)
    return int(first), int(end or first)


def main(folder: Path) -> None:
    """List everything that a journal holds."""
    reader = IndependentReader(folder)
    for meta in reader.meta:
        print("log", meta)
    for timeline in reader.timelines:
        for file in reader.files(timeline):
            print(f"timeline {timeline}: {file.path.name}, LSN {file.first_lsn} to {file.next_lsn - 1}")
            for frame in file.frames:
                print(
                    f"  {TIMES[frame.kind]}, epoch {frame.epoch}, LSN {frame.first_lsn} to {frame.next_lsn - 1}"
                )
                for item in frame.items:
                    what = (
                        item.note or f"kind {item.kind} disk {item.disk} sector {item.sector} +{item.sectors}"
                    )
                    print(f"    {item.lsn}: {what}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
