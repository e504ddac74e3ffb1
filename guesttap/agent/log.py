"""Lines for the journal of the machine: plain words to stderr, held back while file systems are frozen."""

from __future__ import annotations

import sys
from typing import TextIO

MAX_HELD = 1000


class Log:
    """Writes lines to `stream`. Between `hold` and `release` they wait in memory."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._held: list[str] | None = None

    def say(self, text: str) -> None:
        """Write one line."""
        if self._held is None:
            print(text, file=self._stream or sys.stderr, flush=True)
        elif len(self._held) < MAX_HELD:
            self._held.append(text)

    def hold(self) -> None:
        """Keep lines in memory from now on: whoever writes them down may be frozen."""
        if self._held is None:
            self._held = []

    def release(self) -> None:
        """Write what was held."""
        held, self._held = self._held, None
        for text in held or ():
            self.say(text)
