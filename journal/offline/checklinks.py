"""The parts of a check that read heads only: the chain of files, counts, and what the metadata log says of them."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from journal import layout, metalog
from journal.frame import BLOCK
from journal.history import Damage
from journal.layout import NetHeader
from journal.metalog import META_HEADER
from journal.reader import JournalReader
from journal.scan import SegmentScan


def file_damage(timeline: int, scans: Sequence[SegmentScan], index: int) -> Iterator[Damage]:
    """Yield what is wrong with a file's footer, with its place in the chain, and in bytes that no checksum covers."""
    scan = scans[index]
    last = index + 1 == len(scans)
    if not last and not scan.sealed and not scan.tail_reason:
        yield _at(timeline, scan, "the segment has no footer")
    if scan.footer and not scan.bad and not scan.tail_reason:
        counted = (scan.frame_count, scan.record_count, scan.next_lsn, scan.digest)
        footer = scan.footer
        if (footer.frames, footer.records, footer.next_lsn, footer.digest) != counted:
            yield _at(timeline, scan, "the footer does not fit the frames: some were removed or altered")
    due = _names_next(scans[index - 1]) if index else layout.NO_DIGEST
    if scan.header and due is not None and scan.header.previous != due:
        yield _at(
            timeline, scan, "the segment does not follow the one before it: that was removed or altered"
        )
    if not scan.foreign:
        try:
            yield from _not_zero(timeline, scan)
        except (FileNotFoundError, layout.NotAFile):
            return  # retention has replaced it since its data was read; of what is no file the heads tell


def _at(timeline: int, scan: SegmentScan, reason: str, offset: int = 0) -> Damage:
    return Damage(timeline, scan.first_lsn, scan.first_lsn, scan.path, offset, reason, lost=False)


def _names_next(scan: SegmentScan) -> bytes | None:
    """Return what the file after this one must name as the one before it, None when damage hides it."""
    if scan.is_net:
        return scan.header.stands_for if isinstance(scan.header, NetHeader) else None
    if scan.footer:
        return scan.footer.digest
    return scan.digest if not scan.bad else None


def _not_zero(timeline: int, scan: SegmentScan) -> Iterator[Damage]:
    """Yield padding that is not zeros: nobody reads it, but somebody altered the file."""
    header = layout.NET_HEADER if scan.is_net else layout.SEGMENT_HEADER
    with open(layout.open_file(scan.path), "rb", buffering=0) as file:
        if scan.inode != os.fstat(file.fileno()).st_ino:
            return
        if scan.header and any(file.read(BLOCK)[header.size :]):
            yield _at(timeline, scan, "the bytes after the header were altered: they should be zeros")
        if scan.footer:
            file.seek(scan.footer.length)
            if any(file.read(BLOCK)[layout.FOOTER.size :]):
                reason = "the bytes after the footer were altered: they should be zeros"
                yield _at(timeline, scan, reason, scan.footer.length)


def log_damage(reader: JournalReader) -> Iterator[Damage]:
    """Yield what the metadata log says that the files do not, and what was altered in the log itself."""
    path = reader.folder / layout.META_LOG
    data = metalog.content(path) if path.exists() else b""
    # What was added since the files were looked at counts: a net segment is named before it is there.
    log = metalog.read(path) if path.exists() else reader.meta
    yield from _log_bytes(path, data, log.end)
    for gone in missing_newest(reader):
        where = (gone.newest + 1, gone.named + 1, path, 0, gone.reason)
        yield Damage(gone.timeline, *where, lost=False)
    yield from _thinned(reader, log)


def _log_bytes(path: Path, data: bytes, end: int) -> Iterator[Damage]:
    place = 0
    while place + META_HEADER.size <= len(data) and data[place : place + 4] == metalog.MAGIC:
        _, length, _ = META_HEADER.unpack_from(data, place)
        body = place + META_HEADER.size + length
        stop = body + -body % 8
        if place >= end and stop == len(data):
            reason = "the last record of the metadata log does not match its checksum"
            yield Damage(0, 0, 0, path, place, reason, lost=False)
        elif place < end and any(data[body:stop]):
            reason = "the bytes after a record of the metadata log were altered: they should be zeros"
            yield Damage(0, 0, 0, path, body, reason, lost=False)
        place = stop


class Missing(NamedTuple):
    """The log names LSN `named` of a timeline, whose newest record is `newest`."""

    timeline: int
    newest: int
    named: int
    reason: str


def missing_newest(reader: JournalReader) -> list[Missing]:
    """Return what the log names that lies behind all that is there: the newest files of a timeline are gone."""
    known = {line.number for line in reader.timelines()}
    kinds = ("bookmark", "timeline", "thinned")
    metas = [m for m in reader.meta.records if m["meta"] in kinds and m.get("timeline") in known]
    return [gone for meta in metas if (gone := _missing(reader, known, meta))]


def _missing(reader: JournalReader, known: set[int], meta: metalog.Meta) -> Missing | None:
    what, number = meta["meta"], int(meta["timeline"])
    if what == "timeline":
        parent, named = meta.get("parent"), meta.get("fork_lsn") or 0
        if parent is None or parent not in known:
            return None
        number, what = int(parent), f"timeline {number}, which forks"
    else:
        named = meta["lsn"] if what == "bookmark" else meta["next_lsn"] - 1
        what = f"bookmark {meta.get('name')!r}" if what == "bookmark" else "a net segment"
    newest = reader.last_lsn(number)
    if named <= newest:
        return None
    reason = f"the log names {what} at LSN {named}, but the newest record there is {newest}"
    return Missing(number, newest, named, f"{reason}: the newest files are gone")


def _thinned(reader: JournalReader, log: metalog.MetaLog) -> Iterator[Damage]:
    """Compare net segments with what the log says was put in their place.

    The record comes first: after a crash the newest one of a range may be of a file that never got its name.
    """
    said: defaultdict[tuple[int, int, int], set[bytes]] = defaultdict(set)
    for meta in [*reader.meta.records, *log.records]:
        if meta["meta"] == "thinned":
            said[meta["timeline"], meta["first_lsn"], meta["next_lsn"]].add(bytes(meta["digest"]))
    for line in reader.timelines():
        for scan in reader.scans(line.number):
            due = said[line.number, scan.first_lsn, scan.net_end or 0]
            if not scan.is_net or scan.footer is None or scan.footer.digest in due:
                continue
            if due:
                yield _at(line.number, scan, "the net segment is not the one that the metadata log names")
            elif not reader.meta.damaged:
                yield _at(line.number, scan, "the metadata log does not name the net segment")
