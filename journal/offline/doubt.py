"""Best effort at a point that needs what is lost: what can be had of it, and which bytes may be older than it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from journal.errors import NotRecoverable
from journal.frame import CAPTURED, NET_CAPTURED
from journal.history import Damage, History
from journal.map.blockmap import BlockMap
from journal.map.origin import by_file, indexes
from journal.map.resolve import resolve
from journal.notes import JournalDisk
from journal.reader import JournalReader, Lineage
from journal.table import Int64s


class Doubt(NamedTuple):
    """A range of a disk (bytes) whose content may be older than the point, and why."""

    offset: int
    length: int
    reason: str


class Loss(NamedTuple):
    """What is lost. Records newer than it: those of epochs after `epoch`, and its captured ones from `next_lsn` on."""

    epoch: int
    next_lsn: int
    reason: str


@dataclass(frozen=True)
class Effort:
    """What can be had of a point: the epochs that make it, its disks, what is lost of it, what was assumed."""

    lineage: Lineage
    lsn: int
    layers: list[int]
    disks: tuple[JournalDisk, ...]
    losses: list[Loss]
    assumed: list[str]

    def blocks(self, disk: JournalDisk) -> BlockMap:
        """Return the map of a disk made of what is there. Raises DiskTooLarge."""
        return resolve(self.lineage.sources, self.layers, self.lsn, disk.disk, disk.bytes)


def effort(reader: JournalReader, lsn: int, timeline: int) -> Effort:
    """Return what can be had of the state at `lsn`.

    Raises NotRecoverable where it is no damage that stands in the way: a gap, a sync that had not ended, a thinned
    stretch, an LSN that never was.
    """
    lineage = reader.lineage(timeline)
    history = lineage.history
    if history.is_point(lsn):
        epoch = history.require(lsn)
        return Effort(lineage, lsn, history.layers(epoch), epoch.disks, [], [])
    number = _epoch_at(lineage, lsn)
    if number is None or not history.thinned.allows(lsn):
        raise history.refusal(lsn)
    assumed: list[str] = []
    disks = _disks(history, number, assumed)
    losses = _losses(history, number, lsn)
    layers = _layers(lineage, number)
    known = history.epoch(number)
    if known is None or known.valid_from is None:
        reason = f"whether the sync of epoch {number} had ended is not known"
        assumed.append(f"the sync of epoch {number} had ended: the mark that says so is lost")
        losses.append(Loss(number - 1, _NEVER, reason))
    return Effort(lineage, lsn, layers, disks, losses, assumed)


_NEVER = (1 << 62) - 1


def newest_effort(lineage: Lineage) -> int:
    """Return the newest LSN of which something can be had. Raises NotRecoverable."""
    history = lineage.history
    lsns = {history.last_lsn, history.latest() or 0, *(epoch.last_lsn for epoch in history.epochs)}
    for lsn in sorted(lsns, reverse=True):
        if history.is_point(lsn) or (history.thinned.allows(lsn) and _epoch_at(lineage, lsn) is not None):
            return lsn
    raise history.refusal(history.last_lsn)


def _epoch_at(lineage: Lineage, lsn: int) -> int | None:
    """Return the epoch whose state at `lsn` damage hides, None when it is not damage that hides it."""
    history = lineage.history
    if lsn > history.last_lsn:
        return None
    numbers = [
        e.number for e in history.epochs if e.valid_from is not None and e.valid_from <= lsn <= e.last_lsn
    ]
    numbers += [d.high_epoch for d in history.damage if d.first_lsn <= lsn < d.next_lsn]
    for source in lineage.sources:
        frames = source.data.scan.frames.array()
        counted = (frames["first_lsn"] <= min(lsn, source.last_lsn)) & (frames["epoch"] <= source.last_epoch)
        there = frames["epoch"][counted & (frames["records"] > 0)]
        if len(there):
            numbers.append(int(there[-1]))
    number = max(numbers, default=None)
    epoch = history.epoch(number) if number is not None else None
    if number is None or (epoch and epoch.valid_from is not None and epoch.valid_from <= lsn):
        return number
    return number if _touched(history.damage, number) else None


def _touched(damage: Sequence[Damage], number: int) -> bool:
    return any(d.low_epoch <= number <= d.high_epoch for d in damage)


def _disks(history: History, number: int, assumed: list[str]) -> tuple[JournalDisk, ...]:
    """Return the disks of an epoch; when its note is lost, those of the nearest one. Raises NotRecoverable."""
    known = history.epoch(number)
    if known:
        return known.disks
    others = sorted(history.epochs, key=lambda e: (abs(e.number - number), e.number > number))
    if not others:
        message = "no note is left that tells the disks and their sizes"
        raise NotRecoverable(
            message, hint="Nothing can be restored from this journal alone.", before=None, after=None
        )
    assumed.append(f"the disks of epoch {number} are those of epoch {others[0].number}: its own note is lost")
    return others[0].disks


def _layers(lineage: Lineage, number: int) -> list[int]:
    history = lineage.history
    there: set[int] = {number}
    for source in lineage.sources:
        there |= set(np.unique(source.data.scan.frames.array()["epoch"]).tolist())
    valid = {e.number for e in history.epochs if e.valid_from is not None}
    usable = (n for n in there if n == number or n in valid or _touched(history.damage, n))
    return sorted(n for n in usable if n <= number)


def _losses(history: History, number: int, lsn: int) -> list[Loss]:
    base = max((e.number for e in history.epochs if e.number <= number and e.is_base), default=0)
    found = []
    for damage in history.damage:
        records = damage.next_lsn > damage.first_lsn
        if records and damage.first_lsn <= lsn and damage.high_epoch >= base and damage.low_epoch <= number:
            what = f"LSN {damage.first_lsn} to {damage.next_lsn - 1} are lost ({damage.reason})"
            found.append(Loss(damage.high_epoch, damage.next_lsn, what))
    return found


def doubts(found: Effort, blocks: BlockMap) -> list[Doubt]:
    """Return the ranges of a disk that something lost may have written last. Neighbours with one reason are joined."""
    if not found.losses:
        return []
    runs = np.array([(run.offset, run.length, run.place) for run in blocks.runs()], np.int64).reshape(-1, 3)
    epoch, lsn = _ranks(blocks, runs[:, 2])
    why = np.full(len(runs), -1, np.int64)
    for index, loss in reversed(list(enumerate(found.losses))):
        newer = (epoch > loss.epoch) | ((epoch == loss.epoch) & (lsn >= loss.next_lsn))
        why[~newer] = index
    return _joined(runs, why, [loss.reason for loss in found.losses])


def _ranks(blocks: BlockMap, places: Int64s) -> tuple[Int64s, Int64s]:
    """Return epoch and first LSN of the frame of each place; epoch 0 for zeros, LSN 0 for what a sync sent."""
    epoch, lsn = np.zeros(len(places), np.int64), np.zeros(len(places), np.int64)
    for number, mine in by_file(blocks, places):
        frames = blocks.space.sources[number].scan.frames.array()
        hit = frames[indexes(blocks, number, places[mine])]
        captured: npt.NDArray[np.bool_] = np.isin(hit["kind"], (CAPTURED, NET_CAPTURED))
        epoch[mine] = hit["epoch"]
        lsn[mine] = np.where(captured, hit["first_lsn"], 0)
    return epoch, lsn


def _joined(runs: Int64s, why: Int64s, reasons: list[str]) -> list[Doubt]:
    found: list[Doubt] = []
    for offset, length, index in zip(runs[:, 0].tolist(), runs[:, 1].tolist(), why.tolist(), strict=True):
        if index < 0:
            continue
        last = found[-1] if found else None
        if last and last.offset + last.length == offset and last.reason == reasons[index]:
            found[-1] = Doubt(last.offset, last.length + length, last.reason)
        else:
            found.append(Doubt(offset, length, reasons[index]))
    return found
