"""`lastwrite journal info|check`: a journal read from its folder, with no server and no catalog."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plugins.cli.options import Json

if TYPE_CHECKING:
    from rich.console import Console

EXAMPLES = {
    "info": ("lastwrite journal info /var/lib/lastwrite/journals/web01",),
    "check": ("lastwrite journal check /var/lib/lastwrite/journals/web01",),
}

TIMES = ("wall", "created", "first_time", "last_time")

Folder = Annotated[
    Path, typer.Argument(metavar="DIR", help="The journal's folder: the one with the file JOURNAL.")
]


def info(folder: Folder, json: Json = False) -> None:
    """Show what a journal holds. Needs no server.

    It only reads: a journal that is being written, or lies on a read-only disk, can be looked at.
    """
    from journal.info import info as read_info

    _print(plain(read_info(folder)), json)


def check(folder: Folder, json: Json = False) -> None:
    """Read a whole journal and name everything that is damaged. Needs no server.

    Every frame's checksums are computed again. Exit status 5 when anything is damaged.
    """
    from journal.check import check as read_all
    from plugins.cli.progress import follower

    with follower(json) as shown:
        report = read_all(folder, lambda done, total: shown.progress("Reading", done, total, "bytes"))
    _print({**plain(report), "ok": report.ok}, json)
    if not report.ok:
        raise typer.Exit(5)


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


def _print(report: dict[str, Any], json: bool) -> None:
    from plugins.cli.output import console

    if json:
        import json as codec

        print(codec.dumps(report, indent=2))
    else:
        _section(report, console())


def _section(report: dict[str, Any], out: Console, title: str = "") -> None:
    """Print plain values below one another, then every list of things: as a table, or each on its own."""
    from plugins.cli.output import fields, say, table

    if title:
        say(f"\n{title}", out, "bold")
    simple = {key: value for key, value in report.items() if not isinstance(value, list | dict)}
    out.print(fields([(key, _cell(key, value)) for key, value in simple.items()]))
    for key, value in report.items():
        rows = value if isinstance(value, list) else []
        if rows and any(isinstance(item, list) for item in rows[0].values()):
            for number, row in enumerate(rows, 1):
                _section(row, out, f"{key} {number}")
        elif rows:
            say(f"\n{key}", out, "bold")
            headings = [name for name in rows[0] if not isinstance(rows[0][name], dict)]
            out.print(table(headings, [[_cell(name, row.get(name)) for name in headings] for row in rows]))


def _cell(key: str, value: Any) -> str:
    from lastwrite.text import size, utc

    if value is None:
        return "-"
    if isinstance(value, int) and not isinstance(value, bool):
        if key == "bytes" or key.endswith("_bytes"):
            return size(value)
        if value > 10**17 and key in TIMES:
            return utc(value)
    return str(value)
