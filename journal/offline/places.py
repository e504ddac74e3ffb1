"""Where a command may write: never into a journal, whichever way leads there."""

from __future__ import annotations

import os
from pathlib import Path

from journal import layout
from journal.errors import DamagedJournal, NotAJournal, WrongFormat
from lastwrite.errors import UsageError


class InsideJournal(UsageError):
    """A file that is to be written would lie inside a journal."""

    code = "inside-journal"
    hint = "Name a place outside of every journal: nothing is ever written into one."


def require_outside(path: Path, folder: Path) -> None:
    """Raise InsideJournal when `path` lies in the journal `folder` or in another one, also by way of links."""
    real = Path(os.path.realpath(path))
    for place in (real, *real.parents):
        if _same(place, folder) or is_journal(place):
            way = f" (that is {real})" if real != path.absolute() else ""
            raise InsideJournal(f"{path}{way} lies inside the journal {place}")


def is_journal(folder: Path) -> bool:
    """Return whether a folder is a journal, or what is left of one."""
    try:
        layout.read_identity(folder)
    except WrongFormat:
        return True
    except (NotAJournal, DamagedJournal, OSError):
        return _has_segments(folder)
    return True


def _has_segments(folder: Path) -> bool:
    try:
        lines = [path for path in (folder / layout.TIMELINES).iterdir() if path.name.isdecimal()]
        return any(layout.stored_file(path) for line in lines for path in line.iterdir())
    except OSError:
        return False


def _same(place: Path, folder: Path) -> bool:
    """Return whether both are one folder, also when it is mounted in two places."""
    try:
        return place.samefile(folder)
    except OSError:
        return False
