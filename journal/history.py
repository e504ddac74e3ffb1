"""What the notes of a lineage mean: epochs, cuts, and the ranges of LSNs that can be recovered to. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from journal.errors import NotRecoverable
from journal.notes import ADDING_SYNCS, CutNote, EpochNote, GapNote, JournalDisk, SyncNote
from journal.scan import PlacedNote
from journal.thinned import Thinned


@dataclass(frozen=True, slots=True)
class Epoch:
    """A stretch without a gap. `begins`: the LSN that its note stands after; times in ns of the source."""

    number: int
    order: str
    reason: str
    sync: str
    generation: int
    begins: int
    valid_from: int | None
    last_lsn: int
    gap_reason: str | None
    disks: tuple[JournalDisk, ...]
    boot: str
    wall: int
    mono: int

    @property
    def is_base(self) -> bool:
        """Whether it is valid and its sync sent every block: a point needs nothing older."""
        return self.valid_from is not None and self.sync not in ADDING_SYNCS


@dataclass(frozen=True, slots=True)
class Cut:
    """A mark at one place of the order of all disks. `number` 0: a bookmark that was made after the fact."""

    number: int
    lsn: int
    kind: str
    label: str | None
    consistency: str
    wall: int
    mono: int
    offset: int | None
    frozen: int | None
    epoch: int
    coordinates: dict[str, Any] | None = None

    @classmethod
    def of(cls, note: CutNote, *, lsn: int, epoch: int) -> Cut:
        """Return the cut that `note` makes at its place."""
        return cls(
            number=note.number,
            lsn=lsn,
            kind=note.kind,
            label=note.label,
            consistency=note.consistency,
            wall=note.wall,
            mono=note.mono,
            offset=note.offset,
            frozen=note.frozen,
            epoch=epoch,
            coordinates=note.coordinates,
        )


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes that are no correct frames any more. `lost`: which blocks they held is unknown too."""

    timeline: int
    first_lsn: int
    next_lsn: int
    path: Path
    offset: int
    reason: str
    low_epoch: int = 0
    high_epoch: int = 0
    lost: bool = True


class Span(NamedTuple):
    """The LSNs of one epoch that are recovery points, both ends included."""

    first: int
    last: int
    epoch: int


