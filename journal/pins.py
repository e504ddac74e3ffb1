"""Pins: points that retention must keep. Durable ones in the metadata log, live ones as locked files in `holds/`.

Also says whether a point still stands, which everybody asks who gives one a name (docs/journal-format.md, "Pins").
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from journal import layout, metalog
from journal.errors import NoSuchPin, NoSuchTimeline, NotRecoverable
from journal.metalog import Meta, Timeline
from journal.notes import checked_name
from journal.scan import Owner, SegmentScan
from journal.storage import FILE_MODE, make_folder
from lastwrite.errors import LastwriteError, UnavailableError, UsageError

_NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)


class HoldNotTaken(UnavailableError):
    """A point that is to be read cannot be held: retention could give it up meanwhile."""

    code = "hold-not-taken"
    hint = "Make space for the journal (also inodes: `df -i`), or allow more open files (`ulimit -n`); then try again."


class AmbiguousPin(UsageError):
    """Several pins begin with what was named."""

    code = "ambiguous-pin"
    hint = "Name so much of the id that only one pin begins with it."


@dataclass(frozen=True, slots=True)
class Pin:
    """A durable pin; `until` and `created` in ns of the appliance's wall clock, `until` None: until it is given up."""

    pin: str
    timeline: int
    lsn: int
    reason: str
    holder: str
    until: int | None
    created: int


class Required(NamedTuple):
    """A point that must be kept: the timeline whose files hold it, its LSN, and why."""

    timeline: int
    lsn: int
    reason: str


def pins(records: Sequence[Meta], now_ns: int) -> list[Pin]:
    """Return the pins that hold at `now_ns` (appliance's wall clock), the oldest first."""
    found: dict[str, Pin] = {}
    for meta in records:
        if meta["meta"] == "pin":
            found[meta["pin"]] = _pin(meta)
        elif meta["meta"] == "unpin":
            found.pop(meta["pin"], None)
    return [pin for pin in found.values() if pin.until is None or pin.until > now_ns]


def _pin(meta: Meta) -> Pin:
    where = (meta["pin"], meta["timeline"], meta["lsn"])
    return Pin(*where, meta["reason"], meta["holder"], meta.get("until"), meta.get("created") or 0)


def pin(
    folder: Path, timeline: int, lsn: int, *, reason: str, holder: str, until_ns: int | None = None
) -> Pin:
    """Keep a recovery point until `until_ns` (appliance's wall clock) or until unpin(). Durable.

    The caller has found out that it is one. Raises NotRecoverable when it has been thinned away meanwhile,
    NoSuchTimeline, BadContent for a text that cannot be shown, JournalFull, JournalWriteFailed.
    """
    made = Pin(str(uuid.uuid4()), timeline, lsn, checked_name(reason), checked_name(holder), until_ns,
               time.time_ns())  # fmt: skip
    meta = {"meta": "pin"} | {name: getattr(made, name) for name in Pin.__slots__}
    metalog.append(folder, meta, lambda records: require_standing(folder, records, timeline, lsn))
    return made


def named_pin(folder: Path, text: str) -> Pin:
    """Return the pin whose id is `text`, or the only lasting one whose id begins with it.

    Raises NoSuchPin, AmbiguousPin with the candidates.
    """
    records = metalog.read(folder / layout.META_LOG).records
    every, lasting = pins(records, 0), pins(records, time.time_ns())
    exact = [pin for pin in every if pin.pin == text]
    found = exact or [pin for pin in lasting if text and pin.pin.startswith(text.lower())]
    if not found:
        raise _no_such_pin(folder, text, lasting)
    if len(found) > 1:
        choice = ", ".join(f"{pin.pin} ({pin.reason})" for pin in found)
        raise AmbiguousPin(
            f"{len(found)} pins of {folder} begin with {text}",
            hint=f"Name so much that only one is meant: {choice}.",
            choices=[pin.pin for pin in found],
        )
    return found[0]


def _no_such_pin(folder: Path, text: str, lasting: Sequence[Pin]) -> NoSuchPin:
    known = ", ".join(f"{pin.pin} ({pin.reason})" for pin in lasting)
    return NoSuchPin(f"{folder} has no pin {text}; it has {known or 'none'}")


def unpin(folder: Path, pin_id: str) -> None:
    """Give a pin up. Durable. Raises NoSuchPin, JournalFull, JournalWriteFailed."""

    def check(records: list[Meta]) -> None:
        if pin_id not in {pin.pin for pin in pins(records, 0)}:
            raise _no_such_pin(folder, pin_id, pins(records, time.time_ns()))

    metalog.append(folder, {"meta": "unpin", "pin": pin_id, "created": time.time_ns()}, check)


@contextmanager
def hold(folder: Path, timeline: int, lsn: int) -> Iterator[None]:
    """Keep a point for as long as the context lasts; it ends with the process at the latest.

    Does nothing where the journal cannot be written: nothing is thinned there. Raises NotRecoverable when the
    point has been thinned away, NoSuchTimeline, HoldNotTaken.
    """
    fd = take_hold(folder, timeline, lsn)
    try:
        yield
    finally:
        drop_hold(fd)


