"""What commands print: a table or sentences for people, JSON for programs, from the same result."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from plugins.models import Result

R = TypeVar("R", bound=Result)
WIDE = 240  # a pipe has no width: nothing is cut there

GOOD, BAD, WARN, DIM = "green", "red", "yellow", "dim"


_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Return `text` with nothing in it that a terminal would obey: names in a journal are other people's words."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def escaped(json: str) -> str:
    """Return JSON with such characters, which stand in strings only, written as `\\u009b`: it means the same."""
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", json)


class _Plain(Console):
    """A console whose only escapes are its own."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield what is printed, made harmless."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


def console(stderr: bool = False) -> Console:
    """Return a console: colours and its width only on a terminal."""
    file = sys.stderr if stderr else sys.stdout
    return _Plain(file=file, width=None if file.isatty() else WIDE, highlight=False, soft_wrap=False)


def show(result: R, json: bool, render: Callable[[R, Console], None]) -> None:
    """Print `result` as JSON, or let `render` print it for people."""
    if json:
        print(escaped(result.model_dump_json(indent=2)))
    else:
        render(result, console())


def table(headings: Sequence[str], rows: Iterable[Sequence[str | Text]], right: Iterable[str] = ()) -> Table:
    """Return a plain table; columns whose heading is in `right` are aligned to the right."""
    numbers = set(right)
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in headings:
        made.add_column(heading, justify="right" if heading in numbers else "left", overflow="fold")
    for row in rows:
        made.add_row(*[cell if isinstance(cell, Text) else Text(cell) for cell in row])
    return made


def fields(pairs: Iterable[tuple[str, str | Text]]) -> Table:
    """Return names and values below one another."""
    made = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    made.add_column(style="bold")
    made.add_column(overflow="fold")
    for name, value in pairs:
        made.add_row(name, value if isinstance(value, Text) else Text(value))
    return made


def say(text: str, out: Console, style: str = "") -> None:
    """Print a sentence as it is, no markup in it."""
    out.print(Text(text, style=style))
