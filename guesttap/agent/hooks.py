"""The applications' own scripts: `consistency.d/NN-name freeze|thaw|abort`.

`freeze` runs in the order of the names, `thaw` and `abort` in the reverse. A script that fails to freeze ends the
freezing: it and those before it get `abort`. Exit status 0 of `thaw` says that the application stood still until then.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path


class Hooks:
    """One run of the scripts in `folder`, all within `seconds`."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds
        self._frozen: list[Path] = []
        self.messages: list[str] = []
        self.found = self._find(folder)

    def _find(self, folder: Path) -> list[Path]:
        try:
            names = sorted(folder.iterdir())
        except OSError:
            return []
        return [path for path in names if path.is_file() and os.access(str(path), os.X_OK)]

    def freeze(self) -> bool:
        """Run `freeze` of each; False when one failed, and then all that had begun were aborted."""
        for path in self.found:
            self._frozen.append(path)
            if not self._run(path, "freeze", self._deadline):
                self.abort()
                return False
        return True

    def thaw(self) -> bool:
        """Run `thaw` of each that was frozen; False when one failed."""
        return self._release("thaw")

    def abort(self) -> bool:
        """Run `abort` of each that was frozen."""
        return self._release("abort")

    def abandon(self) -> None:
        """Run `abort` of every script, for nobody knows how far the one who ran them had come."""
        self._frozen = list(self.found)
        self._release("abort")

    def _release(self, word: str) -> bool:
        fine = True
        while self._frozen:
            # Each gets its chance, however late it is.
            fine &= self._run(self._frozen.pop(), word, max(self._deadline, time.monotonic() + 5))
        return fine

    def _run(self, path: Path, word: str, deadline: float) -> bool:
        try:
            process = subprocess.Popen(
                [str(path), word],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
            )
        except OSError as error:
            self.messages.append(f"{path.name} {word} could not be run: {error.strerror}")
            return False
        try:
            status = process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            self.messages.append(f"{path.name} {word} took too long and was ended")
            return False
        if status:
            self.messages.append(f"{path.name} {word} failed with status {status}")
        return status == 0
