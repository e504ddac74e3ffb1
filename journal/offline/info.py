"""What a journal is and holds, as one dictionary for people and programs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from journal import storage
from journal.offline.salvage import Salvaged, open_salvaged
from journal.ranges import ranges
from journal.reader import JournalReader


def info(folder: Path | str) -> dict[str, Any]:
    """Return what the journal in `folder` holds, also when JOURNAL or meta.log are lost (`lost` tells what is).

    Sizes in bytes, times in ns of the source's wall clock (`created`: of the appliance's). `files` are `segments` and
    `net_segments` together. `damage` is what metadata and heads show: no data was read. Raises NotAJournal,
    WrongFormat, DamagedJournal.
    """
    opened = open_salvaged(folder, cached=True)
    return opened.reader.settled(lambda: _told(opened))


def _told(opened: Salvaged) -> dict[str, Any]:
    reader = opened.reader
    return {
        "name": reader.name,
        "journal": reader.journal_id,
        "folder": str(reader.folder),
        "format": reader.identity.format,
        "created": reader.identity.created,
        "bytes": _bytes(reader.folder),
        "direct_io": _direct(reader.folder),
        "timelines": [_timeline(reader, line.number) | asdict(line) for line in reader.timelines()],
        "damage": [asdict(damage) | {"path": str(damage.path)} for damage in reader.damage()],
        "data_read": False,
        "lost": opened.told,
        "assumed": opened.assumed,
    }


def _bytes(folder: Path) -> int:
    """Return what the files of a journal take; one that retention just deleted takes nothing."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def _direct(folder: Path) -> bool | None:
    """Return whether a writer here goes past the page cache, None when that cannot be told."""
    try:
        return storage.direct_io(folder)
    except OSError:
        return None


def _timeline(reader: JournalReader, timeline: int) -> dict[str, Any]:
    epochs, cuts, scans = reader.epochs(timeline), reader.cuts(timeline), reader.scans(timeline)
    lineage = reader.lineage(timeline)
    stretches = ranges(lineage.history, lineage.times.known_until)
    return {
        "files": len(scans),
        "segments": sum(not scan.is_net for scan in scans),
        "net_segments": sum(scan.is_net for scan in scans),
        "frames": sum(scan.frame_count for scan in scans),
        "records": sum(scan.record_count for scan in scans),
        "last_lsn": reader.last_lsn(timeline),
        "latest": reader.latest(timeline),
        "first_time": epochs[0].wall if epochs else None,
        "last_time": reader.last_time(timeline),
        "points": sum(stretch.points for stretch in stretches),
        "ranges": [asdict(stretch) for stretch in stretches],
        "epochs": [asdict(epoch) for epoch in epochs],
        "spans": [span._asdict() for span in lineage.history.spans],
        "cuts": len(cuts),
        "bookmarks": [asdict(cut) for cut in cuts if cut.label],
        "disks": [asdict(disk) for disk in reader.disks(timeline)],
    }
