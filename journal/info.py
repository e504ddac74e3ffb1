"""What a journal is and holds, as one dictionary for people and programs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from journal import layout
from journal.reader import JournalReader


def info(folder: Path | str) -> dict[str, Any]:
    """Return what the journal in `folder` holds. Sizes in bytes, times in ns of the source's wall clock.

    Raises NotAJournal, WrongFormat, DamagedJournal.
    """
    reader = JournalReader(folder)
    return {
        "name": reader.name,
        "journal": reader.journal_id,
        "folder": str(reader.folder),
        "format": layout.FORMAT,
        "created": reader.identity.created,
        "bytes": sum(path.stat().st_size for path in reader.folder.rglob("*") if path.is_file()),
        "timelines": [_timeline(reader, line.number) | asdict(line) for line in reader.timelines()],
        "damage": [asdict(damage) | {"path": str(damage.path)} for damage in reader.damage()],
    }


def _timeline(reader: JournalReader, timeline: int) -> dict[str, Any]:
    epochs, cuts, scans = reader.epochs(timeline), reader.cuts(timeline), reader.scans(timeline)
    return {
        "segments": len(scans),
        "frames": sum(scan.frame_count for scan in scans),
        "records": sum(scan.record_count for scan in scans),
        "last_lsn": reader.last_lsn(timeline),
        "latest": reader.latest(timeline),
        "first_time": epochs[0].wall if epochs else None,
        "last_time": reader.last_time(timeline),
        "epochs": [asdict(epoch) for epoch in epochs],
        "spans": [span._asdict() for span in reader.lineage(timeline).history.spans],
        "cuts": len(cuts),
        "bookmarks": [asdict(cut) for cut in cuts if cut.label],
        "disks": [asdict(disk) for disk in reader.disks(timeline)],
    }