class History:
    """Epochs, cuts and recoverable spans of one lineage (a timeline with its ancestors up to their forks)."""

    def __init__(
        self,
        notes: Iterable[PlacedNote],
        last_lsn: int,
        damage: Sequence[Damage],
        before: History | None = None,
        thinned: Thinned | None = None,
    ) -> None:
        """`notes` follow those of `before`, which stays as it is. `clocks`: mono, wall, mono, wall, ... by epoch."""
        self.last_lsn = last_lsn
        self.thinned = thinned or Thinned()
        self.epochs: list[Epoch] = list(before.epochs) if before else []
        self.cuts: list[Cut] = list(before.cuts) if before else []
        self.cursors: dict[int, SyncNote] = dict(before.cursors) if before else {}
        self.clocks: dict[int, array[int]] = dict(before.clocks) if before else {}
        if self.clocks:
            newest = max(self.clocks)
            self.clocks[newest] = self.clocks[newest][:]
        for placed in notes:
            self._take(placed)
        if self.epochs and self.epochs[-1].gap_reason is None:
            self.epochs[-1] = replace(self.epochs[-1], last_lsn=last_lsn)
        self.damage = [d for d in damage if d.lost and not self._harmless(d)]
        self.spans = [span for span in map(self._span, self.epochs) if span is not None]

    def _take(self, placed: PlacedNote) -> None:
        lsn, number, note = placed
        if isinstance(note, EpochNote):
            self._begin(lsn, note)
        elif isinstance(note, CutNote):
            self._cut(lsn, number, note)
        elif isinstance(note, SyncNote):
            self.cursors[number] = note
        elif isinstance(note, GapNote) and self.epochs and self.epochs[-1].number == number:
            self.epochs[-1] = replace(self.epochs[-1], last_lsn=lsn, gap_reason=note.reason)
        self.clocks.setdefault(number, array("q")).extend((note.mono, note.wall))

    def _begin(self, lsn: int, note: EpochNote) -> None:
        if self.epochs and self.epochs[-1].gap_reason is None:
            self.epochs[-1] = replace(self.epochs[-1], last_lsn=lsn)
        said = (note.epoch, note.order, note.reason, note.sync, note.generation)
        self.epochs.append(Epoch(*said, lsn, None, lsn, None, note.disks, note.boot, note.wall, note.mono))

    def _cut(self, lsn: int, number: int, note: CutNote) -> None:
        self.cuts.append(Cut.of(note, lsn=lsn, epoch=number))
        last = self.epochs[-1] if self.epochs else None
        if note.kind == "sync-end" and last and last.number == number and last.valid_from is None:
            self.epochs[-1] = replace(last, valid_from=lsn)

    def _harmless(self, damage: Damage) -> bool:
        # No record was lost, and the epoch is known to be valid: at most a tick or a cursor is missing.
        if damage.first_lsn != damage.next_lsn or damage.low_epoch != damage.high_epoch:
            return False
        return any(e.number == damage.low_epoch and e.valid_from is not None for e in self.epochs)

    def base(self, epoch: Epoch) -> int:
        """Return the oldest epoch that points of `epoch` need: the newest valid one that sent every block."""
        whole = [e.number for e in self.epochs if e.number <= epoch.number and e.is_base]
        return max(whole, default=0)

    def first_damage(self, epoch: Epoch) -> int | None:
        """Return the first LSN that what is lost among the epochs that points of `epoch` need takes away from it.

        All of the epoch when an earlier one lost something, notes alone too: another's points may share their LSN.
        """
        base = self.base(epoch)
        needed = [d for d in self.damage if d.high_epoch >= base and d.low_epoch <= epoch.number]
        hit = [min(d.first_lsn, epoch.begins) if d.low_epoch < epoch.number else d.first_lsn for d in needed]
        return min(hit, default=None)

    def _span(self, epoch: Epoch) -> Span | None:
        if epoch.valid_from is None:
            return None
        lost = self.first_damage(epoch)
        last = epoch.last_lsn if lost is None else min(epoch.last_lsn, lost - 1)
        return Span(epoch.valid_from, last, epoch.number) if last >= epoch.valid_from else None

    def epoch(self, number: int) -> Epoch | None:
        """Return the epoch of that number, None when its note is not there."""
        return next((e for e in self.epochs if e.number == number), None)

    def layers(self, epoch: Epoch) -> list[int]:
        """Return the numbers of the epochs whose records make a point of `epoch`, oldest first.

        They begin with the newest that sent every block: nothing older shows through.
        """
        base = self.base(epoch)
        return [
            e.number for e in self.epochs if e.valid_from is not None and base <= e.number <= epoch.number
        ]

    def is_point(self, lsn: int) -> bool:
        """Return whether there is an exact state at `lsn`."""
        span = self._span_at(lsn)
        return span is not None and self._allowed(span, lsn)

    def _span_at(self, lsn: int) -> Span | None:
        return next((s for s in reversed(self.spans) if s.first <= lsn <= s.last), None)

    def _allowed(self, span: Span, lsn: int) -> bool:
        if not self.thinned.allows(lsn):
            return False
        return self._exact(span) or any(c.lsn == lsn and c.epoch == span.epoch for c in self.cuts)

    def _exact(self, span: Span) -> bool:
        epoch = self.epoch(span.epoch)
        return epoch is not None and epoch.order != "cycle"

    def require(self, lsn: int) -> Epoch:
        """Return the epoch whose state a point is in. Raises NotRecoverable with the nearest points."""
        span = self._span_at(lsn)
        epoch = self.epoch(span.epoch) if span else None
        if span is None or epoch is None or not self._allowed(span, lsn):
            raise self.refusal(lsn)
        return epoch

    def refusal(self, lsn: int) -> NotRecoverable:
        """Return the error that says why there is no exact state at `lsn`."""
        before, after = self.before(lsn), self.after(lsn)
        near = f"nearest before: {before}, nearest after: {after}".replace("None", "none")
        return NotRecoverable(
            f"LSN {lsn} cannot be recovered to: {self._why(lsn)} ({near})",
            lsn=lsn,
            before=before,
            after=after,
        )

    def damaged(self, lsn: int, damage: Damage) -> NotRecoverable:
        """Return the error that says that a point needs data which is known to be damaged."""
        before = self.before(damage.first_lsn)
        what = f"it needs LSN {damage.first_lsn} to {damage.next_lsn - 1}, damaged in {damage.path}"
        return NotRecoverable(
            f"LSN {lsn} cannot be recovered to: {what} ({damage.reason}); nearest before: {before}",
            lsn=lsn,
            before=before,
            after=None,
        )

    def _why(self, lsn: int) -> str:
        if lsn > self.last_lsn:
            return f"the newest LSN is {self.last_lsn}"
        epoch = next((e for e in reversed(self.epochs) if e.begins < lsn), None)
        if epoch is None:
            return "it lies before the first record"
        lost = self.first_damage(epoch)
        if lost is not None and lost <= lsn:
            return f"it needs records from LSN {lost} on that are damaged"
        if epoch.valid_from is None or lsn < epoch.valid_from:
            return f"the sync of epoch {epoch.number} had not ended"
        if lsn > epoch.last_lsn:
            return f"it lies in a gap ({epoch.gap_reason})"
        if not self.thinned.allows(lsn):
            return "only kept cuts are left of that time"
        return "this tap is exact at cuts only"

    def before(self, lsn: int) -> int | None:
        """Return the newest recovery point before `lsn`."""
        found = [self._newest(span, min(span.last, lsn - 1)) for span in self.spans]
        return max((p for p in found if p is not None), default=None)

    def after(self, lsn: int) -> int | None:
        """Return the oldest recovery point after `lsn`."""
        found = [self._oldest(span, max(span.first, lsn + 1)) for span in self.spans]
        return min((p for p in found if p is not None), default=None)

    def _newest(self, span: Span, last: int) -> int | None:
        """Return the newest point of a span up to `last`."""
        if not self._exact(span):
            return max((p for p in self._cut_points(span) if p <= last), default=None)
        point = self.thinned.at_or_before(last)
        return point if span.first <= point <= last else None

    def _oldest(self, span: Span, first: int) -> int | None:
        """Return the oldest point of a span from `first` on."""
        if not self._exact(span):
            return min((p for p in self._cut_points(span) if p >= first), default=None)
        point = self.thinned.at_or_after(first)
        return point if first <= point <= span.last else None

    def _cut_points(self, span: Span) -> list[int]:
        lsns = [c.lsn for c in self.cuts if c.epoch == span.epoch and span.first <= c.lsn <= span.last]
        return [lsn for lsn in lsns if self.thinned.allows(lsn)]

    def latest(self) -> int | None:
        """Return the newest LSN that is a recovery point."""
        return self.before(self.last_lsn + 1)
