"""`lastwrite hypervisor add|list|check|remove`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from plugins.cli.options import Config, Json, State, connect

if TYPE_CHECKING:
    from rich.console import Console

    from plugins.models import HypervisorCheck, HypervisorInfo, HypervisorList, Removed

EXAMPLES = {
    "add": ("lastwrite hypervisor add source qemu+ssh://root@host1/system",),
    "list_all": ("lastwrite hypervisor list",),
    "check": ("lastwrite hypervisor check source",),
    "remove": ("lastwrite hypervisor remove source",),
}

Name = Annotated[str, typer.Argument(metavar="NAME", help="The name that it has, or gets, here.")]
Url = Annotated[str, typer.Argument(metavar="URL", help="Its address, such as a libvirt URI.")]


def add(name: Name, url: Url, json: Json = False, config: Config = None, state: State = None) -> None:
    """Add a hypervisor by its address.

    It is connected to first: one that cannot be reached is not added. Adding it again changes nothing.
    """
    from plugins.cli.output import show
    from plugins.models import HypervisorInfo

    with connect(config, state) as client:
        body = {"name": name, "url": url}
        show(client.ask(HypervisorInfo, "POST", "/v1/hypervisors", body=body), json, _added)


def list_all(json: Json = False, config: Config = None, state: State = None) -> None:
    """List the hypervisors."""
    from plugins.cli.output import show
    from plugins.models import HypervisorList

    with connect(config, state) as client:
        show(client.ask(HypervisorList, "GET", "/v1/hypervisors"), json, _listed)


def check(name: Name, json: Json = False, config: Config = None, state: State = None) -> None:
    """Connect to a hypervisor and say what it can do."""
    from plugins.cli.output import show
    from plugins.client import address
    from plugins.models import HypervisorCheck

    with connect(config, state) as client:
        show(client.ask(HypervisorCheck, "GET", address("hypervisors", name, "check")), json, _checked)


def remove(name: Name, json: Json = False, config: Config = None, state: State = None) -> None:
    """Forget a hypervisor.

    Nothing is changed on it. Refused while VMs on it are protected.
    """
    from plugins.cli.output import show
    from plugins.client import address
    from plugins.models import Removed

    with connect(config, state) as client:
        show(client.ask(Removed, "DELETE", address("hypervisors", name)), json, _removed)


def _added(result: HypervisorInfo, out: Console) -> None:
    from plugins.cli.output import say

    say(f"Hypervisor {result.name} ({result.kind}) is there: {result.url}", out)


def _listed(result: HypervisorList, out: Console) -> None:
    from plugins.cli.output import say, table

    if not result.hypervisors:
        say("No hypervisor was added yet. Add one: lastwrite hypervisor add NAME URL", out)
        return
    rows = [(row.name, row.kind, row.url, row.created) for row in result.hypervisors]
    out.print(table(("NAME", "KIND", "URL", "ADDED"), rows))


def _checked(result: HypervisorCheck, out: Console) -> None:
    from rich.text import Text

    from plugins.cli.output import BAD, DIM, GOOD, fields, say

    can = [name for name, value in result.capabilities.items() if value]
    cannot = [name for name, value in result.capabilities.items() if not value]
    rows: list[tuple[str, str | Text]] = [
        ("Hypervisor", f"{result.name} ({result.kind})"),
        ("URL", result.url),
        ("Version", result.version),
        ("VMs", str(result.vms)),
        ("Answered in", f"{result.seconds:.2f} s"),
        ("Can", Text(", ".join(can) or "-", style=GOOD)),
        ("Cannot", Text(", ".join(cannot) or "-", style=DIM)),
    ]
    out.print(fields(rows))
    for finding in result.findings:
        if finding.ok:
            say(f"ok: {finding.capability}: {finding.detail}", out)
        else:
            say(f"missing: {finding.capability}: {finding.detail}. {finding.remedy}", out, BAD)


def _removed(result: Removed, out: Console) -> None:
    from plugins.cli.output import say

    say(f"Hypervisor {result.name} is forgotten.", out)
