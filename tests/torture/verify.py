"""What must hold of a journal after whatever was done to it. Compares with the truth; loosens nothing."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from journal.errors import NotRecoverable
from journal.frame import FrameError, parse_header
from journal.history import Damage
from journal.offline.check import CheckReport, check
from journal.reader import JournalReader
from lastwrite.errors import LastwriteError
from tests.torture.truth import Truth


class Lost(AssertionError):
    """A durability rule is broken."""


def require(holds: bool, what: str) -> None:
    """Raise Lost with `what` unless it holds."""
    if not holds:
        raise Lost(what)


def stored_frames(folder: Path) -> Counter[bytes]:
    """Return the bytes of every whole frame in the plain segments, found with no help of journal/."""
    found: Counter[bytes] = Counter()
    for path in folder.glob("timelines/*/*.seg"):
        data = path.read_bytes()
        for place in range(4096, len(data), 4096):  # not from frame to frame: one may be damaged
            if data[place : place + 4] == b"LWF1":
                try:
                    length = parse_header(data[place : place + 64]).frame_bytes
                except FrameError:
                    continue
                found[data[place : place + length]] += 1
    return found


def require_frames(folder: Path, acknowledged: Iterable[bytes]) -> None:
    """Every acknowledged frame lies in the files, bit for bit and once."""
    stored = stored_frames(folder)
    for frame in acknowledged:
        lsn = parse_header(frame).first_lsn
        require(
            stored[frame] == 1, f"the frame at LSN {lsn} was acknowledged and is there {stored[frame]} times"
        )


def samples(chance: random.Random, truth: Truth, before_lsn: int, count: int) -> list[int]:
    """Return recovery points before an LSN: the ends of the newest epoch and some others."""
    spans = truth.points(before_lsn)
    if not spans:
        return []
    chosen = {spans[-1][0], spans[-1][1]}
    for _ in range(count):
        first, last = chance.choice(spans)
        chosen.add(chance.randint(first, last))
    return sorted(chosen)


def served(reader: JournalReader, truth: Truth, lsn: int) -> None:
    """Every disk at a point is just what it was."""
    expected = truth.state(lsn)
    for disk, image in expected.items():
        try:
            found = reader.resolve(lsn, disk).read(0, len(image))
        except LastwriteError as error:
            raise Lost(f"disk {disk} at LSN {lsn} is not served: {error.message}") from error
        same(found, image, f"disk {disk} at LSN {lsn}")


def served_or_refused(reader: JournalReader, truth: Truth, lsn: int, disk: int) -> bool:
    """A disk at a point is right or is refused; return whether it was served. Never wrong."""
    image = truth.state(lsn)[disk]
    try:
        found = reader.resolve(lsn, disk).read(0, len(image))
    except LastwriteError:
        return False
    same(found, image, f"disk {disk} at LSN {lsn}")
    return True


def same(found: bytes, image: bytes, what: str) -> None:
    """Two images are equal."""
    if found != image:
        pairs = enumerate(zip(found, image, strict=False))
        place = next((at for at, (one, two) in pairs if one != two), min(len(found), len(image)))
        raise Lost(f"{what} is wrong from byte {place} on")


def opened(folder: Path, acked_lsn: int) -> JournalReader:
    """Return a reader; the journal reaches as far as was acknowledged."""
    reader = JournalReader(folder)
    newest = reader.next_lsn - 1
    require(newest >= acked_lsn - 1, f"LSN {acked_lsn - 1} was acknowledged, the newest is {newest}")
    return reader


def whole(folder: Path, truth: Truth, acked_lsn: int, chance: random.Random, count: int = 4) -> JournalReader:
    """A journal that nobody damaged: it opens, has all that was acknowledged, serves its points, checks clean."""
    reader = opened(folder, acked_lsn)
    valid = {epoch.number for epoch in reader.epochs() if epoch.valid_from is not None}
    for epoch in truth.epochs:
        require(epoch.number in valid or not epoch.certain, f"epoch {epoch.number} is not valid any more")
    truth.settle(valid)
    newest_counts = truth.epochs and truth.epochs[-1].number in valid
    points = samples(chance, truth, reader.next_lsn, count)
    for lsn in points:
        if newest_counts or truth.epoch_at(lsn) is not truth.epochs[-1]:
            served(reader, truth, lsn)
    require_clean(check(folder))
    return reader


def require_clean(report: CheckReport, from_lsn: int | None = None) -> None:
    """A check finds no damage (none before an LSN)."""
    bad = [d for d in report.damaged if from_lsn is None or d.first_lsn < from_lsn]
    require(not bad, f"damage is reported where there is none: {bad}")


def named(report: CheckReport, path: Path, place: int, end: int) -> list[Damage]:
    """Return the damage that a check names in a file between two offsets."""
    return [d for d in report.damaged if d.path == path and place <= d.offset < end]


def refusal(reader: JournalReader, lsn: int) -> NotRecoverable | None:
    """Return why an LSN is no recovery point, None when it is one."""
    try:
        reader.point(lsn)
    except NotRecoverable as error:
        return error
    return None
