"""Makes the Typer application of one command."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand

from plugins.cli.commands import Command
from plugins.cli.help import epilogue, statuses_of


def function_of(command: Command) -> Callable[..., Any]:
    """Return the function that does the command."""
    function: Callable[..., Any] = getattr(importlib.import_module(command.module), command.function)
    return function


def examples_of(command: Command) -> tuple[str, ...]:
    """Return the examples of the command, from the table `EXAMPLES` of its module."""
    examples: dict[str, tuple[str, ...]] = importlib.import_module(command.module).EXAMPLES
    return examples[command.function]


def _parser_of(command: Command) -> type[TyperCommand] | None:
    """Return what reads the command's arguments, from the table `PARSERS` of its module; None: what always does."""
    parsers: dict[str, type[TyperCommand]] = getattr(importlib.import_module(command.module), "PARSERS", {})
    return parsers.get(command.function)


def app_of(command: Command) -> typer.Typer:
    """Return an application with this one command, its help ending with examples and exit statuses."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    function = function_of(command)
    # \b keeps the lines of the paragraph that follows as they are.
    end = "\n\n".join(
        "\b\n" + part for part in epilogue(examples_of(command), statuses_of(command)).split("\n\n")
    )
    settings = {"help_option_names": ["--help", "-h"], "max_content_width": 100}
    about = {"help": inspect.getdoc(function), "epilog": end, "context_settings": settings}
    app.command(cls=_parser_of(command), **about)(function)  # type: ignore[arg-type]
    return app


def help_of(command: Command) -> str:
    """Return the help text of the command, as wide as the terminal."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        app_of(command)(args=["--help"], prog_name=f"lastwrite {command.name}", standalone_mode=False)
    return out.getvalue()
