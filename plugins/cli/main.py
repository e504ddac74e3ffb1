"""The `lastwrite` command: finds the command, runs it, and turns errors into text and exit status.

It imports as little as it can: `lastwrite --help` must answer at once. Typer, and all else, is imported with
the one command that was chosen.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from lastwrite.errors import LastwriteError
from lastwrite.names import nearest_hint
from plugins.cli import help as texts
from plugins.cli.commands import COMMANDS, GROUPS, Command
from plugins.errors import CommandLineError, UnknownCommandError

INTERRUPTED = 130
DEBUG = "LASTWRITE_DEBUG"


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (without the program's name) and return its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = _dispatch(words)
        sys.stdout.flush()
        return status
    except LastwriteError as error:
        return _report(error, words)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone, as in `lastwrite points web01 | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if os.environ.get(DEBUG):
            raise
        hint = f"{LastwriteError.hint} {DEBUG}=1 shows where it happened."
        return _report(LastwriteError(f"{type(error).__name__}: {error}", hint=hint), words)


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("--help", "-h", "help"):
        print(texts.overview())
    elif words[0] == "--version":
        print(texts.version())
    elif words[0] in GROUPS and (len(words) == 1 or words[1] in ("--help", "-h")):
        print(texts.group_help(words[0]))
    else:
        command = find(words)
        return _invoke(command, words[len(command.words) :])
    return 0


def find(words: list[str]) -> Command:
    """Return the command that `words` begin with. Raises UnknownCommandError with the nearest ones."""
    for command in COMMANDS:
        if tuple(words[: len(command.words)]) == command.words:
            return command
    if words[0] in GROUPS:
        known = [command.words[1] for command in texts.members(words[0])]
        message = f"`lastwrite {words[0]}` has no command {words[1]}"
        raise UnknownCommandError(message, hint=nearest_hint(words[1], known, ""))
    known = sorted({command.words[0] for command in COMMANDS})
    raise UnknownCommandError(f"there is no command {words[0]}", hint=nearest_hint(words[0], known, ""))


def _invoke(command: Command, rest: list[str]) -> int:
    """Run a command and return its exit status: not 0 when a check that worked has found something."""
    from plugins.cli.leaf import app_of  # typer comes in here

    try:
        status = app_of(command)(args=rest, prog_name=f"lastwrite {command.name}", standalone_mode=False)
        return int(status or 0)
    except LastwriteError:
        raise
    except Exception as error:
        # Typer's own errors about arguments have one public sign: a message made for people.
        if not hasattr(error, "format_message"):
            raise
        hint = f"See `lastwrite {command.name} --help`."
        raise CommandLineError(str(error.format_message()), hint=hint) from None


def _report(error: LastwriteError, words: list[str]) -> int:
    """Print an error on stderr, as JSON when `--json` was given, and return the exit status."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        pass
    if "--json" in words:
        import json

        print(
            json.dumps({"error": {**error.to_dict(), "exit_status": error.exit_code}}, default=str),
            file=sys.stderr,
        )
    else:
        from plugins.cli.output import printable

        print(f"error: {printable(error.message)}", file=sys.stderr)
        if error.hint:
            print(f"hint: {printable(error.hint)}", file=sys.stderr)
    return error.exit_code


if __name__ == "__main__":
    sys.exit(run())
