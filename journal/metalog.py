"""The metadata log: timelines, bookmarks, fences, pins, retention, damage (docs/journal-format.md).

Several processes add to it, each under an exclusive flock on the log itself.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import xxhash

from journal import layout
from journal.errors import DamagedJournal
from journal.metarecords import makes_sense
from journal.storage import FILE_MODE, replace_file, write_error
from lastwrite.failpoints import reach

MAGIC = b"LWM1"
META_HEADER = struct.Struct("<4sIQ")
MAX_BODY_BYTES = 1 << 20
_WRITING = os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY  # what is no file must keep nobody waiting
SINCE_FORMAT_2 = ("pin", "unpin", "retention", "thinned", "pruned")

Meta = dict[str, Any]
Check = Callable[[list[Meta]], None]


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
    """Return what the log at `path` holds; bytes that are no record are stepped over, 8 at a time.

    Raises DamagedJournal when it is no regular file, OSError.
    """
    data = content(path)
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
        meta, after = found
        if meta is None:
            damaged.append(place)
        else:
            records.append(meta)
        place = end = after
    return MetaLog(records, end, damaged)


def content(path: Path) -> bytes:
    """Return the bytes of the log at `path`. Raises DamagedJournal when it is no regular file, OSError."""
    try:
        return layout.read_file(path)
    except layout.NotAFile as error:
        hint = "Move it away, or put the file back from a copy: without it `lastwrite journal rescue` works, too."
        raise DamagedJournal(f"{path} is damaged: {error.strerror}", hint=hint) from error


def _record_at(data: bytes, place: int) -> tuple[Meta | None, int] | None:
    """Return the record at a place and where it ends, None when there is none; no meta: it makes no sense."""
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
    return (meta if makes_sense(meta) else None), end


@contextmanager
def locked(folder: Path) -> Iterator[list[Meta]]:
    """Hold the lock of a journal's log; give its records. Nobody adds to it meanwhile.

    Raises JournalFull, JournalWriteFailed when it cannot be opened for writing.
    """
    with _locked(folder, make=False) as (_, log):
        yield log.records


@contextmanager
def _locked(folder: Path, *, make: bool = True) -> Iterator[tuple[int, MetaLog]]:
    """Hold the log's lock; give its descriptor and its records, what is torn at its end cut off."""
    path = folder / layout.META_LOG
    try:
        fd = os.open(path, _WRITING | (os.O_CREAT if make else 0), FILE_MODE)
    except OSError as error:
        raise write_error(path, error) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        log = read(path)
        if os.fstat(fd).st_size > log.end:
            os.ftruncate(fd, log.end)
        yield fd, log
    finally:
        os.close(fd)


def repair(folder: Path) -> None:
    """Cut off what a crash left half written at the end of a journal's log."""
    with _locked(folder) as (fd, _):
        os.fdatasync(fd)


def append(
    folder: Path, meta: Meta, check: Check | None = None, then: Callable[[], None] | None = None
) -> None:
    """Add a record to a journal's log, durably; on an error the log is as it was.

    `check` is called under the log's lock with the records of that moment, and may raise; `then`, still under the lock,
    when the record is durable. A journal of format 1 becomes one of format 2 first, when the record needs it. Raises
    JournalFull, JournalWriteFailed.
    """
    record = encode(meta)
    with _locked(folder) as (fd, log):
        if meta["meta"] in SINCE_FORMAT_2:
            upgrade(folder)
        if check:
            check(log.records)
        try:
            _write(fd, record, log.end)
        except OSError as error:
            os.ftruncate(fd, log.end)
            raise write_error(folder / layout.META_LOG, error) from error
        reach("meta-synced")
        if then:
            then()


def _write(fd: int, record: bytes, place: int) -> None:
    half = len(record) // 2
    _write_all(fd, record[:half], place)
    reach("meta-half")
    _write_all(fd, record[half:], place + half)
    reach("meta-written")
    os.fdatasync(fd)


def _write_all(fd: int, data: bytes, place: int) -> None:
    while data:
        written = os.pwrite(fd, data, place)
        data, place = data[written:], place + written


def upgrade(folder: Path) -> None:
    """Make a journal of format 1 one of format 2, durably."""
    identity = layout.read_identity(folder)
    if identity.format < layout.FORMAT:
        replace_file(folder / layout.IDENTITY, layout.identity_text(identity._replace(format=layout.FORMAT)))
        reach("identity-upgraded")


def timelines(records: list[Meta]) -> list[Timeline]:
    """Return the timelines that a log names and that were not given up, by number.

    Timeline 1 is there even when its record is lost.
    """
    found = {1: Timeline(1, "main", None, 0, 0, 0)}
    for meta in records:
        if meta["meta"] == "timeline":
            number = int(meta["timeline"])
            parent, fork = meta.get("parent"), meta.get("fork_lsn") or 0
            name, created = str(meta["name"]), meta.get("created") or 0
            found[number] = Timeline(number, name, parent, fork, meta.get("epoch") or 0, created)
    given_up = {meta.get("timeline") for meta in records if meta["meta"] == "pruned"}
    return [found[number] for number in sorted(found) if number not in given_up - {1}]


def next_timeline(records: list[Meta]) -> int:
    """Return the number of the next timeline: no number is used twice."""
    return 1 + max([1, *(int(m["timeline"]) for m in records if m["meta"] in ("timeline", "pruned"))])
