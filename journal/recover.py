"""Opening after a crash: a torn tail is cut off, damage inside is named (journal-format.md, "Durability")."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from journal import layout, metalog
from journal.data import SegmentData
from journal.scan import Owner, SegmentScan
from journal.storage import NEW_SUFFIX, sync_folder


class Recovery(NamedTuple):
    """What opening found: bytes cut off the last segment, LSN ranges whose data is bad with the reasons."""

    path: Path | None
    cut_bytes: int
    damaged: list[tuple[int, int, str]]


def recover(folder: Path, timeline: int) -> Recovery:
    """Make the last segment of a timeline and the metadata log fit to go on with. The journal is locked."""
    if (folder / layout.META_LOG).exists():
        metalog.repair(folder)
    home = layout.timeline_folder(folder, timeline)
    for left in home.glob(f"*{NEW_SUFFIX}"):
        left.unlink()
    files = layout.files(folder, timeline)
    if not files or files[-1].is_net:  # a net segment got its name when it was whole
        return Recovery(None, 0, [])
    first_lsn, _, path, _ = files[-1]
    scan = SegmentScan(
        path, first_lsn, Owner(layout.read_identity(folder).journal.bytes, timeline), cached=False
    )
    scan.extend()
    if scan.sealed or not scan.inode:  # what is no file is damage: it is left as it is
        return Recovery(path, 0, [])
    if scan.header is None and not scan.frame_count:
        size = path.stat().st_size
        path.unlink()  # nothing in it was ever acknowledged; the next append makes it again
        sync_folder(home)
        return Recovery(path, size, [])
    return _recover_tail(scan)


def _recover_tail(scan: SegmentScan) -> Recovery:
    data = SegmentData(scan)
    frames = scan.frames.array()
    bad = {i: reason for i in range(scan.frame_count) if (reason := data.damaged(i)) is not None}
    end, index = scan.end, scan.frame_count - 1
    if scan.suspect:  # frames follow the bad bytes: nothing is cut off, the writer goes on in a new segment
        end, index = scan.limit, -1
    while index in bad:
        end = int(frames[index]["offset"])
        del bad[index]
        index -= 1
    cut = scan.path.stat().st_size - end
    if cut:
        with open(scan.path, "r+b") as file:
            file.truncate(end)
            os.fsync(file.fileno())
    ranges = [(int(frames[i]["first_lsn"]), int(frames[i]["records"]), bad[i]) for i in sorted(bad)]
    return Recovery(scan.path, cut, [(first, first + records, reason) for first, records, reason in ranges])
