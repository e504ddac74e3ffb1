"""Making the index of a sealed segment or net segment: a cache beside it (docs/journal-index.md)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import xxhash

from journal import layout
from journal.frame import BLOCK
from journal.index.chunks import BadCache, ChunkWriter, write_at
from journal.index.filenets import unit_of
from journal.index.indexfile import (
    EPOCH,
    HEAD_BYTES,
    HEADER,
    IndexFile,
    IndexHeader,
    Section,
    index_path,
    last_times,
    pack_header,
)
from journal.placed import packed
from journal.scan import SegmentScan

NEW_FRAMES = 64


def write_index(path: Path) -> bool:
    """Write the index of a segment or net segment, unless a right one is there; return whether it was written.

    Of a segment in use, its frames so far are indexed, when there are many new ones. A damaged file gets no index.
    Raises OSError.
    """
    name = layout.stored_file(path)
    footer = layout.read_footer(path)
    if name is None or (footer is None and name.is_net) or (footer and _known(path, footer)):
        return False
    scan = SegmentScan(path, name.first_lsn, None, name.next_lsn, cached=footer is None)
    scan.extend()
    if footer is None:
        known = _known(path, None)
        if scan.sealed or scan.unsettled or scan.frame_count - (known.frames if known else 0) < NEW_FRAMES:
            return False
    elif not scan.whole:
        return False
    with new_cache(index_path(path)) as fd:
        _write_all(fd, scan, footer, path)
    return True


def _known(path: Path, footer: layout.Footer | None) -> IndexHeader | None:
    try:
        return IndexFile(index_path(path), footer).header
    except (OSError, BadCache):
        return None


@contextmanager
def new_cache(path: Path) -> Iterator[int]:
    """Open a file that gets its name when all of it was written: no reader sees a part. Raises OSError."""
    new = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        yield fd
        new.rename(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)


def _write_all(fd: int, scan: SegmentScan, footer: layout.Footer | None, path: Path) -> None:
    """Write the header and what opening needs first, then the columns, then the nets."""
    ticks, others = packed(scan.notes)
    unit = unit_of(scan)
    epochs = np.array(list(last_times(scan.frames.array()).items()), EPOCH)
    columns = (
        epochs.tobytes(),
        ticks.tobytes(),
        others,
        scan.frames.array().tobytes(),
        scan.rows.array().tobytes(),
    )
    front = HEADER.size + unit.directory.nbytes
    writer = ChunkWriter(fd, -(-(front + sum(map(len, columns))) // BLOCK) * BLOCK)
    writer.copy(unit)
    sections, offset = [], HEADER.size
    for data in (writer.directory.tobytes(), *columns):
        sections.append(Section(offset, len(data), xxhash.xxh3_64_intdigest(data)))
        write_at(fd, data, offset)
        offset += len(data)
    bound = (footer.digest, footer.length) if footer else (layout.NO_DIGEST, scan.end)
    said = (*bound, scan.first_lsn, scan.next_lsn, scan.frame_count, scan.record_count)
    with open(path, "rb", buffering=0) as file:
        head = file.read(HEAD_BYTES)
    last = (scan.epoch, int(scan.sealed), scan.last_offset, scan.last_head_sum, head)
    write_at(fd, pack_header(IndexHeader(*said, *last, tuple(sections))), 0)
