"""Makes docs/commands.md from the help texts: `python -m plugins.cli.commanddoc > docs/commands.md`."""

from __future__ import annotations

import os
import sys

from plugins.cli.commands import COMMANDS, Command
from plugins.cli.help import overview
from plugins.cli.leaf import help_of

HEAD = """# Commands

Every command prints a table or sentences for people on stdout, or with `--json` one JSON object for programs.
Progress and errors go to stderr, so that stdout holds the result and nothing else. An error with `--json` is
one line of JSON on stderr; [errors.md](errors.md) lists all of them. Verbs are idempotent: what is done
already is not done twice, and is no error.

This file is made by `python -m plugins.cli.commanddoc`; a test compares them.
"""


def text() -> str:
    """Return the whole document."""
    os.environ["COLUMNS"] = "100"
    parts = [HEAD, _section("lastwrite", overview())]
    return "".join(parts + [_command(command) for command in COMMANDS])


def _command(command: Command) -> str:
    return _section(f"lastwrite {command.name}", help_of(command))


def _section(title: str, body: str) -> str:
    clean = "\n".join(line.rstrip() for line in body.strip().splitlines())
    return f"\n## {title}\n\n```\n{clean}\n```\n"


if __name__ == "__main__":
    sys.stdout.write(text())
