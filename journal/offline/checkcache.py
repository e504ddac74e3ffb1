"""The caches in a check: wrong ones are no damage of the journal, deleting them is the remedy."""

from __future__ import annotations

from journal.index.cachetruth import Wrong, wrong_index, wrong_maps
from journal.reader import JournalReader


def cache_problems(reader: JournalReader) -> list[Wrong]:
    """Return every cache that does not say what its files say. `reader` must not have used any (cached=False)."""
    found: list[Wrong] = []
    for line in reader.timelines():
        scans = reader.scans(line.number)
        for scan in scans:
            try:
                wrong = wrong_index(scan)
            except FileNotFoundError:  # retention has replaced the file meanwhile, and its index with it
                continue
            if wrong:
                found.append(wrong)
        found += wrong_maps(reader.folder, line.number, scans)
    return found
