"""`python -m lab`: the lab from a shell.

    python -m lab up [--json]      both hosts (source, target) and the guest web01 on source
    python -m lab status [--json]  what is there
    python -m lab shell            a shell that knows the hosts' URIs
    python -m lab down [--purge]   end guests and hosts; --purge deletes their disks and state too
    python -m lab image            build the guest's image if it is missing

Exit status: 0 done, 1 a defect, 2 usage, 3 not found, 4 unavailable or timed out, 7 not on this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from lab import accel, guests, image
from lab.hosts import Host
from lastwrite.errors import LastwriteError

HOSTS = ("source", "target")
GUEST = "web01"


@dataclass(frozen=True)
class HostStatus:
    """One host as `status` tells it; `guests` maps a name to "running" or "off"."""

    name: str
    up: bool
    uri: str
    guests: dict[str, str]


def status() -> list[HostStatus]:
    """Return what the lab's hosts are doing."""
    return [_host_status(Host(name)) for name in HOSTS]


def _host_status(host: Host) -> HostStatus:
    if not host.is_up:
        return HostStatus(host.name, False, host.uri, {})
    with host.connect() as connection:
        found = {d.name(): "running" if d.isActive() else "off" for d in connection.listAllDomains()}
    return HostStatus(host.name, True, host.uri, dict(sorted(found.items())))


def _show(found: list[HostStatus], as_json: bool) -> None:
    if as_json:
        print(json.dumps([asdict(host) for host in found], indent=2))
        return
    table = Table("host", "state", "guests", Column("URI", no_wrap=True))
    for host in found:
        guests_text = ", ".join(f"{name} ({state})" for name, state in host.guests.items()) or "-"
        table.add_row(
            host.name, "up" if host.up else "down", guests_text, host.uri, style=None if host.up else "dim"
        )
    Console(soft_wrap=True).print(table)


def _up(arguments: argparse.Namespace) -> None:
    image.ensure()
    hosts = [Host(name) for name in HOSTS]
    for host in hosts:
        host.up()
    guests.boot(hosts[0], GUEST).close()
    _show(status(), arguments.json)
    if not arguments.json:
        _tell_next(hosts)


def _tell_next(hosts: list[Host]) -> None:
    print("\nProtect the guest (its way to this machine is 10.0.2.2):")
    print(f"  . {Path(sys.prefix) / 'bin' / 'activate'}")
    print(
        "  LASTWRITE_TAP__ADVERTISE=10.0.2.2:7810 lastwrite serve &    # state in /var/lib/lastwrite, or --state DIR"
    )
    for host in hosts:
        print(f"  lastwrite hypervisor add {host.name} '{host.uri}'")
    print(f"  lastwrite protect {GUEST}")
    print("\nLook around:")
    print(f"  virsh -c '{hosts[0].uri}' list --all")
    print(f"  tail -f {guests.Guest(hosts[0], GUEST).serial_log}    the guest's console")
    print(
        "  python -m lab shell    a shell with `lastwrite` on its PATH and the hosts' URIs in its environment"
    )
    print("  python -m lab down     end it all")


def _down(arguments: argparse.Namespace) -> None:
    for name in HOSTS:
        Host(name).down(purge=arguments.purge)


def _status(arguments: argparse.Namespace) -> None:
    _show(status(), arguments.json)


def _shell(_arguments: argparse.Namespace) -> None:
    environment = dict(os.environ)
    for name in HOSTS:
        environment[f"LASTWRITE_LAB_{name.upper()}"] = Host(name).uri
    environment["PATH"] = f"{Path(sys.prefix) / 'bin'}:{environment.get('PATH', '')}"
    shell = environment.get("SHELL") or "/bin/sh"
    print(
        "LASTWRITE_LAB_SOURCE and LASTWRITE_LAB_TARGET hold the hosts' URIs; leave with `exit`.",
        file=sys.stderr,
    )
    os.execvpe(shell, [shell], environment)


def _image(_arguments: argparse.Namespace) -> None:
    built = image.ensure()
    chosen = accel.choose(built)
    print(f"{built.base}\nguests run on {chosen.kind} ({chosen.cpu}): {chosen.why}")


def _parser() -> argparse.ArgumentParser:
    lines = (__doc__ or "").splitlines()
    parser = argparse.ArgumentParser(prog="python -m lab", description=lines[0], epilog=lines[-1])
    commands = parser.add_subparsers(required=True, metavar="up|down|status|shell|image")
    up = commands.add_parser("up", help="bring up both hosts and the guest web01")
    up.set_defaults(act=_up)
    down = commands.add_parser("down", help="end guests and hosts")
    down.add_argument("--purge", action="store_true", help="delete their disks and state too")
    down.set_defaults(act=_down)
    state = commands.add_parser("status", help="say what is there")
    state.set_defaults(act=_status)
    for parser_with_json in (up, state):
        parser_with_json.add_argument("--json", action="store_true", help="print JSON for programs")
    commands.add_parser("shell", help="a shell that knows the hosts' URIs").set_defaults(act=_shell)
    commands.add_parser("image", help="build the guest's image if it is missing").set_defaults(act=_image)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Do what the command line asks and return the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.act(arguments)
    except LastwriteError as error:
        print(f"{error.code}: {error.message}\n  {error.hint}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
