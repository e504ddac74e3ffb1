"""Making the caches of a journal anew: all of them are deleted, then made from the files themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from journal import layout
from journal.index import indexfile, netmap
from journal.index.make import write_index
from journal.reader import JournalReader
from journal.storage import write_error
from journal.upkeep import upkeep_lock

Progress = Callable[[int, int], None]


@dataclass
class ReindexReport:
    """What was done. `left`: sealed files that got no index: they are damaged, or a folder stands in its place.

    `folders` have the name of a cache: they are left as they are. A timeline with one that is named like a map gets no
    maps.
    """

    journal: str
    name: str
    deleted: int = 0
    indexes: int = 0
    maps: int = 0
    left: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)


def reindex(folder: Path | str, progress: Progress | None = None) -> ReindexReport:
    """Delete and rebuild the caches of a journal; readers do without meanwhile. `progress(done, total)`: files.

    Raises NotAJournal, WrongFormat, UpkeepBusy, JournalFull, JournalWriteFailed.
    """
    folder = Path(folder)
    reader = JournalReader(folder, cached=False)
    report = ReindexReport(reader.journal_id, reader.name)
    numbers = [line.number for line in reader.timelines()]
    with upkeep_lock(folder):
        try:
            _rebuild(reader, numbers, report, progress or (lambda done, total: None))
        except OSError as error:
            raise write_error(folder, error) from error
    return report


def _rebuild(reader: JournalReader, numbers: list[int], report: ReindexReport, progress: Progress) -> None:
    for number in numbers:
        _delete(layout.timeline_folder(reader.folder, number), report)
    files = [scan.path for number in numbers for scan in reader.scans(number) if scan.sealed]
    for done, path in enumerate(files, 1):
        if not indexfile.index_path(path).is_dir() and write_index(path):
            report.indexes += 1
        elif path.exists():
            report.left.append(path)
        progress(done, len(files))
    blocked = {path.parent for path in report.folders if path.suffix == netmap.SUFFIX}
    free = [n for n in numbers if layout.timeline_folder(reader.folder, n) not in blocked]
    report.maps = sum(len(netmap.build(reader.folder, number)) for number in free)


def _delete(home: Path, report: ReindexReport) -> None:
    """Delete the caches of a timeline; what is a folder is none."""
    for path in home.glob("*"):
        if path.suffix not in (indexfile.SUFFIX, netmap.SUFFIX):
            continue
        if path.is_dir() and not path.is_symlink():
            report.folders.append(path)
        else:
            path.unlink(missing_ok=True)
            report.deleted += 1
