"""A folder for one run of tests: many runs may go on side by side, and the next cleans up after a killed one.

The run holds a lock on its folder's `owner` file. A folder whose lock can be had belongs to nobody any more:
the hosts in it are taken down and it is deleted.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lab.hosts import Host
from lab.paths import lab_dir
from lab.run import Report, locked, say


@contextlib.contextmanager
def session(report: Report = say) -> Iterator[Path]:
    """Yield a new folder under the lab's directory; when the block ends, its hosts end and it is deleted."""
    with contextlib.ExitStack() as held:
        with locked(lab_dir() / ".sessions.lock", timeout_s=120, report=report):
            clean_abandoned(report)
            folder = Path(tempfile.mkdtemp(prefix="run-", dir=lab_dir()))
            owner = held.enter_context(open(folder / "owner", "w"))
            fcntl.flock(owner, fcntl.LOCK_EX)
        try:
            yield folder
        finally:
            _take_down(folder, report)


def clean_abandoned(report: Report = say) -> None:
    """Take down what runs that were killed left behind."""
    for folder in lab_dir().glob("run-*/"):
        with open(folder / "owner", "a") as owner:
            try:
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            report(f"cleaning up after an interrupted run: {folder}")
            _take_down(folder, report)


def _take_down(folder: Path, report: Report) -> None:
    for run_dir in folder.glob("*/run/"):
        Host(run_dir.parent.name, folder=run_dir.parent).down(report=report)
    shutil.rmtree(folder)
