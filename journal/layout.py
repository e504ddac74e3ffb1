"""Names and fixed-size structures of a journal's files (docs/journal-format.md, "Segment", "Net segment")."""

from __future__ import annotations

import errno
import json
import os
import resource
import stat
import struct
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, Protocol

import xxhash

from journal.errors import DamagedJournal, NotAJournal, TooManyOpenFiles, WrongFormat
from journal.frame import BLOCK, Buffer

FORMAT = 2
KNOWN_FORMATS = (1, 2)
IDENTITY, LOCK, META_LOG, TIMELINES, HOLDS = "JOURNAL", "lock", "meta.log", "timelines", "holds"
MAIN = 1
SEGMENT_MAGIC, NET_MAGIC, FOOTER_MAGIC = b"LWSEG001", b"LWNET001", b"LWEND001"
NO_DIGEST = bytes(16)
SEGMENT_SUFFIX, NET_SUFFIX, NEW_SUFFIX = ".seg", ".net", ".new"

SEGMENT_HEADER = struct.Struct("<8s16sIIQQ16sQ")
NET_HEADER = struct.Struct("<8s16sIIQQQ16s16sQ")
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
    """Who a journal is: its uuid, the VM's name, when it was made (ISO 8601), the version of its format."""

    journal: uuid.UUID
    vm: str
    created: str
    format: int = FORMAT


class SegmentHeader(NamedTuple):
    """The first bytes of a segment; `created` in ns since 1970."""

    journal: bytes
    timeline: int
    first_lsn: int
    created: int
    previous: bytes


class NetHeader(NamedTuple):
    """The first bytes of a net segment: the LSNs from `first_lsn` up to before `next_lsn`."""

    journal: bytes
    timeline: int
    first_lsn: int
    next_lsn: int
    created: int
    previous: bytes
    stands_for: bytes


class StoredFile(NamedTuple):
    """A segment (`next_lsn` None: its footer says it, when it has one) or a net segment of a timeline."""

    first_lsn: int
    next_lsn: int | None
    path: Path
    is_net: bool


class Footer(NamedTuple):
    """The last bytes of a sealed segment or net segment; `length` is where the footer begins."""

    frames: int
    records: int
    next_lsn: int
    length: int
    digest: bytes


class NotAFile(OSError):
    """What has the name of a journal's file is something else: a folder, a pipe, a link to nothing."""


def open_file(path: Path) -> int:
    """Open a regular file for reading; never waits, as opening a pipe would. Raises NotAFile, OSError.

    When too many files are open, this process lets itself open more; then raises TooManyOpenFiles.
    """
    try:
        fd = _opened(path)
    except OSError as error:
        if error.errno == errno.ELOOP or (error.errno == errno.ENOENT and path.is_symlink()):
            raise NotAFile(errno.EINVAL, "it is a link that leads nowhere", str(path)) from error
        raise
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise NotAFile(errno.EINVAL, "it is no regular file", str(path))


def read_file(path: Path) -> bytes:
    """Return what a regular file holds. Raises NotAFile, OSError."""
    with open(open_file(path), "rb") as file:
        return file.read()


def _opened(path: Path) -> int:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    try:
        return os.open(path, flags)
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENXIO):
            raise
        if error.errno == errno.ENXIO:
            raise NotAFile(errno.EINVAL, "it is no regular file", str(path)) from error
    limit = raise_file_limit()
    try:
        return os.open(path, flags)
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        message = f"{path} cannot be opened: this process may have {limit} files open at most"
        raise TooManyOpenFiles(message) from error


def raise_file_limit() -> int:
    """Let this process open as many files as it may at all; return how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def timeline_folder(folder: Path, timeline: int) -> Path:
    """Return the folder of a timeline's segments."""
    return folder / TIMELINES / f"{timeline:04d}"


def segment_path(folder: Path, timeline: int, first_lsn: int) -> Path:
    """Return the path of the segment that begins with `first_lsn`."""
    return timeline_folder(folder, timeline) / f"{first_lsn:020d}.seg"


def net_path(folder: Path, timeline: int, first_lsn: int, next_lsn: int) -> Path:
    """Return the path of the net segment that stands for the LSNs from `first_lsn` up to before `next_lsn`."""
    return timeline_folder(folder, timeline) / f"{first_lsn:020d}-{next_lsn:020d}{NET_SUFFIX}"


def stored_file(path: Path) -> StoredFile | None:
    """Return what a file's name says, None when it is no segment's."""
    first, _, following = path.stem.partition("-")
    if not (len(first) == 20 and first.isdecimal() and first.isascii()):
        return None
    if path.suffix == SEGMENT_SUFFIX and path.stem == first:
        return StoredFile(int(first), None, path, False)
    whole = len(following) == 20 and following.isdecimal() and following.isascii()
    if path.suffix == NET_SUFFIX and whole and int(following) > int(first):
        return StoredFile(int(first), int(following), path, True)
    return None


