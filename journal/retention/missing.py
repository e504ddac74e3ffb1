"""What to do where a journal was expected and there is none, or one that may not be read or written here."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from journal import layout
from journal.errors import JournalWriteFailed
from journal.retention.errors import JournalNotReadable, ReadOnlyJournal

_MOST = 5


def missing_hint(folder: Path | None) -> str:
    """Return what to do about a folder that holds no journal; None: that of a VM whose folder is not there."""
    if folder is None:
        return "The VM is known, but its journal is not where it was: mount its disk, or name the folder it is in."
    if not folder.is_dir():
        return (
            f"There is no folder {folder}: name a protected VM (`lastwrite status` lists them), or the folder that"
            " holds the file JOURNAL."
        )
    if (folder / layout.META_LOG).exists() or layout.timeline_folder(folder, layout.MAIN).is_dir():
        return (
            f"This was a journal, but its file JOURNAL is lost. `lastwrite journal info {folder}` shows what is there,"
            f" and `lastwrite journal rescue {folder} latest OUT` restores its disks. Put JOURNAL back from a copy of"
            " the journal: until then nothing of its history is given up."
        )
    beside: list[str] = []
    with contextlib.suppress(OSError):
        beside = sorted(str(path) for path in folder.iterdir() if (path / layout.IDENTITY).is_file())
    there = f" In it are {', '.join(beside[:_MOST])}." if beside else ""
    return f"Name the folder that holds the file JOURNAL.{there}"


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Say what to do when a journal may not be written, or read, here. Raises ReadOnlyJournal, JournalNotReadable."""
    try:
        yield
    except JournalWriteFailed as error:
        if getattr(error.__cause__, "errno", None) not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        raise ReadOnlyJournal(error.message) from error
    except PermissionError as error:
        raise JournalNotReadable(f"{error.filename} may not be read: {error.strerror}") from error
