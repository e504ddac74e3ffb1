"""`lastwrite points`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from plugins.cli.options import Config, Json, State, connect

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from plugins.models import PointList, RangeInfo

EXAMPLES = {"points": ("lastwrite points web01", "lastwrite points web01 --all")}

Vm = Annotated[str, typer.Argument(metavar="VM", help="Name of the protected VM.")]
All = Annotated[bool, typer.Option("--all", help="Every cut, those with no name too.")]


def points(
    vm: Vm, every: All = False, json: Json = False, config: Config = None, state: State = None
) -> None:
    """Show which points of the past a VM can be recovered to.

    First the timeline: every instant in an exact range can be recovered to, none in a gap. Then the points
    with a name. `lastwrite recover VM@POINT` takes a time, -10m, cut:N, lsn:N, a name, or latest.
    """
    from plugins.cli.output import show
    from plugins.client import address
    from plugins.models import PointList

    with connect(config, state) as client:
        path = address("vms", vm, "points")
        show(client.ask(PointList, "GET", path, params={"all": every}), json, _render)


def _render(result: PointList, out: Console) -> None:
    from plugins.cli.output import DIM, WARN, say, table

    if result.latest is None:
        say(f"{result.vm} has no recovery point yet.", out, WARN)
    else:
        say(f"{result.vm} can be recovered up to {result.latest} (LSN {result.latest_lsn}).", out)
    if result.ranges:
        out.print()
        out.print(table(("RANGE", "FROM", "TO", "REASON"), [_range(row) for row in result.ranges]))
    if result.points:
        out.print()
        headings = ("POINT", "TIME", "LSN", "CONSISTENCY", "KIND", "FROZEN")
        rows = [
            (point.label or f"cut:{point.number}", point.when, str(point.lsn), point.consistency, point.kind,
             "-" if point.frozen is None else f"{point.frozen / 1e6:.0f} ms")
            for point in result.points
        ]  # fmt: skip
        out.print(table(headings, rows, right=("LSN", "FROZEN")))
    hidden = result.cuts - len(result.points)
    if hidden:
        say(f"{hidden} more cuts have no name: --all shows them.", out, DIM)


def _range(row: RangeInfo) -> tuple[str | Text, ...]:
    from rich.text import Text

    from plugins.cli.output import BAD, GOOD, WARN

    style = {"exact": GOOD, "gap": BAD}.get(row.quality, WARN)
    return (Text(row.quality, style=style), row.begin or "-", row.end or "now", row.reason)
