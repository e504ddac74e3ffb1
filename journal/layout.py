"""Names and fixed-size structures of a journal's files (docs/journal-format.md, "Segment")."""

from __future__ import annotations

import json
import struct
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, Protocol

import xxhash

from journal.errors import DamagedJournal, NotAJournal, WrongFormat
from journal.frame import BLOCK, Buffer

FORMAT = 1
IDENTITY, LOCK, META_LOG, TIMELINES = "JOURNAL", "lock", "meta.log", "timelines"
MAIN = 1
SEGMENT_MAGIC, FOOTER_MAGIC = b"LWSEG001", b"LWEND001"
NO_DIGEST = bytes(16)

SEGMENT_HEADER = struct.Struct("<8s16sIIQQ16sQ")
FOOTER = struct.Struct("<8sQQQQ16sQ")


class Digest(Protocol):
    """A running XXH3-128."""

    def update(self, data: Buffer) -> None:
        """Take in more bytes."""

    def digest(self) -> bytes:
        """Return the digest of the bytes so far, big-endian."""

    def copy(self) -> Digest:
        """Return an independent copy."""


class Identity(NamedTuple):
    """Who a journal is: its uuid, the VM's name, when it was made (ISO 8601)."""

    journal: uuid.UUID
    vm: str
    created: str


class SegmentHeader(NamedTuple):
    """The first bytes of a segment; `created` in ns since 1970."""

    journal: bytes
    timeline: int
    first_lsn: int
    created: int
    previous: bytes


class Footer(NamedTuple):
    """The last bytes of a sealed segment; `length` is where the footer begins."""

    frames: int
    records: int
    next_lsn: int
    length: int
    digest: bytes


def timeline_folder(folder: Path, timeline: int) -> Path:
    """Return the folder of a timeline's segments."""
    return folder / TIMELINES / f"{timeline:04d}"


def segment_path(folder: Path, timeline: int, first_lsn: int) -> Path:
    """Return the path of the segment that begins with `first_lsn`."""
    return timeline_folder(folder, timeline) / f"{first_lsn:020d}.seg"


def segments(folder: Path, timeline: int) -> list[tuple[int, Path]]:
    """Return (first LSN, path) of a timeline's segments, oldest first."""
    try:
        names = [path.name for path in timeline_folder(folder, timeline).iterdir()]
    except FileNotFoundError:
        return []
    stems = [name[:-4] for name in names if len(name) == 24 and name.endswith(".seg")]
    return [
        (lsn, segment_path(folder, timeline, lsn)) for lsn in sorted(int(s) for s in stems if s.isdigit())
    ]


def pack_segment_header(header: SegmentHeader) -> bytes:
    """Return the 4096 bytes that a segment begins with."""
    fields = (SEGMENT_MAGIC, header.journal, header.timeline, 0, header.first_lsn, header.created)
    return _summed(SEGMENT_HEADER.pack(*fields, header.previous, 0))


def unpack_segment_header(data: Buffer) -> SegmentHeader | None:
    """Return a segment's header, or None when the bytes are not a correct one."""
    if not _sum_matches(SEGMENT_HEADER, SEGMENT_MAGIC, data):
        return None
    _, journal, timeline, _, first_lsn, created, previous, _ = SEGMENT_HEADER.unpack_from(data)
    return SegmentHeader(journal, timeline, first_lsn, created, previous)


def pack_footer(footer: Footer) -> bytes:
    """Return the 4096 bytes that a sealed segment ends with."""
    return _summed(FOOTER.pack(FOOTER_MAGIC, *footer, 0))


def unpack_footer(data: Buffer) -> Footer | None:
    """Return a segment's footer, or None when the bytes are not a correct one."""
    if not _sum_matches(FOOTER, FOOTER_MAGIC, data):
        return None
    return Footer(*FOOTER.unpack_from(data)[1:-1])


def _summed(fields: bytes) -> bytes:
    digest: int = xxhash.xxh3_64_intdigest(fields[:-8])
    return (fields[:-8] + struct.pack("<Q", digest)).ljust(BLOCK, b"\0")


def _sum_matches(layout: struct.Struct, magic: bytes, data: Buffer) -> bool:
    view = memoryview(data)
    if len(view) < layout.size or view[: len(magic)] != magic:
        return False
    (stored,) = struct.unpack_from("<Q", view, layout.size - 8)
    return bool(stored == xxhash.xxh3_64_intdigest(view[: layout.size - 8]))


def new_identity(vm: str) -> Identity:
    """Return the identity of a journal that begins now."""
    return Identity(uuid.uuid4(), vm, datetime.now(UTC).isoformat(timespec="seconds"))


def identity_text(identity: Identity) -> bytes:
    """Return the content of the file JOURNAL."""
    fields = {
        "format": FORMAT,
        "journal": str(identity.journal),
        "vm": identity.vm,
        "created": identity.created,
    }
    return json.dumps(fields, ensure_ascii=False).encode() + b"\n"


def read_identity(folder: Path) -> Identity:
    """Return who the journal in `folder` is. Raises NotAJournal, WrongFormat, DamagedJournal."""
    path = folder / IDENTITY
    try:
        fields = json.loads(path.read_bytes())
        found = fields["format"]
    except (FileNotFoundError, NotADirectoryError):
        raise NotAJournal(f"{folder} holds no journal") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedJournal(f"{path} is damaged: {error}") from error
    if found != FORMAT:
        raise WrongFormat(f"{folder} has journal format {found!r}; this version knows {FORMAT}")
    try:
        return Identity(uuid.UUID(fields["journal"]), str(fields["vm"]), str(fields["created"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedJournal(f"{path} is damaged: {error}") from error
