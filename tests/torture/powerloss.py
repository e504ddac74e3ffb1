"""Power loss: the journal's file system lies on a disk that our own tap captures; crash images are made of the stream.

The writer commits frames, forks, names points, upkeep thins; behind every return of such a call a mark with its number
goes into the captured order. In a crash image everything must be there whose mark came before the power failed.
"""

from __future__ import annotations

import pickle
import random
import shutil
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from guesttap.bpf import BpfTap
from journal.errors import NotAJournal
from journal.offline.check import check
from journal.reader import JournalReader
from journal.retention.policy import Policy
from journal.upkeep import upkeep
from journal.writer import JournalWriter
from tests.bpf.kit import Captured, Collector, LoopDisk
from tests.torture import places, verify
from tests.torture.crash import CrashDisk, save
from tests.torture.crash import places as crash_places
from tests.torture.local import LocalTap
from tests.torture.truth import Truth

DISK_BYTES = 64 << 20
RING_BYTES = 256 << 20
SEGMENT_BYTES = 384 << 10
JOURNAL = "journal"
FAR_FUTURE = 1 << 62
EVERYTHING_AT_ONCE = Policy(every_write=0, tiers=(), floor=0)


class Promise(NamedTuple):
    """What a mark stands for: the journal was made, all before `next_lsn` is durable, so many points have names."""

    next_lsn: int
    bookmarks: int
    forks: int


