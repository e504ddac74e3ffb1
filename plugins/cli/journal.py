"""`lastwrite journal ...`: a journal read from its folder, with no server and no catalog.

With --json a key that ends in `_ns` is nanoseconds; where that is an instant, the key without the ending is the same
as ISO 8601 in UTC.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lastwrite.errors import NotFoundError
from plugins.cli.options import Json

if TYPE_CHECKING:
    from rich.console import Console

_HOME = "/var/lib/lastwrite/journals"
_DIR = f"{_HOME}/web01"
EXAMPLES = {
    "info": (f"lastwrite journal info {_DIR}",),
    "check": (f"lastwrite journal check {_DIR}", f"lastwrite journal check {_DIR} --restart"),
    "rescue": (
        f"lastwrite journal rescue {_DIR} latest web01.raw",
        f"lastwrite journal rescue {_DIR} 2026-11-22T10:00:05Z web01 --best-effort",
        f"lastwrite journal rescue {_DIR} -1d web01.raw --disk vda --json",
    ),
    "diff": (
        f"lastwrite journal diff {_DIR} before-upgrade latest",
        f"lastwrite journal diff {_DIR} 4711 2/latest",
    ),
    "reindex": (f"lastwrite journal reindex {_DIR}",),
}
INTERRUPTED = 130
_INSTANTS = ("wall", "first_wall", "last_wall", "first_time", "last_time", "created")
_LENGTHS = ("mono", "offset", "frozen")


class Stopped(KeyboardInterrupt):
    """An interruption of which there is something to say: what is left, and what the same command does now."""

    def __init__(self, message: str, hint: str, **details: Any) -> None:
        super().__init__(message)
        self.message, self.hint, self.details = message, hint, details


class JournalCommand(typer.core.TyperCommand):
    """A command on a journal: `-1d` is a point and no option, and an interruption is told."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Write a time ago with a true minus sign, which no option begins with."""
        return super().parse_args(ctx, [_AGO.sub("\N{MINUS SIGN}\\1", word) for word in args])

    def invoke(self, ctx: Any) -> Any:
        """Run the command; when a VM's name was given for a folder, the error says where its journal lies."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            told = (
                stop
                if isinstance(stop, Stopped)
                else Stopped("Stopped", "The same command can be given again.")
            )
            _tell_stopped(told, ctx.params["json"])
            raise typer.Exit(INTERRUPTED) from stop
        except NotFoundError as error:
            name = str(ctx.params["folder"])  # a path of several parts is no VM's name
            if error.code == "not-a-journal" and "/" not in name and not Path(name).exists():
                error.hint = f"This command takes a folder, no VM's name: most often it is {_HOME}/{name}."
            raise


def _tell_stopped(stop: Stopped, json: bool) -> None:
    """Print what is to be said of an interruption on stderr; as JSON it has the form of every error."""
    from plugins.cli.output import console, say

    if json:
        import json as codec

        said = {"message": stop.message, "hint": stop.hint, "details": stop.details}
        error = {"code": "interrupted", **said, "exit_status": INTERRUPTED}
        print(codec.dumps({"error": error}), file=sys.stderr)
    else:
        say(f"{stop.message}. {stop.hint}", console(stderr=True))


_AGO = re.compile(r"^-(\d+[a-z]?)$", re.ASCII)
PARSERS = dict.fromkeys(EXAMPLES, JournalCommand)

Folder = Annotated[
    Path, typer.Argument(metavar="DIR", help="The journal's folder: the one with the file JOURNAL.")
]
Where = Annotated[
    str, typer.Argument(metavar="POINT", help="latest, a time, -10m, an LSN, cut:N, or a bookmark.")
]
_WAY = "a point as for rescue; N/POINT when it is on timeline N."
First = Annotated[str, typer.Argument(metavar="A", help=f"One point: {_WAY}")]
Second = Annotated[str, typer.Argument(metavar="B", help=f"The other: {_WAY}")]
Out = Annotated[
    Path, typer.Argument(metavar="OUT", help="Image file; a folder when there are several disks.")
]
Disk = Annotated[str | None, typer.Option("--disk", metavar="NAME", help="Only this disk.")]
Line = Annotated[int, typer.Option("--timeline", metavar="N", help="Timeline that the point lies on.")]
Effort = Annotated[
    bool, typer.Option("--best-effort", help="Write what can be had, and list what is damaged.")
]
Restart = Annotated[bool, typer.Option("--restart", help="Read everything again, whatever was read before.")]
Kept = Annotated[
    Path | None,
    typer.Option("--state", metavar="FILE", help="Where an interrupted check is remembered, outside DIR."),
]


def info(folder: Folder, json: Json = False) -> None:
    """Show what a journal holds. Needs no server.

    Its timelines, how exact every stretch of them is, its named points, disks and damage. It only reads: a
    journal that is being written, lies on a read-only disk, or has lost its files JOURNAL and meta.log
    can be looked at.
    """
    from journal.offline.info import info as read_info
    from plugins.cli.journalview import show_info

    _print(plain(read_info(folder)), json, show_info)


def check(folder: Folder, restart: Restart = False, state: Kept = None, json: Json = False) -> None:
    """Read a whole journal and name everything that is damaged. Needs no server.

    Every checksum is computed again, every link of the chain of segments and every cache is compared.
    Nothing is written into DIR. After Ctrl-C the same command goes on where it stopped; what has been read
    is remembered in ~/.local/state/lastwrite. Exit status 5 when anything is damaged.
    """
    from journal.offline.check import check as read_all
    from plugins.cli.journalview import show_check
    from plugins.cli.progress import follower

    with _Stoppable("read", "goes on from there") as seen:
        with follower(json) as shown:
            progress = seen.following(lambda done, total: shown.progress("Reading", done, total, "bytes"))
            report = read_all(folder, progress, state=state, keep_state=True, restart=restart)
        counts = {"ok": report.ok, "files": report.segments + report.net_segments}
        counts["damaged_metadata"] = report.damaged_metadata
        _print({**plain(report), **counts}, json, show_check)
    if not report.ok:
        raise typer.Exit(5)


class _Stoppable:
    """Knows how far a command is, and tells it when somebody interrupts. Raises Stopped."""

    def __init__(self, done: str, then: str) -> None:
        """`done`: read or written; `then`: what the same command does afterwards."""
        self._word, self._then = done, then
        self._done = self._total = 0

    def following(self, then: Callable[[int, int], None]) -> Callable[[int, int], None]:
        """Return a progress (bytes) that is remembered, and goes on to `then`."""

        def progress(done: int, total: int) -> None:
            self._done, self._total = done, total
            then(done, total)

        return progress

    def __enter__(self) -> _Stoppable:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, KeyboardInterrupt):
            raise self._told([str(path) for path in getattr(error, "left", [])]) from error

    def _told(self, left: list[str]) -> Stopped:
        from lastwrite.text import size

        facts = {"done_bytes": self._done, "total_bytes": self._total, "left": left}
        if left:
            hint = "Each of these is whole. The same command overwrites nothing: name another OUT, or delete them."
            return Stopped(f"Stopped, and of the images there are {', '.join(left)}", hint=hint, **facts)
        if not self._total:
            message = f"Stopped before anything was {self._word}: the journal was being opened"
            return Stopped(message, hint="The same command begins anew.", **facts)
        message = f"Stopped at {size(self._done)} of {size(self._total)}"
        if self._word == "written":
            message += ": no image got its name, and nothing half written is left behind"
        return Stopped(message, hint=f"The same command {self._then}.", **facts)


def rescue(
    folder: Folder,
    point: Where,
    out: Out,
    disk: Disk = None,
    timeline: Line = 1,
    best_effort: Effort = False,
    json: Json = False,
) -> None:
    """Restore disks from a journal, damaged or not, to raw images. Needs no server.

    JOURNAL, meta.log or segments may be missing, and DIR may be read-only. When the point needs what is damaged
    nothing is written, and the nearest good points are named. With --best-effort zeros stand where data is damaged;
    OUT.damage.json lists those places, and those that may hold older content. Exit status 5 then.
    """
    from journal.offline.rescue import rescue as restore
    from plugins.cli.journalview import show_rescue
    from plugins.cli.progress import follower

    with _Stoppable("written", "begins anew") as seen:
        with follower(json) as shown:
            progress = seen.following(lambda done, total: shown.progress("Writing", done, total, "bytes"))
            report = restore(
                folder, point, out, timeline=timeline, disk=disk, best_effort=best_effort, progress=progress
            )
        _print({**plain(report), "exact": report.exact}, json, show_rescue)
    if not report.exact:
        raise typer.Exit(5)


def diff(folder: Folder, first: First, second: Second, disk: Disk = None, json: Json = False) -> None:
    """Show how much differs between two points of a journal. Needs no server.

    Computed from the index alone: no data is read. Blocks that were written since the points' last common
    ancestor count, also when the same bytes were written. --json lists every extent.
    """
    from journal.offline.compare import compare
    from plugins.cli.journalview import show_diff

    _print(plain(compare(folder, first, second, disk)), json, show_diff)


def reindex(folder: Folder, json: Json = False) -> None:
    """Delete the caches of a journal and make them anew. Needs no server.

    The caches make opening and reading fast; without them everything works, only slower. The journal itself is
    not touched, and may be in use meanwhile.
    """
    from journal.offline.reindex import reindex as rebuild
    from plugins.cli.journalview import show_reindex
    from plugins.cli.progress import follower

    with follower(json) as shown:
        report = rebuild(folder, lambda done, total: shown.progress("Indexing", done, total, "items"))
    _print(plain(report), json, show_reindex)


def plain(value: Any) -> Any:
    """Return `value` with dataclasses, named tuples and paths as what JSON has."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {key: plain(item) for key, item in value._asdict().items()}
    if isinstance(value, list | tuple | set):
        return [plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def told(value: Any) -> Any:
    """Return a report as programs get it: keys of times end in `_ns`, instants stand beside them as ISO 8601 too."""
    if isinstance(value, list):
        return [told(item) for item in value]
    if not isinstance(value, dict):
        return value
    found: dict[str, Any] = {}
    for key, item in value.items():
        if key in _INSTANTS and not isinstance(item, str):
            found[key], found[f"{key}_ns"] = _iso(item), item
        elif key in _LENGTHS and "wall" in value:  # elsewhere an offset is a place in a file
            found[f"{key}_ns"] = item
        else:
            found[key] = item if key == "coordinates" else told(item)  # those are the source's own words
    return found


def _iso(ns: int | None) -> str | None:
    from lastwrite.instant import format_time

    return format_time(ns) if ns else None  # 0: not known


def _print(report: dict[str, Any], json: bool, render: Callable[[dict[str, Any], Console], None]) -> None:
    from plugins.cli.output import console

    if json:
        import json as codec

        print(codec.dumps(told(report), indent=2))
    else:
        render(report, console())
