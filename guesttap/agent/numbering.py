"""The journal's numbers of the tapped disks: a disk keeps its number as long as the journal lives.

The tap counts its disks from 0 in the order in which it was attached; everything that leaves the agent names a disk
by the journal's number. The numbers follow from the journal's list alone. That list holds the disks of the open
epoch, so after a reconnect or a restart the same disks get the same numbers.
"""

from __future__ import annotations

from typing import Any, Callable, Mapping, NamedTuple, Sequence

from guesttap.protocol import ProtocolError

MAX_NUMBER = (1 << 16) - 1


class _Known(NamedTuple):
    name: str
    serial: str | None
    number: int


_Same = Callable[[_Known, _Known], bool]

# From the surest to the least sure. A serial counts only when both sides have one.
_RULES: tuple[_Same, ...] = (
    lambda one, other: bool(one.serial) and (one.name, one.serial) == (other.name, other.serial),
    lambda one, other: bool(one.serial) and one.serial == other.serial,
    lambda one, other: not one.serial and not other.serial and one.name == other.name,
    lambda one, other: not (one.serial and other.serial) and one.name == other.name,
)


class Numbering:
    """Numbers of the tapped disks: `of` maps a tap's index to the journal's number, `local` back.

    `known` says that the journal named every one of them already.
    """

    def __init__(self, disks: Sequence[Mapping[str, Any]], journal: object) -> None:
        """`disks`: what is tapped ({disk, name, serial}, `disk` the tap's index); `journal`: the welcome's list.

        Raises ProtocolError when the list cannot be used.
        """
        listed = _read(journal)
        tapped = [_Known(disk["name"], disk.get("serial"), disk["disk"]) for disk in disks]
        found = _match(tapped, listed)
        self.known = len(found) == len(tapped)
        fresh = max((entry.number for entry in listed), default=-1) + 1
        for disk in sorted(tapped, key=lambda one: one.number):
            if disk.number not in found:
                found[disk.number] = fresh
                fresh += 1
        if fresh > MAX_NUMBER + 1:
            raise ProtocolError("the journal has no number left for another disk")
        self.of: dict[int, int] = found
        self._back = {number: index for index, number in found.items()}

    def numbered(self, disks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return descriptions of tapped disks with the journal's numbers."""
        return [{**disk, "disk": self.of[disk["disk"]]} for disk in disks]

    def local_cursor(self, cursor: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """Return a cursor of the journal with the tap's index for its disk.

        None, which means the beginning, for a disk that is not tapped: to send again is always right.
        """
        index = self._back.get(cursor["disk"]) if cursor is not None else None
        return {**cursor, "disk": index} if cursor is not None and index is not None else None


def _match(tapped: Sequence[_Known], listed: Sequence[_Known]) -> dict[int, int]:
    """Give disks that the journal knows their numbers, each at most once; of several the newest number."""
    found: dict[int, int] = {}
    newest_first = sorted(listed, key=lambda entry: -entry.number)
    for same in _RULES:
        for disk in tapped:
            if disk.number in found:
                continue
            free = (e.number for e in newest_first if e.number not in found.values() and same(disk, e))
            number = next(free, None)
            if number is not None:
                found[disk.number] = number
    return found


def _read(journal: object) -> list[_Known]:
    if journal is None:
        return []
    try:
        entries = [_Known(e["name"], e.get("serial"), e["disk"]) for e in journal]  # type: ignore[attr-defined]
    except (TypeError, KeyError, AttributeError) as error:
        raise ProtocolError(f"the appliance's list of disks cannot be read ({error!r})") from None
    for entry in entries:
        number, serial = entry.number, entry.serial
        right = isinstance(number, int) and not isinstance(number, bool) and 0 <= number <= MAX_NUMBER
        if not right or not isinstance(entry.name, str) or not isinstance(serial, (str, type(None))):
            raise ProtocolError("the appliance's list of disks cannot be read")
    return entries
