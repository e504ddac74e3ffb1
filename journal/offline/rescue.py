"""Restoring disks from a journal with no server and no catalog, damaged or not.

Strict, it writes exactly the point that was asked for or nothing. With best effort it writes what can be had, and says
of every byte that it cannot vouch for where it is and why. An image gets its name when it is whole and durable.
"""

from __future__ import annotations

import errno
import json
import os
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

from journal import layout
from journal.errors import NoSuchDisk, NotRecoverable
from journal.frame import FrameError
from journal.map.blockmap import BlockMap
from journal.notes import JournalDisk
from journal.offline.beyond import DamagedAfter, damaged_after
from journal.offline.choose import choose
from journal.offline.doubt import Doubt, doubts, effort, newest_effort
from journal.offline.instants import tell, timed
from journal.offline.nearest import nearest
from journal.offline.places import require_outside
from journal.offline.rescued import RescuedDisk, put, take_doubts, write_image
from journal.offline.salvage import Salvaged, open_salvaged
from journal.reader import JournalReader
from lastwrite.errors import RefusedError, UnavailableError
from lastwrite.wholefile import whole_file

LIST_SUFFIX = ".damage.json"
Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all): of the disks' lengths."""


class RescueExists(RefusedError):
    """A file that the rescue would write is there already."""

    code = "rescue-exists"
    hint = "Name another place: nothing is overwritten."


class RescueNotWritten(UnavailableError):
    """The image could not be written; no part of it is left behind."""

    code = "rescue-not-written"
    hint = "Make room, or write to another file system, and try again: nothing is left behind."


class RescueStopped(KeyboardInterrupt):
    """The rescue was interrupted. `left`: the files that are there under their names, each of them whole."""

    def __init__(self, left: list[Path]) -> None:
        super().__init__()
        self.left = left


@dataclass
class RescueReport:
    """What a rescue wrote. `lost` and `assumed`: of the journal as a whole; `wall`: of the point, ns.

    `damaged_after`: what of the timeline is damaged behind the point, and so not in the images.
    """

    journal: str
    name: str
    timeline: int
    lsn: int
    wall: int | None
    lost: list[str]
    assumed: list[str]
    damaged_after: DamagedAfter | None = None
    disks: list[RescuedDisk] = field(default_factory=list)

    @property
    def exact(self) -> bool:
        """Whether every byte of every image is that of the point."""
        return not any(disk.damaged for disk in self.disks)


class _Plan(NamedTuple):
    """A disk with its map and what is doubtful before a byte of it is read."""

    disk: JournalDisk
    blocks: BlockMap
    path: Path
    doubts: list[Doubt]


def rescue(
    folder: Path | str,
    point: str,
    out: Path,
    *,
    timeline: int = layout.MAIN,
    disk: str | None = None,
    best_effort: bool = False,
    progress: Progress | None = None,
) -> RescueReport:
    """Write the disks of a journal at `point` as sparse raw images: to the file `out`, several into the folder `out`.

    With `best_effort`, `latest` means the newest record that is there. Raises NotRecoverable with the nearest good
    points when the point needs what is damaged (`best_effort`: only where it is no damage that stands in the way),
    InsideJournal, RescueExists, RescueNotWritten, NoSuchDisk, what choose() and open_salvaged() raise, and
    RescueStopped when it was interrupted while it wrote.
    """
    opened = open_salvaged(folder)
    require_outside(out, opened.reader.folder)
    reader, new = opened.reader, not os.path.lexists(out)
    try:
        report = _chosen(opened, point, timeline, best_effort)
        plans = _effort_plans(reader, report, out, disk) if best_effort else _plans(reader, report, out, disk)
        try:
            _write_all(plans, report, best_effort, progress or (lambda done, total: None))
        except FrameError as error:
            raise _refusal(reader, report.lsn, timeline, error.message) from error
        except KeyboardInterrupt as stop:
            raise RescueStopped(_there(plans)) from stop
    except NotRecoverable as error:
        raise timed(reader.lineage(timeline), error) from error
    finally:
        if new:
            _remove_empty(out)
    return report


def _chosen(opened: Salvaged, point: str, timeline: int, best_effort: bool) -> RescueReport:
    """Return a report with the point that is meant and nothing written yet. Raises what choose() does."""
    reader = opened.reader
    newest = best_effort and point == "latest"
    lsn = newest_effort(reader.lineage(timeline)) if newest else choose(reader, point, timeline)
    about = (reader.journal_id, reader.name, timeline, lsn, _wall(reader, lsn, timeline))
    return RescueReport(*about, opened.told, opened.assumed, damaged_after(reader, lsn, timeline))


def _there(plans: list[_Plan]) -> list[Path]:
    files = [file for plan in plans for file in (plan.path, _list_path(plan.path))]
    return [file for file in files if file.exists()]


def _remove_empty(folder: Path) -> None:
    """Remove the folder that was made for images which did not come about."""
    with suppress(OSError):  # it is no folder, or holds something
        folder.rmdir()


def _wall(reader: JournalReader, lsn: int, timeline: int) -> int | None:
    try:
        return reader.record_time(lsn, timeline)
    except NotRecoverable:
        return None


