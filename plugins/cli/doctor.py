"""`lastwrite doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from plugins.cli.options import Config, Json, State

if TYPE_CHECKING:
    from rich.console import Console

    from plugins.models import DoctorReport

EXAMPLES = {"doctor": ("lastwrite doctor", "lastwrite doctor --json")}


def doctor(json: Json = False, config: Config = None, state: State = None) -> None:
    """Check this machine and name what is missing.

    Python and packages, tools, the configuration, the state directory and the server. Each finding that is
    not good names its remedy. Exit status 4 when there is one.
    """
    from plugins.checks import run
    from plugins.cli.output import show

    report = run(config, state)
    show(report, json, _render)
    if not report.ok:
        raise typer.Exit(4)


def _render(report: DoctorReport, out: Console) -> None:
    from rich.text import Text

    from plugins.cli.output import BAD, GOOD, say, table

    rows = []
    for check in report.checks:
        mark = Text("ok", style=GOOD) if check.ok else Text("missing", style=BAD)
        rows.append((mark, check.name, check.found, "" if check.ok else check.remedy))
    out.print(table(("", "CHECK", "FOUND", "REMEDY"), rows))
    bad = sum(not check.ok for check in report.checks)
    say(
        f"{bad} of {len(report.checks)} checks found something missing." if bad else "Everything is there.",
        out,
    )
