"""Opening a journal that has lost JOURNAL or meta.log: who it is and how it forked is read off its segments.

Writes nothing. What was put together, and what stays unknown, is told in sentences.
"""

from __future__ import annotations

import os
import uuid
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from journal import layout, metalog
from journal.errors import DamagedJournal, NotAJournal
from journal.frame import BLOCK
from journal.layout import Identity, NetHeader, SegmentHeader
from journal.metalog import Meta
from journal.reader import JournalReader
from journal.scan import Owner, SegmentScan
from lastwrite.errors import UnavailableError

UNKNOWN_VM = "(name lost)"


class JournalUnreadable(UnavailableError):
    """The file system does not let a journal be read."""

    code = "journal-unreadable"
    hint = (
        "Look at the permissions and the disk of the journal; a copy of its folder can be read just as well."
    )


class Lost(NamedTuple):
    """Something that is not there any more: in which file, at which byte of it."""

    path: Path
    offset: int
    reason: str


class Salvaged(NamedTuple):
    """A journal that can be read. `lost`: what of it is not there any more; `assumed`: what was put in its place."""

    reader: JournalReader
    lost: list[Lost]
    assumed: list[str]

    @property
    def told(self) -> list[str]:
        """What is lost, in sentences."""
        return [lost.reason for lost in self.lost]


def open_salvaged(folder: Path | str, *, cached: bool = False) -> Salvaged:
    """Open a journal whatever it has lost; caches are used only when `cached`.

    Raises NotAJournal when there is not one segment, WrongFormat, JournalUnreadable.
    """
    folder = Path(folder)
    lost: list[Lost] = []
    assumed: list[str] = []
    try:
        identity = _identity(folder, lost, assumed)
        records = _forks(folder, identity, lost, assumed)
        reader = JournalReader(folder, identity=identity, extra=records, cached=cached)
    except OSError as error:
        raise JournalUnreadable(f"{error.filename or folder}: {error.strerror or error}") from error
    return Salvaged(reader, lost, assumed)


def _identity(folder: Path, lost: list[Lost], assumed: list[str]) -> Identity:
    headers = _headers(folder)
    try:
        identity = layout.read_identity(folder)
    except (NotAJournal, DamagedJournal) as error:
        if not headers:
            raise
        missing = isinstance(error, NotAJournal)
        reason = f"the file {layout.IDENTITY} is missing" if missing else error.message
        lost.append(Lost(folder / layout.IDENTITY, 0, reason))
        identity = _from_headers(headers)
        assumed.append(f"its segments say that this is journal {identity.journal}; the VM's name is lost")
        return identity
    if headers and all(header.journal != identity.journal.bytes for header in headers):
        theirs = _from_headers(headers)
        reason = f"{layout.IDENTITY} names journal {identity.journal}, no segment does"
        lost.append(Lost(folder / layout.IDENTITY, 0, reason))
        assumed.append(f"{layout.IDENTITY} is that of another journal: what the segments say counts")
        identity = theirs
    return identity


def _from_headers(headers: list[SegmentHeader | NetHeader]) -> Identity:
    ((journal, _),) = Counter(header.journal for header in headers).most_common(1)
    oldest = min(header.created for header in headers if header.journal == journal)
    created = datetime.fromtimestamp(oldest // 10**9, UTC).isoformat(timespec="seconds")
    return Identity(uuid.UUID(bytes=journal), UNKNOWN_VM, created)


def timeline_numbers(folder: Path) -> list[int]:
    """Return the numbers of the timelines that have a folder."""
    try:
        names = [path.name for path in (folder / layout.TIMELINES).iterdir() if path.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(int(n) for n in names if n.isascii() and n.isdigit() and n == f"{int(n):04d}")


def _headers(folder: Path) -> list[SegmentHeader | NetHeader]:
    """Return the headers of all segments that can be read."""
    found = []
    for number in timeline_numbers(folder):
        for file in layout.files(folder, number):
            unpack = layout.unpack_net_header if file.is_net else layout.unpack_segment_header
            header = unpack(_first_block(file.path))
            if header is not None:
                found.append(header)
    return found


def _first_block(path: Path) -> bytes:
    try:
        fd = layout.open_file(path)
    except OSError:
        return b""
    try:
        return os.pread(fd, BLOCK, 0)
    except OSError:
        return b""
    finally:
        os.close(fd)


def _forks(folder: Path, identity: Identity, lost: list[Lost], assumed: list[str]) -> list[Meta]:
    """Return records for the timelines that have segments, but no record in the metadata log."""
    path = folder / layout.META_LOG
    if path.exists():
        log = metalog.read(path)
        lost += [Lost(path, place, f"the metadata log is damaged at byte {place}") for place in log.damaged]
    else:
        log = metalog.MetaLog([], 0, [])
        reason = "the metadata log is missing: bookmarks, fences and pins are gone with it"
        lost.append(Lost(path, 0, reason))
    known = {int(m.get("timeline", 0)) for m in log.records if m["meta"] in ("timeline", "pruned")}
    found = []
    for number in timeline_numbers(folder):
        if number in known or number == layout.MAIN:
            continue
        if not layout.files(folder, number):
            continue  # a fork that crashed before it was written into the log
        record = _fork(folder, identity, number)
        if record is None:
            reason = f"where timeline {number} forked from is unknown: its own records cannot be used alone"
            lost.append(Lost(layout.timeline_folder(folder, number), 0, reason))
            continue
        found.append(record)
        assumed.append(f"timeline {number} forked from timeline 1 at LSN {record['fork_lsn']}")
    return found


def _fork(folder: Path, identity: Identity, number: int) -> Meta | None:
    """Return where a timeline forked: its first file says it. Timeline 2 can only have forked from timeline 1."""
    files = layout.files(folder, number)
    if number != 2 or not files:
        return None
    scan = SegmentScan(
        files[0].path,
        files[0].first_lsn,
        Owner(identity.journal.bytes, number),
        files[0].next_lsn,
        cached=False,
    )
    scan.extend()
    if not scan.frame_count:
        return None
    first = scan.frames.array()[0]
    return {
        "meta": "timeline",
        "timeline": number,
        "name": "(name lost)",
        "parent": layout.MAIN,
        "fork_lsn": files[0].first_lsn - 1,
        "epoch": int(first["epoch"]) - 1,
        "created": scan.header.created if scan.header else 0,
    }
