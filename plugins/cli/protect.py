"""`lastwrite protect`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from plugins.cli.options import Config, Json, State, connect

if TYPE_CHECKING:
    from rich.console import Console

    from plugins.models import ProtectResult

EXAMPLES = {"protect": ("lastwrite protect web01", "lastwrite protect web01 --hypervisor source --disk vda")}

Vm = Annotated[str, typer.Argument(metavar="VM", help="Name or id of the VM on its hypervisor.")]
Hypervisor = Annotated[str | None, typer.Option(metavar="NAME", help="Look for it on this hypervisor only.")]
Disks = Annotated[
    list[str] | None,
    typer.Option("--disk", metavar="DISK", help="Only this disk (its name in the guest)."),
]
Name = Annotated[
    str | None, typer.Option("--as", metavar="NAME", help="Its name here, when not that of the VM.")
]
Wait = Annotated[bool, typer.Option(help="Wait until it is Protected.")]
Timeout = Annotated[float, typer.Option(metavar="SECONDS", min=1, help="Wait at most this many seconds.")]


def protect(
    vm: Vm,
    hypervisor: Hypervisor = None,
    disk: Disks = None,
    name: Name = None,
    wait: Wait = True,
    timeout: Timeout = 3600.0,
    json: Json = False,
    config: Config = None,
    state: State = None,
) -> None:
    """Protect a running VM: put a tap into it and copy its disks, with no reboot.

    The guest needs its hypervisor's guest agent and Python 3.8 or later; what is missing is named, with its
    remedy, before anything is changed. Protecting a protected VM changes nothing. When it fails on the way it
    is undone.
    """
    from plugins.cli.output import show
    from plugins.cli.progress import follow
    from plugins.models import ProtectResult

    body = {
        "vm": vm,
        "hypervisor": hypervisor,
        "disks": disk or [],
        "name": name,
        "wait": wait,
        "timeout": timeout,
    }
    with connect(config, state) as client:
        result = follow(client.stream("/v1/protect", body), json)
    show(ProtectResult.model_validate(result), json, _render)


def _render(result: ProtectResult, out: Console) -> None:
    from lastwrite.text import duration
    from plugins.cli.output import BAD, GOOD, fields, say

    word = "was already protected" if result.already else "is protected"
    if result.state != "Protected":
        word = "has its tap"
    say(f"{result.vm} {word}: {result.state}", out, GOOD if result.state == "Protected" else "")
    rpo = duration(result.rpo_ms / 1000) if result.rpo_ms is not None else "-"
    pairs = [("Journal", result.journal), ("RPO now", rpo), ("Took", duration(result.seconds))]
    out.print(fields(pairs))
    if result.alarm:
        say(f"Alarm: {result.alarm}", out, BAD)