class PowerLoss:
    """One file system, one history, many power failures."""

    def __init__(self, folder: Path, kind: str, chance: random.Random) -> None:
        self.folder = folder
        self.kind = kind
        self.chance = chance
        self.seen: Counter[str] = Counter()
        self.promises: list[Promise] = []
        self.truth = Truth({})
        self.named: list[int] = []
        self.upkeeps: list[tuple[int, int]] = []
        """The marks before and after each."""

    def run(self, commits: int, images: int) -> None:
        """Write a journal with so many commits, then look at so many crash images of it."""
        disk = LoopDisk(self.folder / "disk.img", DISK_BYTES)
        try:
            places.make_file_system(self.kind, disk.path)
            content = disk.content()
            tap = BpfTap.attach([disk.path], RING_BYTES, places.pin_directory())
            try:
                tap.accounting()  # begins the accounts
                with Collector(tap) as collected:
                    self._write(disk, tap, commits)
                assert tap.lost() == 0, "the tap could not capture everything: nothing is shown"
                assert tap.accounting(5).balanced, (
                    f"the tap missed writes, nothing is shown: {tap.counters()}"
                )
                masks = tap.opf_masks
            finally:
                tap.detach()
        finally:
            disk.close()
        self._fail(
            CrashDisk(content, collected.records, masks, places.TEAR_BYTES[self.kind]),
            collected.records,
            images,
        )

    def _write(self, disk: LoopDisk, tap: BpfTap, commits: int) -> None:
        with places.mounted(disk.path, self.kind, self.folder / "mounted") as place:
            writer = JournalWriter.create(place / JOURNAL, "web01", segment_bytes=SEGMENT_BYTES)
            self._promise(tap, Promise(1, 0, 0))
            guest = LocalTap(writer, self.chance.getrandbits(32))
            self.truth = guest.truth
            guest.connect()
            for number in range(commits):
                while not guest.ring or self.chance.random() < 0.6:
                    guest.step()
                guest.deliver()
                self._promise(tap, self.promises[-1]._replace(next_lsn=guest.acked_lsn))
                if number % 12 == 11 and guest.sync_end_acknowledged:
                    self._name_and_fork(tap, writer, guest.acked_lsn - 1)
                if number % 25 == 24:
                    done = upkeep(writer.folder, FAR_FUTURE, default=EVERYTHING_AT_ONCE, vouched=True)
                    assert not done.problems, done.problems
                    self.seen["net segments made"] += len(done.retention.done)
                    self.upkeeps.append((len(self.promises) - 1, len(self.promises)))
                    self._promise(tap, self.promises[-1])
                if number % 40 == 39:
                    writer.close()
                    writer = guest.writer = JournalWriter.open(writer.folder, segment_bytes=SEGMENT_BYTES)
            writer.close()

    def _name_and_fork(self, tap: BpfTap, writer: JournalWriter, lsn: int) -> None:
        last = self.promises[-1]
        writer.bookmark(lsn, f"b{last.bookmarks}")
        self.named.append(lsn)
        last = last._replace(bookmarks=last.bookmarks + 1)
        self._promise(tap, last)
        if last.bookmarks % 2:
            writer.fork(lsn, f"f{last.forks}")
            self._promise(tap, last._replace(forks=last.forks + 1))

    def _promise(self, tap: BpfTap, promise: Promise) -> None:
        self.promises.append(promise)
        tap.mark(len(self.promises) - 1)

    def _fail(self, disk: CrashDisk, stream: list[Captured], images: int) -> None:
        path = self.folder / "crash.img"
        for place in crash_places(stream, self.chance, images, self.upkeeps):
            disk.advance(place)
            path.unlink(missing_ok=True)  # a loop device that cannot go yet keeps the old one
            save(disk.image(self.chance), path)
            promise = self.promises[disk.newest_mark] if disk.newest_mark >= 0 else None
            self.seen["images"] += 1
            try:
                image = self._recovered(path)
                with places.mounted_image(image, self.kind, self.folder / "crashed") as mounted:
                    self._look(mounted / JOURNAL, promise)
            except verify.Lost as lost:
                where = f"{self.kind}, power failed at record {place} of {len(stream)}"
                raise verify.Lost(f"{where}: {lost} (kept in {self._keep(disk, stream, place)})") from lost

    def _keep(self, disk: CrashDisk, stream: list[Captured], place: int) -> Path:
        """Keep what broke: with it the same image, and any other of this stream, can be made and looked at again."""
        kept = Path(tempfile.mkdtemp(prefix="lastwrite-broken-"))
        shutil.copy(self.folder / "crash.img", kept)
        pending = [(write.offset, len(write.data), write.sure) for write in disk.pending]
        story = {"stream": stream, "place": place, "promises": self.promises, "pending": pending}
        (kept / "stream.pickle").write_bytes(pickle.dumps(story | {"durable": disk.durable}))
        return kept

    def _recovered(self, path: Path) -> Path:
        """Let e2fsck replay ext4's journal, as at boot; XFS replays when it is mounted."""
        if self.kind == "ext4":
            done = subprocess.run(["e2fsck", "-p", str(path)], capture_output=True, text=True, timeout=60)
            if done.returncode > 1:
                self.seen["repaired by e2fsck -y"] += 1
                done = subprocess.run(
                    ["e2fsck", "-fy", str(path)], capture_output=True, text=True, timeout=60
                )
            assert done.returncode <= 1, done.stdout
        return path

    def _look(self, folder: Path, promise: Promise | None) -> None:
        if promise is None:
            self.seen["before the journal was made"] += 1
            try:
                JournalReader(folder)
            except NotAJournal:
                return
        promise = promise or Promise(1, 0, 0)
        for state in ("as found", "opened by a writer"):
            reader = JournalReader(folder)
            verify.require(
                reader.next_lsn >= promise.next_lsn,
                f"{state}: LSN {promise.next_lsn - 1} was acknowledged, the newest is {reader.next_lsn - 1}",
            )
            self._look_at_points(reader, promise)
            self._look_at_damage(folder, promise, state)
            if state == "as found":
                JournalWriter.open(folder).close()

    def _look_at_points(self, reader: JournalReader, promise: Promise) -> None:
        names = {cut.label for cut in reader.cuts() if not cut.number}
        verify.require(
            names >= {f"b{number}" for number in range(promise.bookmarks)}, f"a bookmark is missing: {names}"
        )
        forks = len(reader.timelines()) - 1
        verify.require(forks >= promise.forks, f"{promise.forks} forks were made, {forks} are there")
        valid = {epoch.number for epoch in reader.epochs() if epoch.valid_from is not None}
        named = set(self.named[: promise.bookmarks])
        named = set(self.chance.sample(sorted(named), min(len(named), 2)))
        history = reader.lineage().history
        for lsn in {*named, *verify.samples(self.chance, self.truth, promise.next_lsn, 1)}:
            epoch = self.truth.epoch_at(lsn)
            if not epoch or not (epoch.number in valid or self._is_promised(epoch.valid_from, promise)):
                continue
            if lsn not in named and not history.thinned.allows(lsn):
                self.seen["points that were thinned"] += 1
                continue
            verify.served(reader, self.truth, lsn)
            self.seen["points compared"] += 1

    @staticmethod
    def _is_promised(valid_from: int | None, promise: Promise) -> bool:
        """Whether a record after the sync-end was acknowledged, and the sync-end with it."""
        return valid_from is not None and valid_from + 1 < promise.next_lsn

    def _look_at_damage(self, folder: Path, promise: Promise, state: str) -> None:
        """Frames that were never acknowledged may be damage (when later ones came through), no others."""
        report = check(folder)
        self.seen["images with damage among what was not acknowledged"] += (
            bool(report.damaged) and state == "as found"
        )
        verify.require_clean(report, promise.next_lsn)
