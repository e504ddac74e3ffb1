"""Whether caches say what the heads of their files say: everything is made again and compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from journal import layout
from journal.index.chunks import BadCache, Key, Unit, moved
from journal.index.filenets import unit_of
from journal.index.indexfile import IndexFile, IndexHeader, index_path, last_times
from journal.index.netmap import USELESS, NetMap, bases_of, keys_of, merged_nets, named_maps
from journal.map.net import Extents, joined, merged
from journal.scan import SegmentScan


class Wrong(NamedTuple):
    """A cache that is not right. `believed`: its checksums are, so readers use it; else they ignore it."""

    path: Path
    reason: str
    believed: bool


def wrong_index(scan: SegmentScan) -> Wrong | None:
    """Return what is wrong with the index of a file; None when there is nothing, or no index.

    `scan` was made with cached=False. Raises OSError.
    """
    path = index_path(scan.path)
    try:
        index = IndexFile(path, scan.footer)
        different = _different(index, scan)
    except FileNotFoundError:
        return None
    except BadCache as error:
        return Wrong(path, str(error), False)
    return Wrong(path, f"its {different} are not those of the file's heads", True) if different else None


def _different(index: IndexFile, scan: SegmentScan) -> str | None:
    said = index.header
    if said.frames > scan.frame_count or scan.bad:
        return "frames"
    frames = scan.frames.array()[: said.frames]
    if not np.array_equal(index.frames(), frames) or _ends(said) != _found(frames, scan):
        return "frames"
    if not np.array_equal(index.records(), scan.rows.array()[: said.records]):
        return "records"
    if list(index.notes) != list(scan.notes)[: len(index.notes)] or (
        said.sealed and len(index.notes) != len(scan.notes)
    ):
        return "notes"
    if index.last_times != last_times(frames):
        return "times"
    last = None if said.sealed else said.next_lsn - 1
    return None if _same_nets(index.unit(), unit_of(scan, last)) else "nets"


def _ends(said: IndexHeader) -> tuple[int, ...]:
    return (said.records, said.next_lsn, said.epoch, said.last_offset, said.last_sum)


def _found(frames: np.ndarray[tuple[int], np.dtype[np.void]], scan: SegmentScan) -> tuple[int, ...]:
    if not len(frames):
        return (0, scan.first_lsn, 0, 0, 0)
    names = ("next_lsn", "epoch", "offset", "head_sum")
    return (int(frames["records"].sum()), *(int(frames[-1][name]) for name in names))


def _same_nets(ours: Unit, theirs: Unit) -> bool:
    keys = keys_of([(0, ours)])
    return keys == keys_of([(0, theirs)]) and all(_same(_net(ours, key), _net(theirs, key)) for key in keys)


def _same(ours: Extents, theirs: Extents) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def _net(unit: Unit, key: Key) -> Extents:
    """Return all of a unit's net of one key, in its shortest form. Raises BadCache."""
    parts = [
        moved(unit.read(at), 0)
        for at, row in enumerate(unit.directory)
        if (int(row["epoch"]), int(row["rank"]), int(row["disk"])) == key
    ]
    net = joined(parts)
    return merged(net.taken(np.argsort(net.start, kind="stable")))


def wrong_maps(folder: Path, timeline: int, scans: Sequence[SegmentScan]) -> list[Wrong]:
    """Return what is wrong with the net maps of a timeline.

    `scans`: all of its files in order, made with cached=False. Raises OSError.
    """
    found = []
    for _, _, path in named_maps(layout.timeline_folder(folder, timeline)):
        try:
            wrong = _wrong_map(path, scans)
        except BadCache as error:
            wrong = Wrong(path, str(error), False)
        if wrong:
            found.append(wrong)
    return found


def _wrong_map(path: Path, scans: Sequence[SegmentScan]) -> Wrong | None:
    net_map = NetMap(path)
    first = next((n for n, scan in enumerate(scans) if scan.first_lsn == net_map.header.first_lsn), None)
    if first is None or not net_map.fits(scans[first:]):
        return Wrong(path, "it is of other files", False)
    if net_map.header.flags & USELESS:
        return None
    covered = scans[first : first + net_map.header.files]
    units: list[tuple[int, Unit]] = [(number, unit_of(scan)) for number, scan in enumerate(covered)]
    ours, bases = net_map.unit(), bases_of(covered)
    same = keys_of([(0, ours)]) == keys_of(units) and all(
        _same(_net(ours, key), merged(joined(list(merged_nets(units, bases, key))))) for key in keys_of(units)
    )
    return None if same else Wrong(path, "its net is not that of the files", True)
