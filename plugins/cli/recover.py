"""`lastwrite recover`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plugins.cli.options import Config, Json, State, connect

if TYPE_CHECKING:
    from rich.console import Console

    from plugins.models import RecoverBootResult, RecoveredPoint, RecoverFileResult

EXAMPLES = {
    "recover": (
        "lastwrite recover web01@-10m --to web01.qcow2",
        "lastwrite recover web01@2026-11-22T10:00:05Z --boot target --name web01-before",
    )
}

Target = Annotated[
    str, typer.Argument(metavar="VM@POINT", help="The VM and the point; `lastwrite points VM`.")
]
To = Annotated[
    Path | None, typer.Option("--to", metavar="FILE", help="Write an image: FILE.qcow2 or FILE.raw.")
]
Disk = Annotated[str | None, typer.Option(metavar="DISK", help="With --to: only this disk.")]
Boot = Annotated[
    str | None, typer.Option("--boot", metavar="HYPERVISOR", help="Boot a copy on this hypervisor.")
]
Name = Annotated[str | None, typer.Option(metavar="NAME", help="With --boot: name of the copy.")]
Pull = Annotated[bool, typer.Option(help="With --boot: make the running copy independent of this server.")]


def recover(
    target: Target,
    to: To = None,
    disk: Disk = None,
    boot: Boot = None,
    name: Name = None,
    pull: Pull = True,
    json: Json = False,
    config: Config = None,
    state: State = None,
) -> None:
    """Recover a VM at a point: to an image file, or booted on a hypervisor.

    --to writes a qcow2 or raw image; a VM with more than one disk becomes FILE-DISK.qcow2 for each. A file
    that is there already is never overwritten. --boot makes a copy of the VM, with new identities, that runs
    on a view of the point at once; the VM itself and the journal are not touched, and the copy's tap is
    dormant.
    """
    from plugins.cli.output import show
    from plugins.cli.progress import follow
    from plugins.models import RecoverBootResult, RecoverFileResult

    path, body = _request(target, to, disk, boot, name, pull)
    with connect(config, state) as client:
        result = follow(client.stream(path, body), json)
    if to is not None:
        show(RecoverFileResult.model_validate(result), json, _files)
    else:
        show(RecoverBootResult.model_validate(result), json, _booted)


def _request(
    target: str, to: Path | None, disk: str | None, boot: str | None, name: str | None, pull: bool
) -> tuple[str, dict[str, Any]]:
    """Return what to ask the server. Raises CommandLineError when the options make no sense together."""
    from plugins.errors import CommandLineError

    if (to is None) == (boot is None):
        raise CommandLineError("say where to recover to: either --to FILE or --boot HYPERVISOR")
    if disk == "":
        raise CommandLineError("--disk names no disk: leave it out for all of them")
    if to is not None:
        if name:
            raise CommandLineError("--name goes with --boot, not with --to")
        return "/v1/recover/file", {"target": target, "path": str(to.absolute()), "disk": disk}
    if disk:
        raise CommandLineError("--disk goes with --to: a VM boots with all its disks")
    return "/v1/recover/boot", {"target": target, "hypervisor": boot, "name": name, "pull": pull}


def _point(point: RecoveredPoint) -> list[tuple[str, str]]:
    return [("Point", f"{point.when} (LSN {point.lsn})"), ("Consistency", point.consistency)]


def _files(result: RecoverFileResult, out: Console) -> None:
    from lastwrite.text import duration, size
    from plugins.cli.output import fields

    pairs = _point(result.point)
    for file in result.files:
        pairs.append((file.disk, f"{file.path} (disk {size(file.disk_bytes)}, file {size(file.file_bytes)})"))
    out.print(fields([*pairs, ("Took", duration(result.seconds))]))


def _booted(result: RecoverBootResult, out: Console) -> None:
    from lastwrite.text import duration
    from plugins.cli.output import GOOD, fields, say

    say(f"{result.name} runs on {result.hypervisor}.", out, GOOD)
    kept = "on its host" if result.local else "on a view: keep this server running, or recover with --pull"
    pairs = [
        *_point(result.point),
        ("Id", result.id),
        ("Started after", duration(result.started_seconds)),
        ("Answering after", duration(result.answering_seconds)),
        ("Disks", kept),
    ]
    out.print(fields(pairs))
