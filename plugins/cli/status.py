"""`lastwrite status`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from plugins.cli.options import Config, Json, State, connect

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from plugins.models import Status, VmStatus

EXAMPLES = {"status": ("lastwrite status", "lastwrite status web01 --json")}

Vm = Annotated[str | None, typer.Argument(metavar="VM", help="Only this VM, with all that is known of it.")]


def status(vm: Vm = None, json: Json = False, config: Config = None, state: State = None) -> None:
    """Show how well VMs are protected right now.

    RPO is measured: the age, by the guest's own clock, of the newest write that could be recovered.
    """
    from plugins.cli.output import show
    from plugins.client import address
    from plugins.models import Status

    path = address("vms", vm, "status") if vm is not None else "/v1/status"
    with connect(config, state) as client:
        show(client.ask(Status, "GET", path), json, _one if vm else _many)


def _many(result: Status, out: Console) -> None:
    from plugins.cli.output import WARN, say, table

    if not result.vms:
        say("No VM is protected yet. Begin: lastwrite protect VM", out)
    else:
        headings = ("VM", "HYPERVISOR", "STATE", "RPO", "NEWEST POINT", "SYNCED", "RING", "ALARM")
        out.print(table(headings, [_row(vm) for vm in result.vms], right=("RPO", "SYNCED", "RING")))
    if not result.ingest:
        say("The ingest process does not answer: states are unknown. Its log is logs/ingest.log.", out, WARN)


def _row(vm: VmStatus) -> tuple[str | Text, ...]:
    return (
        vm.name,
        vm.hypervisor,
        _state(vm),
        _rpo(vm),
        vm.when or "-",
        _synced(vm),
        _ring(vm),
        vm.alarm or "",
    )


def _one(result: Status, out: Console) -> None:
    from lastwrite.text import size
    from plugins.cli.output import fields

    vm = result.vms[0]
    offset = "-" if vm.clock_offset_ns is None else f"{vm.clock_offset_ns / 1e6:.1f} ms"
    pairs: list[tuple[str, str | Text]] = [
        ("VM", f"{vm.name} on {vm.hypervisor}"),
        ("Id", vm.id),
        ("State", _state(vm)),
        ("RPO", _rpo(vm)),
        ("Newest point", vm.when or "-"),
        ("Synced", _synced(vm)),
        ("Epoch, next LSN", f"{_text(vm.epoch)}, {_text(vm.next_lsn)}"),
        ("Ring", _ring(vm)),
        ("Lost writes", _text(vm.lost)),
        ("Received", size(vm.received_bytes)),
        ("Clock offset", offset),
        ("Journal", vm.journal),
        ("Alarm", vm.alarm or "none"),
    ]
    out.print(fields(pairs))


def _state(vm: VmStatus) -> Text:
    from rich.text import Text

    from plugins.cli.output import BAD, GOOD, WARN

    style = {"Protected": GOOD, "Error": BAD, "Disconnected": BAD, "Unprotected": ""}.get(vm.state, WARN)
    return Text(vm.state, style=style)


def _rpo(vm: VmStatus) -> str:
    from lastwrite.text import duration

    return "-" if vm.rpo_ms is None else duration(vm.rpo_ms / 1000)


def _synced(vm: VmStatus) -> str:
    from lastwrite.text import size

    if not vm.sync_bytes or vm.synced_bytes is None:
        return "-"
    return f"{size(vm.synced_bytes)} of {size(vm.sync_bytes)} ({100 * vm.synced_bytes // vm.sync_bytes}%)"


def _ring(vm: VmStatus) -> str:
    return "-" if not vm.ring_bytes or vm.ring_used is None else f"{100 * vm.ring_used // vm.ring_bytes}%"


def _text(value: object) -> str:
    return "-" if value is None else str(value)
