"""`lastwrite bookmark`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from plugins.cli.options import Config, Json, State, connect

if TYPE_CHECKING:
    from rich.console import Console

    from plugins.models import Marked

EXAMPLES = {
    "bookmark": ("lastwrite bookmark web01 before-upgrade", "lastwrite bookmark web01 was-good --at -10m")
}

Vm = Annotated[str, typer.Argument(metavar="VM", help="Name of the protected VM.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the point.")]
At = Annotated[str | None, typer.Option(metavar="POINT", help="A point of the past instead of this moment.")]


def bookmark(
    vm: Vm, name: Name, at: At = None, json: Json = False, config: Config = None, state: State = None
) -> None:
    """Give a name to a point: to this moment, or to one of the past.

    This moment is a cut through the order of all disks of the VM: crash-consistent. The guest does not stop.
    """
    from plugins.cli.output import show
    from plugins.client import address
    from plugins.models import Marked

    with connect(config, state) as client:
        body = {"name": name, "at": at}
        path = address("vms", vm, "bookmarks")
        show(client.ask(Marked, "POST", path, body=body), json, render_mark)


def render_mark(result: Marked, out: Console) -> None:
    """Say which point was made."""
    from plugins.cli.output import DIM, fields, say

    say(f"{result.vm}@{result.name} can be recovered to.", out)
    frozen = "-" if result.frozen is None else f"{result.frozen / 1e6:.0f} ms"
    pairs = [("Time", result.when or "-"), ("LSN", str(result.lsn)), ("Consistency", result.consistency),
             ("Frozen", frozen)]  # fmt: skip
    out.print(fields(pairs))
    for message in result.messages:
        say(message, out, DIM)
