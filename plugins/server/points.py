"""Status of the protected VMs, their points, and the making of new ones."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from lastwrite.catalog import NameTakenError, VmRow
from lastwrite.errors import UnavailableError
from lastwrite.ids import valid_name
from lastwrite.text import utc
from plugins.errors import NotProtectedError
from plugins.models import Marked, PointInfo, PointList, RangeInfo, Status, VmStatus
from plugins.server.context import Context

if TYPE_CHECKING:
    from journal.history import Cut, Epoch
    from journal.reader import JournalReader

SAME_NAME = (
    "connected", "rpo_ms", "epoch", "next_lsn", "synced_bytes", "sync_bytes", "ring_used", "ring_bytes",
    "lost", "unreadable_bytes", "received_bytes", "clock_offset_ns", "accounting", "alarm",
)  # fmt: skip
TIMELINE = 1


def status(context: Context, name: str | None = None) -> Status:
    """Return the status of one VM, or of all. Raises UnknownVmError."""
    rows = [context.catalog.vm(name)] if name else context.catalog.vms()
    try:
        known: dict[str, dict[str, Any]] | None = context.ingest().status()
    except UnavailableError:
        known = None
    return Status(vms=[vm_status(row, known) for row in rows], ingest=known is not None)


def vm_status(row: VmRow, known: dict[str, dict[str, Any]] | None) -> VmStatus:
    """Return the status of one VM; `known` is what ingest says, by VM id, None when it does not answer."""
    told = (known or {}).get(row.id, {})
    state = str(told.get("state") or ("Disconnected" if known is not None else "Unknown"))
    # The newest point: what was durable in an epoch that cannot be recovered to is not one.
    newest = told.get("recoverable_wall", told.get("durable_wall"))
    return VmStatus(
        name=row.name,
        id=row.id,
        hypervisor=row.hypervisor,
        protected=row.protected,
        journal=row.journal,
        state=state if row.protected else "Unprotected",
        durable_wall=newest,
        when=utc(newest) if newest else None,
        **{key: told[key] for key in SAME_NAME if key in told},
    )


def points(context: Context, name: str, every: bool) -> PointList:
    """Return the timeline of a VM and its points. Raises UnknownVmError, NotAJournal."""
    row = context.catalog.vm(name)
    reader = context.reader(row)
    valid_from = {epoch.number: epoch.valid_from for epoch in reader.epochs(TIMELINE)}
    recoverable = [cut for cut in reader.cuts(TIMELINE) if _holds(valid_from.get(cut.epoch), cut)]
    cuts = sorted(recoverable, key=lambda cut: (cut.lsn, cut.number))
    shown = [cut for cut in cuts if every or cut.label or cut.kind == "appshot"]
    latest = reader.latest()
    valid = [epoch for epoch in reader.epochs(TIMELINE) if epoch.valid_from is not None]
    latest_wall = reader.known_until(valid[-1], TIMELINE) if latest is not None and valid else None
    return PointList(
        vm=row.name,
        timeline=TIMELINE,
        latest_lsn=latest,
        latest_wall=latest_wall,
        latest=utc(latest_wall) if latest_wall is not None else None,
        ranges=ranges(reader),
        points=[_point(cut) for cut in shown],
        cuts=len(cuts),
    )


def ranges(reader: JournalReader) -> list[RangeInfo]:
    """Return the stretches of the main timeline in order: what can be recovered to, and the gaps between."""
    found: list[RangeInfo] = []
    begun = {cut.epoch: cut.wall for cut in reader.cuts(TIMELINE) if cut.kind == "sync-end"}
    gap_since: tuple[int, int | None, str] | None = None
    for epoch in reader.epochs(TIMELINE):
        if epoch.valid_from is None:
            gap_since = gap_since or (epoch.begins, None, epoch.reason)
            continue
        begin = begun.get(epoch.number)
        if gap_since:
            found.append(_range("gap", gap_since[1], begin, gap_since[0], epoch.valid_from, gap_since[2]))
        end = reader.known_until(epoch, TIMELINE)
        found.append(_range(_quality(epoch), begin, end, epoch.valid_from, epoch.last_lsn, epoch.reason))
        gap_since = (epoch.last_lsn, end, epoch.gap_reason or "the tap's connection to its epoch ended")
    found += [
        _range("gap", None, None, damage.first_lsn, damage.next_lsn - 1, f"damaged: {damage.reason}")
        for damage in reader.damage()
    ]
    return found


def _holds(valid_from: int | None, cut: Cut) -> bool:
    """Return whether a cut can be recovered to: those before the end of a sync cannot."""
    return valid_from is not None and cut.lsn >= valid_from


def _quality(epoch: Epoch) -> str:
    exact = epoch.order == "total" or (epoch.order == "per-disk" and len(epoch.disks) == 1)
    return "exact" if exact else "approximate"


def _range(
    quality: str, begin: int | None, end: int | None, first: int, last: int | None, reason: str
) -> RangeInfo:
    return RangeInfo(
        quality=quality,
        begin_wall=begin,
        begin=utc(begin) if begin is not None else None,
        end_wall=end,
        end=utc(end) if end is not None else None,
        first_lsn=first,
        last_lsn=last,
        reason=reason,
    )


def _point(cut: Cut) -> PointInfo:
    return PointInfo(
        wall=cut.wall,
        when=utc(cut.wall),
        lsn=cut.lsn,
        kind=cut.kind,
        label=cut.label,
        consistency=cut.consistency,
        number=cut.number,
        epoch=cut.epoch,
        frozen=cut.frozen,
    )


def bookmark(context: Context, name: str, label: str, at: str | None) -> Marked:
    """Give a name to this moment, or to the point `at`. Raises NameTakenError and what `find` does."""
    valid_name(label, "point")
    row = context.catalog.vm(name)
    with context.naming(row, label):
        if at is not None:
            return _bookmark_of_the_past(context, row, label, at)
        _require_protected(row)
        _require_free(context.reader(row), label)
        return _marked(row, label, context.ingest().mark(row.id, label))


def _bookmark_of_the_past(context: Context, row: VmRow, label: str, at: str) -> Marked:
    from recovery.points import find, parse

    reader = context.reader(row)
    point = find(reader, parse(at))
    _require_free(reader, label)
    context.ingest().bookmark(row.id, point.lsn, label)
    told = {"lsn": point.lsn, "wall": point.wall, "consistency": point.consistency}
    return _marked(row, label, told)


def appshot(context: Context, name: str, label: str | None) -> Marked:
    """Make an application-consistent point. Raises NameTakenError, NotProtectedError and the tap's."""
    row = context.catalog.vm(name)
    _require_protected(row)
    label = valid_name(label or time.strftime("appshot-%Y%m%d-%H%M%S", time.gmtime()), "point")
    with context.naming(row, label):
        _require_free(context.reader(row), label)
        return _marked(row, label, context.ingest().appshot(row.id, label))


def _require_protected(row: VmRow) -> None:
    if not row.protected:
        raise NotProtectedError(f"the protection of {row.name} has ended")


def _require_free(reader: JournalReader, label: str) -> None:
    if any(cut.label == label for cut in reader.cuts(TIMELINE)):
        hint = "Choose another name: a point is found by it."
        raise NameTakenError(f"{reader.name} has a point named {label} already", hint=hint)


def _marked(row: VmRow, label: str, told: dict[str, Any]) -> Marked:
    wall = told.get("wall")
    return Marked(
        vm=row.name,
        name=label,
        lsn=told["lsn"],
        wall=wall,
        when=utc(wall) if wall is not None else None,
        consistency=str(told.get("consistency") or "crash"),
        frozen=told.get("frozen"),
        messages=[str(message) for message in told.get("messages") or []],
    )
