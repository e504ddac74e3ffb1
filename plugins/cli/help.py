"""Help texts: the overview, and the end that every command's help shares. Built from the error tree."""

from __future__ import annotations

from lastwrite import __version__
from lastwrite.errors import LastwriteError, UsageError
from plugins.cli.commands import COMMANDS, GROUPS, Command

OPTIONS = """Options:
  --help     Show this help. Every command has one, with an example.
  --version  Show the version."""

EVERY_COMMAND = (0, LastwriteError.exit_code, UsageError.exit_code, 130)


def exit_statuses() -> list[tuple[int, str]]:
    """Return each exit status and its meaning, by the classes right below the root of the error tree."""
    found = [(0, "it worked"), (LastwriteError.exit_code, "a defect of Lastwrite")]
    for kind in LastwriteError.__subclasses__():
        if kind.__module__ == LastwriteError.__module__:
            doc = (kind.__doc__ or "").strip().splitlines()[0]
            found.append((kind.exit_code, doc[0].lower() + doc[1:].rstrip(".")))
    return [*sorted(found), (130, "it was interrupted")]


def statuses_of(command: Command) -> list[tuple[int, str]]:
    """Return the exit statuses that a command can end with, and their meanings."""
    ends = {*EVERY_COMMAND, *command.ends}
    return [(status, meaning) for status, meaning in exit_statuses() if status in ends]


def epilogue(examples: tuple[str, ...], ends: list[tuple[int, str]]) -> str:
    """Return the end of a help text: examples and exit statuses."""
    shown = "\n".join(f"  {line}" for line in examples)
    statuses = "\n".join(f"  {status:<4} {meaning}" for status, meaning in ends)
    word = "Example" if len(examples) == 1 else "Examples"
    return f"{word}:\n{shown}\n\nExit statuses:\n{statuses}"


def overview() -> str:
    """Return the help of `lastwrite` itself."""
    lines = [_row(command.name, command.summary) for command in COMMANDS]
    return "\n".join(
        [
            "Usage: lastwrite COMMAND [OPTIONS] [ARGUMENTS]",
            "",
            "  Protects virtual machines continuously, down to the last write, and has any instant back.",
            "",
            "Commands:",
            *lines,
            "",
            OPTIONS,
            "",
            epilogue(
                ("lastwrite protect web01", "lastwrite recover web01@-10m --boot target"), exit_statuses()
            ),
        ]
    )


def group_help(group: str) -> str:
    """Return the help of a group such as `vm`."""
    lines = [_row(command.name, command.summary) for command in members(group)]
    usage = f"Usage: lastwrite {group} COMMAND [OPTIONS] [ARGUMENTS]"
    return "\n".join([usage, "", f"  {GROUPS[group]}", "", "Commands:", *lines, "", OPTIONS.splitlines()[0],
                      OPTIONS.splitlines()[1]])  # fmt: skip


def members(group: str) -> list[Command]:
    """Return the commands of a group."""
    return [command for command in COMMANDS if len(command.words) > 1 and command.words[0] == group]


def version() -> str:
    """Return what `--version` prints."""
    return f"lastwrite {__version__}"


def _row(name: str, summary: str) -> str:
    return f"  {name:<18} {summary}"