def all_files(folder: Path, timeline: int) -> list[StoredFile]:
    """Return a timeline's segments and net segments, left-overs too, by first LSN."""
    home = timeline_folder(folder, timeline)
    names = _names(home)
    # While retention puts a net segment in the place of others, one listing could miss both.
    while (again := _names(home)) != names:
        names = again
    found = [stored_file(home / name) for name in names]
    return sorted((file for file in found if file), key=lambda file: (file.first_lsn, file.path.name))


def _names(home: Path) -> set[str]:
    try:
        return {path.name for path in home.iterdir()}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def without_left_overs(files: Iterable[StoredFile]) -> list[StoredFile]:
    """Return the files that count: those that begin in the range of a larger net segment do not."""
    kept: list[StoredFile] = []
    widest: StoredFile | None = None
    # By first LSN, the larger range first: whoever hides a file was seen before it.
    for file in sorted(files, key=lambda file: (file.first_lsn, -(file.next_lsn or 0))):
        if widest and _hides(widest, file):
            continue
        kept.append(file)
        if file.next_lsn is not None and (widest is None or file.next_lsn > (widest.next_lsn or 0)):
            widest = file
    return kept


def _hides(net: StoredFile, file: StoredFile) -> bool:
    inside = net.next_lsn is not None and file.first_lsn < net.next_lsn
    return inside and _range(net) > _range(file)


def _range(file: StoredFile) -> int:
    return (file.next_lsn or file.first_lsn) - file.first_lsn


def files(folder: Path, timeline: int) -> list[StoredFile]:
    """Return the segments and net segments that a timeline consists of, oldest first."""
    return without_left_overs(all_files(folder, timeline))


def segments(folder: Path, timeline: int) -> list[tuple[int, Path]]:
    """Return (first LSN, path) of a timeline's segments that are no left-overs, oldest first."""
    return [(file.first_lsn, file.path) for file in files(folder, timeline) if not file.is_net]


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


def pack_net_header(header: NetHeader) -> bytes:
    """Return the 4096 bytes that a net segment begins with."""
    journal, timeline, *rest = header
    return _summed(NET_HEADER.pack(NET_MAGIC, journal, timeline, 0, *rest, 0))


def unpack_net_header(data: Buffer) -> NetHeader | None:
    """Return a net segment's header, or None when the bytes are not a correct one."""
    if not _sum_matches(NET_HEADER, NET_MAGIC, data):
        return None
    _, journal, timeline, _, *rest, _ = NET_HEADER.unpack_from(data)
    return NetHeader(journal, timeline, *rest)


def pack_footer(footer: Footer) -> bytes:
    """Return the 4096 bytes that a sealed segment ends with."""
    return _summed(FOOTER.pack(FOOTER_MAGIC, *footer, 0))


def unpack_footer(data: Buffer) -> Footer | None:
    """Return a segment's footer, or None when the bytes are not a correct one."""
    if not _sum_matches(FOOTER, FOOTER_MAGIC, data):
        return None
    return Footer(*FOOTER.unpack_from(data)[1:-1])


def read_footer(path: Path) -> Footer | None:
    """Return the footer of a segment or net segment, None when it has none. Raises OSError."""
    fd = open_file(path)
    try:
        return footer_at(fd, os.fstat(fd).st_size)
    finally:
        os.close(fd)


def footer_at(fd: int, size: int) -> Footer | None:
    """Return the footer that an open file of `size` bytes ends with, or None. Raises OSError."""
    if size < 2 * BLOCK:
        return None
    footer = unpack_footer(os.pread(fd, BLOCK, size - BLOCK))
    return footer if footer and footer.length == size - BLOCK else None


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
        "format": identity.format,
        "journal": str(identity.journal),
        "vm": identity.vm,
        "created": identity.created,
    }
    return json.dumps(fields, ensure_ascii=False).encode() + b"\n"


def read_identity(folder: Path) -> Identity:
    """Return who the journal in `folder` is. Raises NotAJournal, WrongFormat, DamagedJournal."""
    path = folder / IDENTITY
    try:
        fields = json.loads(read_file(path))
        found = fields["format"]
    except (FileNotFoundError, NotADirectoryError):
        raise NotAJournal(f"{folder} holds no journal") from None
    except NotAFile as error:
        raise DamagedJournal(f"{path} is damaged: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedJournal(f"{path} is damaged: {error}") from error
    if type(found) is not int or found not in KNOWN_FORMATS:
        known = " and ".join(map(str, KNOWN_FORMATS))
        raise WrongFormat(f"{folder} has journal format {found!r}; this version knows {known}")
    try:
        return Identity(uuid.UUID(fields["journal"]), str(fields["vm"]), str(fields["created"]), found)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedJournal(f"{path} is damaged: {error}") from error
