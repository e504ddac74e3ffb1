"""Damage to the files of a journal: bits flipped, blocks zeroed, segments cut short, removed, exchanged.

After each: a check names the damaged file, no point is served wrong, and every point that needs nothing of what was
damaged is served right, both for a reader and after a writer has opened the journal.
"""

from __future__ import annotations

import random
import shutil
from bisect import bisect_right
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from journal.errors import DamagedJournal
from journal.frame import FrameError, parse_header
from journal.offline.check import check
from journal.reader import JournalReader
from journal.upkeep import upkeep
from journal.writer import JournalWriter
from tests.torture import verify
from tests.torture.local import LocalTap
from tests.torture.powerloss import EVERYTHING_AT_ONCE, FAR_FUTURE
from tests.torture.truth import Truth

SEGMENT_BYTES = 400 << 10
_HEADER, _FOOTER = 4096, 4096


class Where(NamedTuple):
    """What lies at an offset of a segment: LSNs [first, next) of a frame, and whether only its data is hit."""

    first_lsn: int
    next_lsn: int
    epoch: int
    payload: bool
    covered: bool = True
    """Whether a checksum covers it: zeros behind a sum are not data."""


class Segment(NamedTuple):
    """A segment as it was before: its frames' (offset, first payload byte, end, first LSN, next LSN, epoch)."""

    path: Path
    size: int
    sealed: bool
    first_lsn: int
    frames: list[tuple[int, int, int, int, int, int]]

    @property
    def last(self) -> tuple[int, int, int, int, int, int]:
        """The last frame."""
        return self.frames[-1]

    def at(self, offset: int) -> Where:
        """Return what lies at an offset."""
        first, next_lsn = self.first_lsn, self.last[4]
        if offset < _HEADER:
            return Where(next_lsn, next_lsn, 0, True, offset < 96 or self.sealed)
        if self.sealed and offset >= self.size - _FOOTER:
            return Where(next_lsn, next_lsn, 0, True, offset - (self.size - _FOOTER) < 64)
        index = bisect_right([frame[0] for frame in self.frames], offset) - 1
        _, payload, _, first, next_lsn, epoch = self.frames[index]
        # Notes stand behind the last record: without records, behind the one before.
        return Where(min(first, next_lsn - 1), next_lsn, epoch, offset >= payload)


def segments_of(folder: Path) -> list[Segment]:
    """Walk the segments of timeline 1, with no help of journal/ but the frame's header."""
    found = []
    paths = [path for end in ("seg", "net") for path in folder.glob(f"timelines/0001/*.{end}")]
    for path in sorted(paths):
        data, place, frames = path.read_bytes(), _HEADER, []
        while place < len(data) and data[place : place + 8] != b"LWEND001":
            try:
                head = parse_header(data[place : place + 64])
            except FrameError:  # damaged before: on to the next block
                place += _HEADER
                continue
            end = place + head.frame_bytes
            frames.append((place, place + head.head_bytes, end, head.first_lsn, head.next_lsn, head.epoch))
            place = end
        sealed = data[place : place + 8] == b"LWEND001"
        found.append(Segment(path, len(data), sealed, int(path.stem[:20]), frames))
    return found


