"""`lastwrite appshot`."""

from __future__ import annotations

from typing import Annotated

import typer

from plugins.cli.options import Config, Json, State, connect

EXAMPLES = {"appshot": ("lastwrite appshot web01", "lastwrite appshot web01 nightly --json")}

Vm = Annotated[str, typer.Argument(metavar="VM", help="Name of the protected VM.")]
Name = Annotated[
    str | None,
    typer.Argument(metavar="NAME", help="Name of the point; without one it gets one with the time."),
]


def appshot(
    vm: Vm, name: Name = None, json: Json = False, config: Config = None, state: State = None
) -> None:
    """Make an application-consistent point.

    The guest's file systems are frozen for a moment, after its own freeze hooks have run, and the cut is made
    while they are. The result says which consistency was reached and how long it stood frozen.
    """
    from plugins.cli.bookmark import render_mark
    from plugins.cli.output import show
    from plugins.client import address
    from plugins.models import Marked

    with connect(config, state) as client:
        path = address("vms", vm, "appshots")
        show(client.ask(Marked, "POST", path, body={"name": name}), json, render_mark)