class Hold:
    """A live hold that lasts as long as this object: for what is shared and freed by the garbage collector."""

    def __init__(self, folder: Path, timeline: int, lsn: int) -> None:
        """Raises NotRecoverable when the point has been thinned away, NoSuchTimeline, HoldNotTaken."""
        self._fd = take_hold(folder, timeline, lsn)

    def release(self) -> None:
        """Let go of the point."""
        fd, self._fd = self._fd, -1
        drop_hold(fd)

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            self.release()


def take_hold(folder: Path, timeline: int, lsn: int) -> int:
    """Return a descriptor whose lock holds the point, -1 where the journal may not be written.

    Raises NotRecoverable, NoSuchTimeline; HoldNotTaken when it fails for another reason, such as want of space.
    """
    path = folder / layout.HOLDS / f"{timeline}-{lsn}.{uuid.uuid4().hex}"
    try:
        with metalog.locked(folder) as records:
            require_standing(folder, records, timeline, lsn)
            make_folder(path.parent)
            return _locked_file(path)
    except (NotRecoverable, NoSuchTimeline):
        raise
    except (OSError, LastwriteError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if isinstance(cause, OSError) and cause.errno in _NOT_WRITABLE:
            return -1  # a read-only file system, or somebody else's journal
        why = cause.strerror or cause if isinstance(cause, OSError) else error
        raise HoldNotTaken(f"LSN {lsn} of {folder} cannot be held while it is read: {why}") from error


def _locked_file(path: Path) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
    except OSError:
        os.close(fd)
        path.unlink(missing_ok=True)
        raise
    return fd


def drop_hold(fd: int) -> None:
    """Let go of a hold."""
    if fd < 0:
        return
    with contextlib.suppress(OSError):
        Path(f"/proc/self/fd/{fd}").readlink().unlink(missing_ok=True)
    os.close(fd)


def holds(folder: Path, *, sweep: bool = False) -> list[Required]:
    """Return the points that are being held at this moment; `sweep` deletes what ended processes have left."""
    try:
        paths = sorted((folder / layout.HOLDS).iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    found = []
    for path in paths:
        timeline, _, lsn = path.name.partition(".")[0].partition("-")
        if timeline.isdecimal() and lsn.isdecimal() and _is_held(path, sweep):
            found.append(Required(int(timeline), int(lsn), "it is being read"))
    return found


def _is_held(path: Path, sweep: bool) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe there must not stop anybody
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        if sweep:
            with contextlib.suppress(OSError):  # a folder, say: nobody holds it, and it is in nobody's way
                path.unlink(missing_ok=True)
        return False
    finally:
        os.close(fd)


def required(folder: Path, records: Sequence[Meta], now_ns: int, *, sweep: bool = False) -> list[Required]:
    """Return every point that retention keeps whatever its policy says, by the timeline whose files hold it.

    Pins, bookmarks, points that timelines fork from, and points that are being held.
    """
    lines = {line.number: line for line in metalog.timelines(list(records))}
    wanted = [Required(p.timeline, p.lsn, f"pin: {p.reason}") for p in pins(records, now_ns)]
    for meta in records:
        if meta["meta"] == "bookmark":
            wanted.append(Required(int(meta["timeline"]), int(meta["lsn"]), f"bookmark {meta['name']}"))
    for line in lines.values():
        if line.parent is not None:
            wanted.append(Required(line.parent, line.fork_lsn, f"timeline {line.name} begins there"))
    wanted += holds(folder, sweep=sweep)
    return [r._replace(timeline=owner(lines, r.timeline, r.lsn)) for r in wanted if r.timeline in lines]


def owner(lines: dict[int, Timeline], timeline: int, lsn: int) -> int:
    """Return the timeline whose own files hold a point of `timeline`."""
    line = lines[timeline]
    while line.parent in lines and line.parent < line.number and lsn <= line.fork_lsn:
        line = lines[line.parent]
    return line.number


def require_standing(folder: Path, records: Sequence[Meta], timeline: int, lsn: int) -> None:
    """Raise NotRecoverable for a point that was thinned away, NoSuchTimeline for a timeline that was given up.

    To be called under the lock of the metadata log: what stands then stands until it is let go.
    """
    lines = {line.number: line for line in metalog.timelines(list(records))}
    if timeline not in lines:
        raise NoSuchTimeline(f"{folder} has no timeline {timeline}; it has {', '.join(map(str, lines))}")
    ends = _ends_around(folder, owner(lines, timeline, lsn), lsn)
    if ends is None or lsn in ends:
        return
    near = (int(ends[ends < lsn].max(initial=-1)), int(ends[ends > lsn].min(initial=1 << 62)))
    before, after = near[0] if near[0] >= 0 else None, near[1] if near[1] < 1 << 62 else None
    raise NotRecoverable(
        f"LSN {lsn} cannot be recovered to: only kept cuts are left of that time "
        f"(nearest before: {before}, nearest after: {after})".replace("None", "none"),
        lsn=lsn,
        before=before,
        after=after,
    )


def _ends_around(folder: Path, timeline: int, lsn: int) -> np.ndarray[tuple[int], np.dtype[np.int64]] | None:
    """Return the interval ends of the net segment that covers `lsn`, None when none does."""
    identity = layout.read_identity(folder)
    for file in layout.files(folder, timeline):
        if file.next_lsn is not None and file.first_lsn <= lsn < file.next_lsn:
            scan = SegmentScan(
                file.path, file.first_lsn, Owner(identity.journal.bytes, timeline), file.next_lsn
            )
            scan.extend()
            return scan.intervals - 1
    return None
