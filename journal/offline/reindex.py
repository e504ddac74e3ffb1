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
    """What was done; `left`: sealed files that got no index, because they are damaged."""

    journal: str
    name: str
    deleted: int = 0
    indexes: int = 0
    maps: int = 0
    left: list[Path] = field(default_factory=list)


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
            for number in numbers:
                report.deleted += _delete(layout.timeline_folder(folder, number))
            files = [scan for number in numbers for scan in reader.scans(number) if scan.sealed]
            for done, scan in enumerate(files, 1):
                if write_index(scan.path):
                    report.indexes += 1
                elif scan.path.exists():
                    report.left.append(scan.path)
                if progress:
                    progress(done, len(files))
            report.maps = sum(len(netmap.build(folder, number)) for number in numbers)
        except OSError as error:
            raise write_error(folder, error) from error
    return report


def _delete(home: Path) -> int:
    found = [path for path in home.glob("*") if path.suffix in (indexfile.SUFFIX, netmap.SUFFIX)]
    for path in found:
        path.unlink(missing_ok=True)
    return len(found)
