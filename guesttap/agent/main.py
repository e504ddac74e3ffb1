"""The agent's command line: run, status, probe, remove."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Sequence

from guesttap.agent import settings as configuration
from guesttap.agent import status
from guesttap.agent.ciphers import prefer_what_is_quick
from guesttap.agent.errors import AgentConfigError
from guesttap.agent.log import Log
from guesttap.agent.remove import remove
from guesttap.agent.unit import EXIT_DORMANT
from guesttap.bpf.pins import Pins
from guesttap.bpf.probe import probe
from lastwrite import __version__
from lastwrite.errors import LastwriteError

_EPILOG = (
    f"Exit status: 0 done; 1-7 an error, printed with its hint; {EXIT_DORMANT} the appliance wants nothing."
)


def run(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.work(options))
    except LastwriteError as error:
        if options.json:
            print(json.dumps({"error": error.to_dict()}))
        else:
            print(f"{error.message}\n{error.hint}", file=sys.stderr)
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lastwrite-agent", description="The Lastwrite data tap.", epilog=_EPILOG
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    words = (("run", _run, "stream writes to the appliance"), ("status", _status, "say how it goes"))
    more = (("probe", _probe, "say what this machine lacks"), ("remove", _remove, "take the agent out"))
    for name, work, text in words + more:
        command = commands.add_parser(name, help=text, description=text, epilog=_EPILOG)
        command.add_argument("--config", type=Path, default=configuration.CONFIG_PATH)
        command.add_argument("--json", action="store_true", help="print JSON")
        command.set_defaults(work=work)
    return parser


def _run(options: argparse.Namespace) -> int:
    settings = configuration.load(options.config)
    prefer_what_is_quick(settings.run_dir)
    from guesttap.agent.service import Agent  # with it comes `ssl`

    return Agent(settings, Log()).run()


def _status(options: argparse.Namespace) -> int:
    settings = configuration.load(options.config)
    found = status.read(settings.run_dir) or {"state": "Disconnected", "running": False}
    found["attached"] = Pins(settings.pin_dir).is_ready()
    if not found.get("running") and found.get("state") != "Unprotected":
        found["state"] = "Disconnected"
    _print(options, found, [f"{key}: {found[key]}" for key in sorted(found)])
    return 0


def _probe(options: argparse.Namespace) -> int:
    lacks = [{"code": lack.name, "what": lack.what, "remedy": lack.remedy} for lack in probe()]
    lines = ["{what}. {remedy}".format(**lack) for lack in lacks] or [
        "This machine can be protected with the bpf tap."
    ]
    _print(options, {"problems": lacks, "ok": not lacks}, lines)
    return 7 if lacks else 0


def _remove(options: argparse.Namespace) -> int:
    try:
        settings = configuration.load(options.config)
    except AgentConfigError:
        settings = None
    done = remove(settings, options.config)
    _print(options, {"done": done}, done or ["There was nothing to remove."])
    return 0


def _print(options: argparse.Namespace, result: Any, lines: list[str]) -> None:
    print(json.dumps(result) if options.json else "\n".join(lines))
