"""A journal beside a plain dictionary: what the state machine does to both, and what must hold.

The dictionary keeps, for each timeline, every disk at each LSN that is a point. It knows nothing of frames or files.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import NamedTuple

from journal import layout, pins
from journal.frame import CAPTURED, DISCARD, SECTOR, SYNC, WRITE, ZERO, FrameBuilder
from journal.offline.check import check
from journal.reader import JournalReader
from journal.retention.thin import Done
from journal.retention.timelines import prune_timeline
from journal.upkeep import upkeep
from journal.writer import JournalWriter
from tests.journal.tap import Images, Tap
from tests.journal.thinning import EVERYTHING_AT_ONCE, NOW, check_what_is_left, interval_ends, thin_somewhere

DISKS = {0: 6 * 4096, 3: 11 * SECTOR}
SEGMENT_BYTES = 40_000
Block = tuple[int, int]


class Saved(NamedTuple):
    """A line as it was after a frame, so that a crash can go back to it."""

    position: int
    next_lsn: int
    valid: bool
    newest_point: int


class Line:
    """A timeline: its guest's disks as they are, and every disk at each LSN that is, or was, a point."""

    def __init__(self, number: int, images: Images, expected: dict[int, Images], refused: set[int]) -> None:
        self.number = number
        self.images = {disk: bytearray(image) for disk, image in images.items()}
        self.expected = expected
        self.refused = refused
        self.valid = False
        self.saved: list[Saved] = []

    def copy(self) -> Images:
        """The disks as they are."""
        return {disk: bytes(image) for disk, image in self.images.items()}

    def dirty(self) -> set[Block]:
        """The blocks in which the disks differ from the newest point."""
        newest = self.expected[max(self.expected)]
        return {
            (disk, block)
            for disk, image in self.images.items()
            for block in range(-(-len(image) // 4096))
            if image[block * 4096 : block * 4096 + 4096] != newest[disk][block * 4096 : block * 4096 + 4096]
        }


class Machine:
    """A journal, its writer (on one timeline at a time) and the dictionary."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        self.folder = folder / "journal-0"
        self.writer = JournalWriter.create(self.folder, "web01", segment_bytes=SEGMENT_BYTES)
        self.tap = Tap(self.writer, DISKS)
        self.lines = {1: Line(1, {disk: bytes(size) for disk, size in DISKS.items()}, {}, set())}
        self.parents: dict[int, tuple[int, int]] = {}
        self.needed: dict[str, tuple[int, int]] = {}
        """What must be kept, by a name of it: (timeline, LSN)."""
        self.gone: dict[int, set[int]] = {1: set()}
        self.acknowledged = 1
        self.sizes: dict[Path, int] = {}
        self.crashes = 0
        self.commit()

    @property
    def line(self) -> Line:
        """The timeline that is being written."""
        return self.lines[self.writer.timeline]

    # --- what a tap does

    def write(self, choices: random.Random) -> None:
        """A frame of a few captured writes; each makes a point."""
        line, builder, lsn = self.line, FrameBuilder(CAPTURED), self.writer.next_lsn
        for offset in range(choices.randint(1, 4)):
            self._add(builder, *self._guest_write(choices))
            line.expected[lsn + offset] = line.copy()
        if choices.random() < 0.3:
            builder.notes.append(self.tap.cut_note())
        self._send(builder)

    def _guest_write(self, choices: random.Random) -> tuple[int, int, int, bytes]:
        line = self.line
        disk = choices.choice(list(DISKS))
        total = DISKS[disk] // SECTOR
        start = choices.randrange(total)
        sectors = choices.randint(1, min(choices.choice((1, 8, 20)), total - start))
        kind = choices.choice((WRITE, WRITE, WRITE, DISCARD, ZERO))
        data = choices.randbytes(sectors * SECTOR) if kind == WRITE else bytes(sectors * SECTOR)
        line.images[disk][start * SECTOR : start * SECTOR + len(data)] = data
        return kind, disk, start, data

    def _add(self, builder: FrameBuilder, kind: int, disk: int, start: int, data: bytes) -> None:
        if kind == WRITE:
            builder.add_write(disk, start, data, self.tap.tick())
        else:
            builder.add_extent(kind, disk, start, len(data) // SECTOR, self.tap.tick())

    def _send(self, builder: FrameBuilder) -> None:
        self.tap.send(builder)
        self.save()

    def save(self) -> None:
        """Remember where the line stands after a frame."""
        line, writer = self.line, self.writer
        newest = max(line.expected, default=0)
        line.saved.append(Saved(writer.position, writer.next_lsn, line.valid, newest))

    def epoch(self, choices: random.Random, whole: bool) -> None:
        """An epoch begins and syncs, while captured writes wait and are sent; `whole`: its sync ends."""
        line, writer = self.line, self.writer
        base = writer.valid_base and choices.random() < 0.7
        every = {(disk, block) for disk, size in DISKS.items() for block in range(-(-size // 4096))}
        line.valid = False
        self.tap.begin(
            choices.choice(["bitmap", "delta"]) if base else "full" if writer.valid_base else "initial"
        )
        todo = sorted(line.dirty() if base else every)
        self.save()
        choices.shuffle(todo)
        waiting: list[tuple[int, int, int, bytes]] = []
        while todo and (whole or len(todo) > 2):
            what = choices.randrange(3)
            if what == 0:
                waiting.append(self._guest_write(choices))
            elif what == 1:
                self._unusable(waiting, choices.randint(0, len(waiting)))
            else:
                self._sync(todo, choices.randint(1, 5))
        if not whole:
            return
        self._unusable(waiting, len(waiting))
        self.tap.cut("sync-end")
        line.valid = True
        line.expected[writer.next_lsn - 1] = line.copy()
        self.save()

    def _unusable(self, waiting: list[tuple[int, int, int, bytes]], count: int) -> None:
        """Send captured writes before the sync's end: they make no points."""
        builder = FrameBuilder(CAPTURED)
        for record in waiting[:count]:
            self._add(builder, *record)
        del waiting[:count]
        self._refuse(builder.records)
        self._send(builder)

    def _sync(self, todo: list[Block], count: int) -> None:
        builder = FrameBuilder(SYNC)
        for disk, block in todo[:count]:
            data = bytes(self.line.images[disk][block * 4096 : block * 4096 + 4096])
            self._add(builder, WRITE if any(data) else ZERO, disk, block * 8, data)
        del todo[:count]
        self._refuse(builder.records)
        self._send(builder)

    def _refuse(self, count: int) -> None:
        first = self.writer.next_lsn
        self.line.refused |= set(range(first, first + count))

    def gap(self, choices: random.Random) -> None:
        """The epoch ends, and the guest writes what nobody captures."""
        self.tap.gap()
        self.line.valid = False
        self.save()
        for _ in range(choices.randrange(4)):
            self._guest_write(choices)

    # --- what an appliance does

    def commit(self) -> None:
        """Everything so far is acknowledged."""
        self.acknowledged, _ = self.writer.commit()
        self.sizes = {path: path.stat().st_size for path in self.folder.glob("timelines/*/*.seg")}
        self.line.saved = []
        self.save()

    def seal(self, choices: random.Random) -> None:
        """The next frame finds its segment full."""
        self.writer.segment_bytes = 1
        self.write(choices)
        self.writer.segment_bytes = SEGMENT_BYTES

    def points(self) -> list[int]:
        """The points of the line that is written which are kept and committed."""
        line = self.line
        return [lsn for lsn in sorted(self.kept(line)) if lsn < self.acknowledged]

    def bookmark(self, lsn: int) -> None:
        """A point gets a name."""
        self.commit()
        name = f"name-{len(self.needed)}"
        self.writer.bookmark(lsn, name)
        self.needed[name] = (self.writer.timeline, lsn)

    def pin(self, lsn: int) -> None:
        """A point is pinned."""
        self.commit()
        made = pins.pin(self.folder, self.writer.timeline, lsn, reason="a test", holder="test")
        self.needed[made.pin] = (self.writer.timeline, lsn)

    def unpin(self, pin_id: str) -> None:
        """A pin is given up."""
        pins.unpin(self.folder, pin_id)
        del self.needed[pin_id]

    def fork(self, lsn: int) -> None:
        """Another timeline begins at a point; its guest's disks are what they were there."""
        self.commit()
        line = self.line
        number = self.writer.fork(lsn, f"fork {len(self.parents)}")
        expected = {at: images for at, images in line.expected.items() if at <= lsn}
        refused = {at for at in line.refused if at <= lsn}
        self.lines[number] = Line(number, line.expected[lsn], expected, refused)
        self.parents[number] = (line.number, lsn)
        self.needed[f"fork {number}"] = (line.number, lsn)
        self.gone[number] = set()

    def switch(self, number: int) -> None:
        """The writer closes and goes on with another timeline."""
        self.commit()
        self.writer.close()
        self.open(number)

    def open(self, number: int) -> None:
        """A writer opens; an epoch that was open goes on if nothing of the guest's writes is missing."""
        self.writer = JournalWriter.open(self.folder, number, segment_bytes=SEGMENT_BYTES)
        former, self.tap = self.tap, Tap(self.writer, DISKS)
        self.tap.mono = former.mono
        if not self.writer.epoch_open:
            self.line.valid = False
        self.line.saved = []
        self.commit()

    def prune(self, number: int) -> None:
        """A timeline that nobody needs is given up."""
        prune_timeline(self.folder, number)
        del self.lines[number], self.gone[number], self.needed[f"fork {number}"], self.parents[number]

    def prunable(self) -> list[int]:
        """The timelines that nobody needs."""
        in_use = {parent for parent, _ in self.parents.values()} | {t for t, _ in self.needed.values()}
        return [n for n in self.lines if n not in in_use | {1, self.writer.timeline}]

    def thin(self, number: int, choices: random.Random) -> Done | None:
        """Some neighbouring files keep only some points, and those that must be kept."""
        self.commit()
        keep = {lsn for lsn in self.kept(self.lines[number]) if choices.random() < 0.4}
        done = thin_somewhere(self.folder, number, keep, choices)
        if done:
            ends = interval_ends(self.folder, number)[1]
            here = {lsn for lsn in keep if done.first_lsn <= lsn < done.next_lsn}
            assert here <= ends, "what was to be kept went away"
            self._note_gone()
        return done

    def fold(self) -> None:
        """Everything that may be thinned is, down to what must be kept; indexes and net maps are made."""
        self.commit()
        done = upkeep(self.folder, NOW, default=EVERYTHING_AT_ONCE, vouched=True)
        assert not done.problems, done.problems
        self._note_gone()

    def _note_gone(self) -> None:
        for number in self.lines:
            inside, ends = interval_ends(self.folder, number)
            self.gone[number] |= inside - ends
        for timeline, lsn in self.needed.values():
            assert lsn in self.kept(self.lines[timeline]), f"LSN {lsn} of {timeline} was needed"

    def crash(self, choices: random.Random) -> None:
        """The power fails: what was not acknowledged is there in part. The journal is opened again."""
        number, folder = self.writer.timeline, self.folder
        self.crashes += 1
        self.folder = self.root / f"journal-{self.crashes}"
        shutil.copytree(folder, self.folder)
        self.writer.close()
        shutil.rmtree(folder)
        files = layout.segments(self.folder, number)
        if files:
            self._tear(
                files[-1][1], self.sizes.get(folder / files[-1][1].relative_to(self.folder), 4096), choices
            )
        acknowledged, before = self.acknowledged, self.line
        saved = before.saved
        self.open(number)
        assert self.writer.next_lsn >= acknowledged, "what was acknowledged is gone"
        self._go_back(before, saved)

    def _tear(self, path: Path, durable: int, choices: random.Random) -> None:
        data = path.read_bytes()
        if len(data) <= durable:
            return
        place = choices.randint(durable, len(data))
        rest = choices.choice((b"", bytes(len(data) - place), choices.randbytes(len(data) - place)))
        path.write_bytes(data[:place] + rest)

    def _go_back(self, line: Line, saved: list[Saved]) -> None:
        """Forget what was sent and is not there; the guest's disks stay as they are."""
        there = [one for one in saved if one.position == self.writer.position]
        assert there, f"position {self.writer.position} was never sent"
        assert there[-1].next_lsn == self.writer.next_lsn
        kept = there[-1]
        line.expected = {lsn: images for lsn, images in line.expected.items() if lsn <= kept.newest_point}
        line.refused = {lsn for lsn in line.refused if lsn < kept.next_lsn}
        line.valid = kept.valid and kept is saved[-1] and self.writer.epoch_open
        line.saved = []
        self.save()

    # --- what must hold

    def kept(self, line: Line) -> set[int]:
        """The points that a line must give back."""
        return {lsn for lsn in line.expected if lsn not in self.gone[self._owner(line.number, lsn)]}

    def _owner(self, number: int, lsn: int) -> int:
        while number in self.parents and lsn <= self.parents[number][1]:
            number = self.parents[number][0]
        return number

    def check_newest(self) -> None:
        """The newest acknowledged point of the line that is written is right."""
        points = self.points()
        if points:
            reader = JournalReader(self.folder)
            for disk, image in self.line.expected[points[-1]].items():
                assert reader.resolve(points[-1], disk, self.writer.timeline).read(0, len(image)) == image

    def check_points(self, number: int) -> None:
        """Every point of a timeline is bit for bit right, no other is one, and the check finds nothing bad."""
        line = self.lines[number]
        kept = self.kept(line)
        history = JournalReader(self.folder).lineage(number).history
        assert {lsn for lsn in range(history.last_lsn + 1) if history.is_point(lsn)} == kept
        check_what_is_left(self.folder, number, line.expected, line.refused, kept)

    def check_all(self) -> None:
        """All of that for every timeline."""
        self.commit()
        for number in self.lines:
            self.check_points(number)
        report = check(self.folder)
        assert report.ok, report.damaged
