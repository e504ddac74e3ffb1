"""What is being done, in one line on the terminal, with the time since the beginning. Elsewhere nothing is shown."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import Progress as Line
from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn


class Progress:
    """A line on standard error while it is entered, drawn once a second: drawing takes time from what is measured."""

    def __init__(self, name: str, console: Console | None = None) -> None:
        console = console or Console(stderr=True)
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
        self._line = Line(
            *columns, console=console, transient=True, refresh_per_second=1, disable=not console.is_terminal
        )
        self._name = name
        self._stage = ""
        self._task = self._line.add_task(name)

    def __enter__(self) -> Progress:
        self._line.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._line.stop()

    def stage(self, words: str) -> None:
        """Show which part of the whole begins."""
        self._stage = words
        self._show(words)

    def tell(self, words: str) -> None:
        """Show what of that part is done now."""
        self._show(f"{self._stage}: {words}" if self._stage else words)

    def _show(self, words: str) -> None:
        self._line.update(self._task, description=f"{self._name}, {words}", refresh=True)
