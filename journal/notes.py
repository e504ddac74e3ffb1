"""The notes of frames, taken apart and checked: a tap can say anything, only what makes sense is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from journal.errors import BadContent
from journal.frame import SECTOR

ORDERS = ("total", "per-disk", "cycle")
SYNCS = ("initial", "full", "bitmap", "delta")
ADDING_SYNCS = ("bitmap", "delta")
"""They send only what may differ, or does differ, from the end of the last valid epoch."""
CUT_KINDS = ("tick", "sync-end", "bookmark", "appshot", "shutdown")
CONSISTENCIES = ("app", "filesystem", "crash", "approximate")
MAX_TEXT = 1024
MAX_NAME = 255
MAX_DISK_BYTES = 64 << 40
MAX_DEPTH, MAX_VALUES, MAX_CHARACTERS = 5, 1000, 32 << 10
"""Of a cut's coordinates: how deep, how many values, how much text."""
_MAX_NS = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class JournalDisk:
    """A disk as an epoch knew it: `disk` is the number that records use."""

    disk: int
    name: str
    bytes: int
    serial: str | None

    def same_as(self, other: JournalDisk) -> bool:
        """Return whether both are one disk: by their serials, by their names when one has none."""
        if self.serial and other.serial:
            return self.serial == other.serial
        return self.name == other.name

    @property
    def described(self) -> str:
        """Its name, and its serial when it has one."""
        return f"{self.name} (serial {self.serial})" if self.serial else self.name


@dataclass(frozen=True, slots=True)
class EpochNote:
    """An epoch begins."""

    wall: int
    mono: int
    epoch: int
    order: str
    generation: int
    boot: str
    reason: str
    sync: str
    disks: tuple[JournalDisk, ...]


@dataclass(frozen=True, slots=True)
class SyncNote:
    """Everything of this sync before that place has been sent."""

    wall: int
    mono: int
    disk: int
    sector: int


@dataclass(frozen=True, slots=True)
class CutNote:
    """A cut; `offset` and `frozen` in ns."""

    wall: int
    mono: int
    number: int
    kind: str
    label: str | None
    consistency: str
    offset: int | None
    frozen: int | None
    coordinates: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class GapNote:
    """The epoch ends here."""

    wall: int
    mono: int
    reason: str


Parsed = EpochNote | SyncNote | CutNote | GapNote


def checked_name(name: str) -> str:
    """Return a name that may be shown. Raises BadContent."""
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise BadContent(
            f"the name {name[:40]!r} is empty, too long or not printable",
            hint=f"Use 1 to {MAX_NAME} printable characters.",
        )
    return name


def parse(note: Mapping[str, Any]) -> Parsed | None:
    """Return a note with its fields checked, None when its kind is unknown. Raises BadContent."""
    make = _PARSERS.get(note.get("note")) if isinstance(note.get("note"), str) else None
    return None if make is None else make(note)


def _integer(note: Mapping[str, Any], key: str, low: int = 0, high: int = _MAX_NS) -> int:
    value = note.get(key)
    if type(value) is not int or not low <= value <= high:
        raise BadContent(f"a note {note.get('note', 'disk')!r} has {key} {_short(value)}")
    return value


def _text(note: Mapping[str, Any], key: str, limit: int = MAX_TEXT) -> str:
    value = note.get(key)
    if not isinstance(value, str) or len(value) > limit or not value.isprintable():
        raise BadContent(f"a note {note.get('note', 'disk')!r} has {key} {_short(value)}")
    return value


def _word(note: Mapping[str, Any], key: str, words: tuple[str, ...]) -> str:
    value = note.get(key)
    if not isinstance(value, str) or value not in words:
        raise BadContent(f"a note {note['note']!r} has {key} {_short(value)}, known are {', '.join(words)}")
    return value


def _short(value: object) -> str:
    return repr(value)[:60]


def _clock(note: Mapping[str, Any]) -> tuple[int, int]:
    return _integer(note, "wall"), _integer(note, "mono")


def _epoch(note: Mapping[str, Any]) -> EpochNote:
    entries = note.get("disks")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise BadContent("an epoch's note has no array of disks")
    disks = tuple(_disk(entry) for entry in entries)
    if len({d.disk for d in disks}) < len(disks) or len({d.name for d in disks}) < len(disks):
        raise BadContent("an epoch's note names a disk twice")
    number = _integer(note, "epoch", 1, (1 << 32) - 1)
    generation = _integer(note, "generation", 0, (1 << 64) - 1)
    boot, reason = _text(note, "boot"), _text(note, "reason")
    order, sync = _word(note, "order", ORDERS), _word(note, "sync", SYNCS)
    return EpochNote(*_clock(note), number, order, generation, boot, reason, sync, disks)


def _disk(entry: Mapping[str, Any]) -> JournalDisk:
    size = _integer(entry, "bytes", SECTOR, MAX_DISK_BYTES)
    if size % SECTOR:
        raise BadContent(f"a disk has {size} bytes, which is no multiple of {SECTOR}")
    serial = None if entry.get("serial") is None else _text(entry, "serial", MAX_NAME)
    name = _text(entry, "name", MAX_NAME)
    if not name:
        raise BadContent("a disk has an empty name")
    return JournalDisk(_integer(entry, "disk", 0, 65535), name, size, serial)


def _sync(note: Mapping[str, Any]) -> SyncNote:
    return SyncNote(
        *_clock(note), _integer(note, "disk", 0, 65535), _integer(note, "sector", 0, (1 << 48) - 1)
    )


def _cut(note: Mapping[str, Any]) -> CutNote:
    label = None if note.get("label") is None else _text(note, "label", MAX_NAME)
    offset = None if note.get("offset") is None else _integer(note, "offset", -_MAX_NS)
    frozen = None if note.get("frozen") is None else _integer(note, "frozen")
    coordinates = note.get("coordinates")
    if coordinates is not None and not (isinstance(coordinates, dict) and _is_modest(coordinates)):
        raise BadContent(f"a cut has coordinates {_short(coordinates)}")
    kind, consistency = _word(note, "kind", CUT_KINDS), _word(note, "consistency", CONSISTENCIES)
    number = _integer(note, "number", 1)
    return CutNote(*_clock(note), number, kind, label, consistency, offset, frozen, coordinates)


def _is_modest(value: object) -> bool:
    """Return whether coordinates may be kept: every reader of the journal has them in memory."""
    waiting: list[tuple[object, int]] = [(value, 0)]
    seen = characters = 0
    while waiting:
        one, depth = waiting.pop()
        seen += 1
        if isinstance(one, str):
            characters += len(one)
        elif isinstance(one, dict) and depth < MAX_DEPTH and all(isinstance(key, str) for key in one):
            characters += sum(map(len, one))
            waiting += [(inner, depth + 1) for inner in one.values()]
        elif isinstance(one, list) and depth < MAX_DEPTH:
            waiting += [(inner, depth + 1) for inner in one]
        elif one is not None and not isinstance(one, bool | int | float):
            return False
        if seen > MAX_VALUES or characters > MAX_CHARACTERS:
            return False
    return True


def _gap(note: Mapping[str, Any]) -> GapNote:
    return GapNote(*_clock(note), _text(note, "reason"))


_PARSERS: dict[Any, Any] = {"epoch": _epoch, "sync": _sync, "cut": _cut, "gap": _gap}
_NAMES = {EpochNote: "epoch", SyncNote: "sync", CutNote: "cut", GapNote: "gap"}


def unparse(note: Parsed) -> dict[str, Any]:
    """Return the map that a note was parsed from."""
    return {"note": _NAMES[type(note)], **asdict(note)}