class DamageTrial:
    """One journal, damaged in many ways, each time anew."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.chance = chance
        self.original = folder / "original"
        self.copy = folder / "damaged"
        self.seen: Counter[str] = Counter()
        self.truth = self._make()
        self.segments = segments_of(self.original)
        history = JournalReader(self.original).lineage().history
        self.thinned = {lsn for lsn in range(history.last_lsn + 1) if not history.thinned.allows(lsn)}

    def _make(self) -> Truth:
        """Several epochs: with a full sync, with bitmaps, a tap that was attached anew; a point has a name."""
        with JournalWriter.create(self.original, "web01", segment_bytes=SEGMENT_BYTES) as writer:
            tap = LocalTap(writer, self.chance.getrandbits(32))
            for attachment in range(4):
                tap.connect()
                tap.run_until_valid()
                tap.run(120)
                if attachment < 2:
                    writer.bookmark(tap.acked_lsn - 1, f"after {attachment}")
                if attachment == 1:
                    upkeep(self.original, FAR_FUTURE, default=EVERYTHING_AT_ONCE, vouched=True)
                if attachment == 1:
                    tap.reattach()
                    tap.begin(writer.epoch + 1, writer.next_lsn, False)
                    tap.appended = tap.resume
                    tap.run_until_valid()
                    tap.run(60)
            tap.run(20)
        return tap.truth

    def run(self, trials: int) -> None:
        """Damage the journal so many times."""
        kinds = [self._bits, self._bits, self._bits, self._zeros, self._cut_short, self._removed, self._meta]
        for number in range(trials):
            shutil.rmtree(self.copy, ignore_errors=True)
            shutil.copytree(self.original, self.copy)
            kinds[number % len(kinds)]()

    def _path(self, segment: Segment) -> Path:
        return self.copy / segment.path.relative_to(self.original)

    def _bits(self) -> None:
        segment = self.chance.choice(self.segments)
        place = self.chance.randrange(segment.size)
        if self.chance.random() < 0.5:  # heads are few among the data
            frame = self.chance.choice(segment.frames)
            place = self.chance.randrange(frame[0], frame[1])
        data = bytearray(self._path(segment).read_bytes())
        data[place] ^= 1 << self.chance.randrange(8)
        self._path(segment).write_bytes(data)
        self._look(f"bit flipped at {place} of {segment.path.name}", segment, segment.at(place))
        self.seen["a bit flipped"] += 1

    def _zeros(self) -> None:
        segment = self.chance.choice(self.segments)
        block = self.chance.randrange(_HEADER, segment.size, 4096)
        data = bytearray(self._path(segment).read_bytes())
        same = not any(data[block : block + 4096])
        data[block : block + 4096] = bytes(4096)
        self._path(segment).write_bytes(data)
        where = segment.at(block)._replace(covered=not same)
        self._look(f"block zeroed at {block} of {segment.path.name}", segment, where)
        self.seen["a block zeroed"] += 1

    def _cut_short(self) -> None:
        segment = self.chance.choice(self.segments[:-1])
        frame = self.chance.choice(segment.frames)
        place = self.chance.randrange(frame[0], frame[2])
        with self._path(segment).open("r+b") as file:
            file.truncate(place)
        first_lsn = min(frame[3], frame[4] - 1)  # where its notes stand, when it has no record
        where = Where(first_lsn, segment.last[4], segment.last[5], False)
        self._look(f"{segment.path.name} cut short at {place}", segment, where)
        self.seen["a segment cut short"] += 1

    def _removed(self) -> None:
        segment = self.chance.choice(self.segments[:-1])
        if self.chance.random() < 0.5:
            self._path(segment).unlink()
            what = "removed"
        else:
            other = self.chance.choice([s for s in self.segments if s is not segment])
            shutil.copyfile(other.path, self._path(segment))
            what = f"replaced by {other.path.name}"
        where = Where(segment.first_lsn, segment.last[4], segment.last[5], False)
        self._look(f"{segment.path.name} {what}", segment, where)
        self.seen["a segment removed or exchanged"] += 1

    def _meta(self) -> None:
        name = self.chance.choice(("meta.log", "JOURNAL"))
        path = self.copy / name
        data = bytearray(path.read_bytes())
        place = self.chance.randrange(len(data))
        data[place] ^= 1 << self.chance.randrange(8)
        path.write_bytes(data)
        self.seen["a bit flipped in the metadata"] += 1
        try:
            reader = JournalReader(self.copy)
        except DamagedJournal:
            verify.require(name == "JOURNAL", "a bit in the metadata log makes a journal useless")
            return
        except Exception as error:
            verify.require(name == "JOURNAL" and getattr(error, "code", "") == "journal-format", repr(error))
            return
        if name == "JOURNAL" and reader.journal_id != JournalReader(self.original).journal_id:
            return  # another identity: every segment is foreign, and said to be so
        for lsn in {*verify.samples(self.chance, self.truth, reader.next_lsn, 1)} - self.thinned:
            verify.served(reader, self.truth, lsn)

    def _look(self, what: str, segment: Segment, where: Where) -> None:
        try:
            self._look_once(segment, where)
            JournalWriter.open(self.copy).close()
            self._look_once(segment, where, writer_was_here=True)
        except verify.Lost as lost:
            raise verify.Lost(f"{what} ({where}): {lost}") from lost

    def _look_once(self, segment: Segment, where: Where, writer_was_here: bool = False) -> None:
        reader = JournalReader(self.copy)
        report = check(self.copy)
        in_tail = segment is self.segments[-1] and where.next_lsn == segment.last[4] and where.epoch > 0
        if where.covered and not in_tail:
            paths = {damage.path for damage in report.damaged}
            verify.require(bool(paths), "the check finds nothing")
        elif where.covered and not writer_was_here:
            verify.require(
                report.torn_bytes > 0 or bool(report.damaged), "the check finds nothing in the tail"
            )
        for lsn in verify.samples(self.chance, self.truth, self.segments[-1].last[4], 6):
            for disk in self.truth.sizes:
                good = verify.served_or_refused(reader, self.truth, lsn, disk)
                self.seen["served" if good else "refused"] += 1
                cut_off = (
                    writer_was_here and in_tail and lsn >= where.first_lsn
                )  # as a frame never acknowledged
                if not good and not cut_off and not self._may_refuse(where, lsn, disk):
                    verify.served(reader, self.truth, lsn)

    def _may_refuse(self, where: Where, lsn: int, disk: int) -> bool:
        """Whether a point needs what was damaged."""
        if lsn in self.thinned:
            return True
        if not where.covered or where.epoch == 0 or lsn < where.first_lsn:
            return False
        if self.truth.whole_since(lsn) > where.epoch:
            return False
        owners = self.truth.owners(lsn, disk)
        return not where.payload or bool(((owners >= where.first_lsn) & (owners < where.next_lsn)).any())