def _plans(reader: JournalReader, report: RescueReport, out: Path, disk: str | None) -> list[_Plan]:
    """Return the exact maps of the disks at the point. Raises NotRecoverable."""
    history = reader.lineage(report.timeline).history
    epoch = history.require(report.lsn)
    try:
        return [
            _Plan(entry, reader.resolve(report.lsn, entry.disk, report.timeline), path, [])
            for entry, path in _places(epoch.disks, disk, out)
        ]
    except NotRecoverable as error:  # data that is known to be bad
        reason = error.message.partition("; nearest before")[0]
        raise _refusal(reader, report.lsn, report.timeline, reason) from error


def _effort_plans(reader: JournalReader, report: RescueReport, out: Path, disk: str | None) -> list[_Plan]:
    found = effort(reader, report.lsn, report.timeline)
    report.assumed += found.assumed
    plans = []
    for entry, path in _places(found.disks, disk, out):
        blocks = found.blocks(entry)
        plans.append(_Plan(entry, blocks, path, doubts(found, blocks)))
    return plans


def _refusal(reader: JournalReader, lsn: int, timeline: int, reason: str) -> NotRecoverable:
    before, after = nearest(reader, lsn, timeline)
    lineage = reader.lineage(timeline)
    near = f"nearest good points: {tell(lineage, before)} before, {tell(lineage, after)} after"
    hint = "Choose one of the points that are named, or take what can be had with --best-effort."
    return NotRecoverable(
        f"LSN {lsn} needs what is damaged: {reason}; {near}", hint=hint, lsn=lsn, before=before, after=after
    )


def _places(disks: tuple[JournalDisk, ...], wanted: str | None, out: Path) -> list[tuple[JournalDisk, Path]]:
    """Return which disks are written where. Raises NoSuchDisk, RescueNotWritten, RescueExists."""
    chosen = [entry for entry in disks if wanted in (None, entry.name, str(entry.disk))]
    if not chosen:
        known = ", ".join(entry.name for entry in disks)
        raise NoSuchDisk(f"the point has no disk {wanted!r}; it has {known}")
    if len(chosen) == 1 and not out.is_dir():
        places = [(chosen[0], out)]
    else:
        try:
            out.mkdir(exist_ok=True)
        except OSError as error:
            reason = f"{out}: {error.strerror}; several disks need a folder"
            raise RescueNotWritten(reason, hint=_remedy(error)) from error
        places = [(entry, out / f"{name}.raw") for entry, name in zip(chosen, _names(chosen), strict=True)]
    for _, path in places:
        for file in (path, _list_path(path)):
            if file.exists() or file.is_symlink():
                raise RescueExists(f"{file} exists already")
    return places


def _names(disks: list[JournalDisk]) -> list[str]:
    """Return a name for the image of each disk: the end of its own, with its number where ends are alike."""
    names = [Path(disk.name).name for disk in disks]
    while len(set(names)) < len(names):
        counted = Counter(names)
        names = [
            f"{name}.{disk.disk}" if counted[name] > 1 else name
            for name, disk in zip(names, disks, strict=True)
        ]
    return names


def _remedy(error: OSError) -> str | None:
    """Return what to do about an error of the file system, None when it is what is most often done."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return "Make the folder that OUT is to lie in, or name one that is there: nothing is left behind."
    if error.errno == errno.EFBIG:
        return (
            "Files there cannot be as large as the disk (a limit of the file system, or `ulimit -f`): "
            "write to another file system. Nothing is left behind."
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "Name a place that this user may write to: nothing is left behind."
    return None


def _list_path(path: Path) -> Path:
    return path.with_name(path.name + LIST_SUFFIX)


def _write_all(plans: list[_Plan], report: RescueReport, best_effort: bool, progress: Progress) -> None:
    """Write every image; they get their names when the last one is complete."""
    total, done = sum(plan.blocks.disk_bytes for plan in plans), 0
    path = plans[0].path
    try:
        with ExitStack() as files:
            for plan in plans:
                path = plan.path
                file = files.enter_context(whole_file(path))
                written = RescuedDisk(plan.disk.name, path, plan.blocks.disk_bytes)
                report.disks.append(written)
                for at in write_image(plan.blocks, file, written, best_effort):
                    progress(done + at, total)
                done += plan.blocks.disk_bytes
                take_doubts(written, plan.doubts)
            for written in report.disks:
                if written.damaged:
                    path = written.damage_list = _list_path(written.path)
                    _write_list(files, report, written)
            progress(done, total)
    except FileExistsError as error:
        raise RescueExists(f"{path} exists already") from error
    except OSError as error:
        raise RescueNotWritten(f"{path}: {error.strerror or error}", hint=_remedy(error)) from error


def _write_list(files: ExitStack, report: RescueReport, written: RescuedDisk) -> None:
    text = json.dumps(damage_list(report, written), indent=1) + "\n"
    put(files.enter_context(whole_file(_list_path(written.path))), [memoryview(text.encode())], 0)


def damage_list(report: RescueReport, written: RescuedDisk) -> dict[str, object]:
    """Return what stands in the list beside an image."""
    return {
        "image": written.path.name,
        "disk": written.disk,
        "journal": report.journal,
        "timeline": report.timeline,
        "lsn": report.lsn,
        "lost": report.lost,
        "assumed": report.assumed,
        "damaged": [asdict(entry) for entry in written.damaged],
    }
