"""`lastwrite unprotect`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from plugins.cli.options import Config, Json, State, connect

if TYPE_CHECKING:
    from rich.console import Console

    from plugins.models import UnprotectResult

EXAMPLES = {
    "unprotect": ("lastwrite unprotect web01", "lastwrite unprotect web01 --delete-journal --confirm web01")
}

Vm = Annotated[str, typer.Argument(metavar="VM", help="Name of the protected VM.")]
Delete = Annotated[bool, typer.Option("--delete-journal", help="Delete its past too. There is no way back.")]
Confirm = Annotated[
    str | None, typer.Option(metavar="VM", help="With --delete-journal: the VM's name once more.")
]


def unprotect(
    vm: Vm,
    delete_journal: Delete = False,
    confirm: Confirm = None,
    json: Json = False,
    config: Config = None,
    state: State = None,
) -> None:
    """End the protection of a VM and keep its journal.

    The tap is detached and removed from the guest. The journal stays, and every point in it can still be
    recovered, unless --delete-journal is given and confirmed by typing the VM's name. Ending it twice changes
    nothing.
    """
    from plugins.cli.output import show
    from plugins.cli.progress import follow
    from plugins.models import UnprotectResult

    if delete_journal and confirm is None:
        confirm = _typed(vm)
    body = {"vm": vm, "delete_journal": delete_journal, "confirm": confirm}
    with connect(config, state) as client:
        result = follow(client.stream("/v1/unprotect", body), json)
    show(UnprotectResult.model_validate(result), json, _render)


def _typed(vm: str) -> str:
    """Return what is typed as confirmation; nothing when nobody is there to type."""
    if not sys.stdin.isatty():
        return ""
    print(
        f"This deletes every point of {vm} for ever. Type its name to go on: ",
        end="",
        file=sys.stderr,
        flush=True,
    )
    return sys.stdin.readline().strip()


def _render(result: UnprotectResult, out: Console) -> None:
    from plugins.cli.output import WARN, say

    say(f"{result.vm} {'was not protected any more' if result.already else 'is no longer protected'}.", out)
    kept = (
        f"Its journal was deleted: {result.journal}"
        if result.journal_deleted
        else f"Its journal is kept in {result.journal}"
    )
    say(kept, out)
    for note in result.notes:
        say(note, out, WARN)
