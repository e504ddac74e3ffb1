"""Follows the events of a long operation: a bar on a terminal, a line now and then elsewhere. On stderr.

Events are maps with a key `event`: `step` {text}; `progress` {text, done, total, unit}, the unit being
`bytes`, `items` or `percent`; `alive`; `result` {result}.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from lastwrite.text import duration, size
from plugins.cli.output import console
from plugins.errors import ServerLostError

LINE_EVERY_S = 5.0


class Follower(Protocol):
    """Shows steps and progress."""

    def step(self, text: str) -> None:
        """Say what is being done now."""

    def progress(self, text: str, done: int, total: int | None, unit: str) -> None:
        """Say how far it is."""


class Quiet:
    """Shows nothing."""

    def step(self, text: str) -> None:
        """Ignore it."""

    def progress(self, text: str, done: int, total: int | None, unit: str) -> None:
        """Ignore it."""


class Pace:
    """How fast bytes go by, and how long the rest will take; what was done before it was first asked is left out."""

    def __init__(self, left: bool = True) -> None:
        self._left = left
        self._text = ""
        self._begin = (0.0, 0)

    def of(self, text: str, done: int, total: int | None, unit: str) -> str:
        """Return `, 120.0 MiB/s, 3.2 s left`; nothing for other units, and in the first second."""
        now = time.monotonic()
        if text != self._text:
            self._text, self._begin = text, (now, done)
        passed, more = now - self._begin[0], done - self._begin[1]
        if unit != "bytes" or passed < 1 or more <= 0:
            return ""
        rate = more / passed
        left = f", {duration((total - done) / rate)} left" if self._left and total else ""
        return f", {size(int(rate))}/s{left}"


class Lines:
    """Prints a line for each step, and one for the progress every few seconds."""

    def __init__(self) -> None:
        self._next = time.monotonic() + LINE_EVERY_S
        self._pace = Pace()

    def step(self, text: str) -> None:
        """Print it."""
        print(text, file=sys.stderr, flush=True)

    def progress(self, text: str, done: int, total: int | None, unit: str) -> None:
        """Print it when the last line is old enough."""
        pace = self._pace.of(text, done, total, unit)
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + LINE_EVERY_S
            print(f"{text}: {_amount(done, total, unit)}{pace}", file=sys.stderr, flush=True)


class Bar:
    """A rich progress bar whose text is the step."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._pace = Pace(left=False)
        self._task = progress.add_task("", total=None, amount="")

    def step(self, text: str) -> None:
        """Show the step; a new bar begins."""
        self._progress.reset(self._task, description=text, total=None, amount="")

    def progress(self, text: str, done: int, total: int | None, unit: str) -> None:
        """Move the bar."""
        amount = _amount(done, total, unit) + self._pace.of(text, done, total, unit)
        self._progress.update(self._task, description=text, completed=done, total=total, amount=amount)


@contextmanager
def follower(json: bool) -> Iterator[Follower]:
    """Give whatever suits stderr: a bar on a terminal, nothing for programs, lines otherwise."""
    if sys.stderr.isatty():
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[amount]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console(stderr=True), transient=True) as progress:
            yield Bar(progress)
    else:
        yield Quiet() if json else Lines()


def follow(events: Iterable[dict[str, Any]], json: bool) -> Any:
    """Show the events and return what the last one carries as its result. Raises what `events` raises."""
    with follower(json) as shown:
        for event in events:
            if event["event"] == "step":
                shown.step(event["text"])
            elif event["event"] == "progress":
                shown.progress(event["text"], event["done"], event.get("total"), event.get("unit", "items"))
            elif event["event"] == "result":
                return event["result"]
    raise ServerLostError("the operation ended without a result")


def _amount(done: int, total: int | None, unit: str) -> str:
    if unit == "percent" and total:
        return f"{100 * done // total}%"
    show = size if unit == "bytes" else str
    return show(done) if total is None else f"{show(done)} of {show(total)}"
