"""`lastwrite vm list`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from plugins.cli.options import Config, Json, State, connect

if TYPE_CHECKING:
    from rich.console import Console

    from plugins.models import VmInfo, VmList

EXAMPLES = {"list_vms": ("lastwrite vm list", "lastwrite vm list source --json")}

Hypervisor = Annotated[
    str | None, typer.Argument(metavar="HYPERVISOR", help="Only the VMs of this hypervisor.")
]
AGENT = {True: "yes", False: "no", None: "?"}


def list_vms(
    hypervisor: Hypervisor = None, json: Json = False, config: Config = None, state: State = None
) -> None:
    """List the VMs on one hypervisor, or on all.

    A hypervisor that cannot be reached is named below the list, and does not hide the others.
    """
    from plugins.cli.output import show
    from plugins.models import VmList

    params = {"hypervisor": hypervisor} if hypervisor else None
    with connect(config, state) as client:
        show(client.ask(VmList, "GET", "/v1/vms", params=params), json, _render)


def _render(result: VmList, out: Console) -> None:
    from plugins.cli.output import WARN, say, table

    headings = ("NAME", "HYPERVISOR", "POWER", "MEMORY", "CPUS", "DISKS", "AGENT", "PROTECTED")
    if result.vms:
        out.print(table(headings, [_row(vm) for vm in result.vms], right=("MEMORY", "CPUS")))
    elif not result.problems:
        say("There is no VM.", out)
    for problem in result.problems:
        say(f"{problem.where}: {problem.message}. {problem.hint}", out, WARN)


def _row(vm: VmInfo) -> tuple[str, ...]:
    from lastwrite.text import size

    disks = ", ".join(f"{disk.name} {size(disk.bytes)}" for disk in vm.disks)
    return (
        vm.name, vm.hypervisor, vm.power, size(vm.memory_bytes), str(vm.vcpus), disks, AGENT[vm.has_agent],
        "yes" if vm.protected else "no",
    )  # fmt: skip
