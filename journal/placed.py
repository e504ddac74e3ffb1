"""Notes with the places that they stand at, also as columns: the ticks of a year are read at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple, overload

import msgpack
import numpy as np

from journal import notes
from journal.notes import CutNote, EpochNote, GapNote, Parsed, SyncNote
from journal.table import Table


class PlacedNote(NamedTuple):
    """A note, the LSN that it stands after (in a net segment: stood after), and the epoch of its frame."""

    lsn: int
    epoch: int
    note: Parsed


TICK = np.dtype(
    [
        ("index", "<u8"),
        ("lsn", "<u8"),
        ("wall", "<u8"),
        ("mono", "<u8"),
        ("number", "<u8"),
        ("offset", "<i8"),
        ("epoch", "<u4"),
        ("consistency", "<u4"),
    ]
)
"""A plain tick: `index` among the notes of the file; `consistency` a place in notes.CONSISTENCIES."""
_NO_OFFSET = -(1 << 63)
_NAMES = {EpochNote: "epoch", SyncNote: "sync", CutNote: "cut", GapNote: "gap"}


def packed(placed: Sequence[PlacedNote]) -> tuple[Table, bytes]:
    """Return notes as columns of plain ticks, and msgpack of the others: [index, lsn, epoch, note] of each."""
    ticks, others = [], []
    for index, (lsn, epoch, note) in enumerate(placed):
        if isinstance(note, CutNote) and _is_plain(note):
            offset = _NO_OFFSET if note.offset is None else note.offset
            consistency = notes.CONSISTENCIES.index(note.consistency)
            ticks.append((index, lsn, note.wall, note.mono, note.number, offset, epoch, consistency))
        else:
            others.append([index, lsn, epoch, {"note": _NAMES[type(note)], **asdict(note)}])
    return np.array(ticks, TICK), bytes(msgpack.packb(others))


def _is_plain(note: CutNote) -> bool:
    said = (note.label, note.frozen, note.coordinates, note.kind)
    return said == (None, None, None, "tick") and note.offset != _NO_OFFSET


class PackedNotes(Sequence[PlacedNote]):
    """Notes as `packed` makes them; each is made when it is asked for. Safe for several threads."""

    def __init__(self, ticks: Table, others: bytes) -> None:
        """Raises ValueError, KeyError, TypeError and msgpack's errors for what `packed` never made."""
        self.ticks = ticks
        self.others = [
            (int(i), _unpacked(lsn, epoch, note)) for i, lsn, epoch, note in msgpack.unpackb(others)
        ]
        self._made: list[PlacedNote] | None = None

    def __len__(self) -> int:
        return len(self.ticks) + len(self.others)

    @overload
    def __getitem__(self, index: int) -> PlacedNote: ...

    @overload
    def __getitem__(self, index: slice) -> list[PlacedNote]: ...

    def __getitem__(self, index: int | slice) -> PlacedNote | list[PlacedNote]:
        return self._all()[index]

    def __iter__(self) -> Iterator[PlacedNote]:
        return iter(self._all())

    def _all(self) -> list[PlacedNote]:
        if self._made is None:
            made = dict(self.others)
            for index, lsn, wall, mono, number, offset, epoch, consistency in self.ticks.tolist():
                known = None if offset == _NO_OFFSET else offset
                word = notes.CONSISTENCIES[consistency]
                cut = CutNote(wall, mono, number, "tick", None, word, known, None, None)
                made[index] = PlacedNote(lsn, epoch, cut)
            self._made = [made[index] for index in range(len(made))]
        return self._made


def _unpacked(lsn: int, epoch: int, note: dict[str, Any]) -> PlacedNote:
    parsed = notes.parse(note)
    if parsed is None:
        raise ValueError(f"a note of kind {note['note']!r}")
    return PlacedNote(int(lsn), int(epoch), parsed)
