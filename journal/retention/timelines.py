"""Giving up a timeline that nobody needs any more: a test's fork, a failover that was taken back."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from pathlib import Path

from journal import layout, metalog, pins
from journal.errors import NoSuchTimeline
from journal.metalog import Meta
from journal.retention.errors import TimelineElsewhere, TimelineInUse
from journal.storage import sync_folder
from lastwrite.failpoints import reach


def prune_timeline(folder: Path, timeline: int) -> None:
    """Give up a timeline without children: its number is never used again, its files are deleted. Durable.

    Raises NoSuchTimeline; TimelineElsewhere for a symbolic link; TimelineInUse for the main one, for one that is
    written, and when another timeline begins on it, or it has a pin, a bookmark, or a reader.
    """
    if timeline == layout.MAIN:
        raise TimelineInUse(
            f"timeline {timeline} of {folder} is the main one",
            hint="It goes only with its whole journal: `lastwrite unprotect VM --delete-journal`."
            " To keep less of its history use `lastwrite retention set VM`. `lastwrite journal info DIR` lists the"
            " others, which can be given up.",
        )
    home = layout.timeline_folder(folder, timeline)
    _require_here(home)
    fd = _lock(home)
    try:
        meta = {"meta": "pruned", "timeline": timeline, "created": time.time_ns()}
        metalog.append(folder, meta, lambda records: _require_unneeded(folder, timeline, records))
        reach("timeline-pruned")
        delete_pruned(folder, timeline)
    finally:
        if fd >= 0:
            os.close(fd)


def delete_pruned(folder: Path, timeline: int) -> None:
    """Delete the files of a timeline that was given up. Raises TimelineElsewhere, OSError."""
    home = layout.timeline_folder(folder, timeline)
    _require_here(home)
    if home.exists():
        shutil.rmtree(home)
        sync_folder(home.parent)


def left_over(folder: Path) -> list[int]:
    """Return the timelines that were given up and whose files a crash has left."""
    records = metalog.read(folder / layout.META_LOG).records
    given_up = {int(meta["timeline"]) for meta in records if meta["meta"] == "pruned"} - {layout.MAIN}
    return sorted(number for number in given_up if layout.timeline_folder(folder, number).exists())


def _require_here(home: Path) -> None:
    if home.is_symlink():
        raise TimelineElsewhere(
            f"{home} is a symbolic link to {home.readlink()}: nothing behind it is deleted"
        )


def _lock(home: Path) -> int:
    """Return a descriptor that keeps writers off; -1 when there is nothing to write to. Raises TimelineInUse."""
    try:
        fd = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return -1
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise TimelineInUse(f"{home} is being written") from None
    return fd


def _require_unneeded(folder: Path, timeline: int, records: list[Meta]) -> None:
    lines = {line.number: line for line in metalog.timelines(records)}
    if timeline not in lines:
        raise NoSuchTimeline(f"{folder} has no timeline {timeline}; it has {', '.join(map(str, lines))}")
    children = [line.name for line in lines.values() if line.parent == timeline]
    if children:
        raise TimelineInUse(f"timeline {timeline} of {folder}: {', '.join(children)} begins on it")
    named = [
        f"bookmark {m['name']}" for m in records if m["meta"] == "bookmark" and m["timeline"] == timeline
    ]
    named += [f"pin: {p.reason}" for p in pins.pins(records, time.time_ns()) if p.timeline == timeline]
    named += ["a reader" for held in pins.holds(folder, sweep=True) if held.timeline == timeline]
    if named:
        raise TimelineInUse(f"timeline {timeline} of {folder} is needed: {', '.join(named)}")
