"""`lastwrite journal ...`: a journal read from its folder, with no server and no catalog."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plugins.cli.options import Json

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

_DIR = "/var/lib/lastwrite/journals/web01"
EXAMPLES = {
    "info": (f"lastwrite journal info {_DIR}",),
    "check": (f"lastwrite journal check {_DIR}", f"lastwrite journal check {_DIR} --restart"),
    "rescue": (
        f"lastwrite journal rescue {_DIR} latest web01.raw",
        f"lastwrite journal rescue {_DIR} 2026-11-22T10:00:05Z web01 --best-effort",
    ),
    "diff": (
        f"lastwrite journal diff {_DIR} before-upgrade latest",
        f"lastwrite journal diff {_DIR} 4711 2/latest",
    ),
    "reindex": (f"lastwrite journal reindex {_DIR}",),
}
INTERRUPTED = 130

Folder = Annotated[
    Path, typer.Argument(metavar="DIR", help="The journal's folder: the one with the file JOURNAL.")
]
Where = Annotated[str, typer.Argument(metavar="POINT", help="latest, an LSN, cut:N, a time, or a bookmark.")]
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
    from plugins.cli.output import console, say
    from plugins.cli.progress import follower

    seen = {"done": 0, "total": 0}
    try:
        with follower(json) as shown:

            def progress(done: int, total: int) -> None:
                seen.update(done=done, total=total)
                shown.progress("Reading", done, total, "bytes")

            report = read_all(folder, progress, state=state, keep_state=True, restart=restart)
    except KeyboardInterrupt:
        say(_stopped(seen["done"], seen["total"]), console(stderr=True))
        raise typer.Exit(INTERRUPTED) from None
    _print({**plain(report), "ok": report.ok}, json, show_check)
    if not report.ok:
        raise typer.Exit(5)


def _stopped(done: int, total: int) -> str:
    from lastwrite.text import size

    if not total:
        return "Stopped before anything was read: the journal was being opened. The same command begins anew."
    return f"Stopped at {size(done)} of {size(total)}. The same command goes on from there."


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

    with follower(json) as shown:
        report = restore(
            folder,
            point,
            out,
            timeline=timeline,
            disk=disk,
            best_effort=best_effort,
            progress=lambda done, total: shown.progress("Writing", done, total, "bytes"),
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


def _print(report: dict[str, Any], json: bool, render: Callable[[dict[str, Any], Console], None]) -> None:
    from plugins.cli.output import console

    if json:
        import json as codec

        print(codec.dumps(report, indent=2))
    else:
        render(report, console())
