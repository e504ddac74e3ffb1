"""Beginning the protection of a VM.

Whatever fails before the tap streams is undone in reverse order. Once it streams nothing is undone any more:
it goes on by itself, whether somebody waits for it or not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from lastwrite.catalog import NameTakenError, VmRow, VmTakenError
from lastwrite.errors import LastwriteError, UnavailableError, UsageError
from lastwrite.ids import new_id, valid_name
from plugins.errors import (
    CancelledError,
    SyncUnfinishedError,
    TapFailedError,
    TapSilentError,
)
from plugins.models import ProtectResult, VmStatus
from plugins.server.context import Context, Emit
from plugins.server.locate import known, on_hypervisors
from plugins.server.points import vm_status

if TYPE_CHECKING:
    from hypervisors.base import Hypervisor, Vm

ENROLMENT_S = 3600.0
CONNECT_S = 180.0  # an emulated guest needs a minute to start Python and to shake hands
POLL_S = 0.5
GOES_ON = "The tap goes on by itself: `lastwrite status VM` shows how far it is."
STAYS = (
    "The VM stays protected and its tap stays in the guest: it connects as soon as it can. "
    "The guest's log of lastwrite-agent says more, and so does `lastwrite status VM`."
)

log = structlog.get_logger("plugins.protect")


@dataclass(frozen=True)
class ProtectRequest:
    """What `protect` was asked: names, disks (empty: all), whether and how long (s) to wait."""

    vm: str
    hypervisor: str | None = None
    disks: list[str] = field(default_factory=list)
    name: str | None = None
    wait: bool = True
    timeout: float = 3600.0


def protect(context: Context, request: ProtectRequest, emit: Emit) -> ProtectResult:
    """Protect a VM; one whose tap is connected is left as it is.

    Raises GuestUnsuitableError, VmTakenError, TapSilentError, TapFailedError, SyncUnfinishedError, and the
    hypervisor's.
    """
    began = time.monotonic()
    _require_sensible(request)
    with context.exclusive(request.name or request.vm):
        row = known(context, request.vm, request.hypervisor, request.name)
        already = row is not None and row.protected and status_of(context, row).connected
        if row is None or not already:
            row = _begin(context, row, request, emit)
    status = (
        _await_protected(context, row, request.timeout, emit) if request.wait else status_of(context, row)
    )
    return ProtectResult(
        vm=row.name,
        id=row.id,
        hypervisor=row.hypervisor,
        journal=row.journal,
        state=status.state,
        already=already,
        rpo_ms=status.rpo_ms,
        alarm=status.alarm,
        seconds=time.monotonic() - began,
    )


def _require_sensible(request: ProtectRequest) -> None:
    if request.name is not None:
        valid_name(request.name, "VM")
    if not all(disk.strip() for disk in request.disks):
        raise UsageError(
            "a disk without a name was asked for", hint="Leave --disk out to protect every disk."
        )


def status_of(context: Context, row: VmRow) -> VmStatus:
    """Return what ingest says of one VM. Raises IngestUnavailableError."""
    return vm_status(row, context.ingest().status())


def _begin(context: Context, row: VmRow | None, request: ProtectRequest, emit: Emit) -> VmRow:
    """Do everything up to a tap that streams, or undo all of it."""
    emit.step(f"Looking for {request.vm}")
    place, vm = on_hypervisors(
        context, row.ref if row else request.vm, row.hypervisor if row else request.hypervisor
    )
    _require_own(context, row, place, vm, request)
    with context.hypervisor(place) as hypervisor, contextlib.ExitStack() as undo:
        deployment = context.deployment()
        emit.step(f"Checking whether the guest of {vm.name} is ready for the tap")
        require_ready(vm, deployment.probe(hypervisor, vm.id))
        emit.check()
        repairs = row is not None and row.protected
        row = _enter(context, hypervisor, vm, row, request, undo)
        before = _enrolments(context, row)
        emit.step(f"Putting the tap into {vm.name}")
        _deploy(context, deployment, hypervisor, row, request, emit)  # undoes itself when it fails
        if not repairs:  # a tap that was repaired stays, and connects when it can
            undo.callback(_quietly, "remove the tap", deployment.remove, hypervisor, vm.id)
        emit.step(f"Waiting for the tap in {vm.name} to report")
        _await_connected(context, row, before, STAYS if repairs else None, emit)
        undo.pop_all()
    return row


def _require_own(context: Context, row: VmRow | None, place: str, vm: Vm, request: ProtectRequest) -> None:
    """Raise before the guest is touched what would stop it afterwards: another name, a bad one, no journal."""
    others = (other for other in context.catalog.vms() if (other.hypervisor, other.ref) == (place, vm.id))
    other = next(others, None)
    if other is not None and (row is None or row.id != other.id):
        raise VmTakenError(
            f"{vm.name} of {place} is in the catalog already, as {other.name}", name=other.name
        )
    if row is None:
        valid_name(request.name or vm.name, "VM")
        return
    from journal.errors import NotAJournal
    from journal.layout import read_identity

    try:
        read_identity(Path(row.journal))
    except NotAJournal as error:
        error.hint = (
            "Bring the folder back, such as by mounting its file system. If it is lost for ever: "
            f"`lastwrite unprotect {row.name} --delete-journal`, then protect the VM again."
        )
        raise


def require_ready(vm: Vm, report: Any) -> None:
    """Raise GuestUnsuitableError when the probe found problems, naming each, its hint naming each remedy."""
    from guesttap.deploy import GuestUnsuitableError

    problems = list(report.problems)
    if problems:
        message = "; ".join(str(problem.what) for problem in problems)
        remedies = " ".join(dict.fromkeys(str(problem.remedy) for problem in problems))
        found = [problem._asdict() for problem in problems]
        raise GuestUnsuitableError(
            f"{vm.name} cannot be protected yet: {message}", hint=remedies, problems=found
        )


def _enter(
    context: Context,
    hypervisor: Hypervisor,
    vm: Vm,
    row: VmRow | None,
    request: ProtectRequest,
    undo: contextlib.ExitStack,
) -> VmRow:
    """Put the VM into the catalog, with a journal; one that was there before goes on with its own."""
    spec = dataclasses.asdict(hypervisor.describe(vm.id))
    if row is not None:
        old = {"protected": row.protected, "spec": row.spec}
        undo.callback(_quietly, "restore the catalog", lambda: context.catalog.update_vm(row.id, **old))
        return context.catalog.update_vm(row.id, protected=True, spec=spec)
    name, vm_id = valid_name(request.name or vm.name, "VM"), new_id()
    folder = _new_journal(context, name, vm_id, undo)
    try:
        made = context.catalog.add_vm(
            name, hypervisor.name, vm.id, str(folder), spec=spec, protected=True, vm_id=vm_id
        )
    except NameTakenError as error:
        error.hint = "It is another VM. Give this one another name here with --as NAME."
        raise
    undo.callback(_quietly, "leave the catalog", context.catalog.remove_vm, vm_id)
    return made


def _new_journal(context: Context, name: str, vm_id: str, undo: contextlib.ExitStack) -> Path:
    from journal.writer import JournalWriter

    folder = context.settings.journals_dir / name
    if folder.exists():  # of a VM that is no longer in the catalog: its past is kept
        folder = folder.with_name(f"{name}-{vm_id[:8]}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    undo.callback(_quietly, "delete the new journal", lambda: shutil.rmtree(folder, ignore_errors=True))
    JournalWriter.create(folder, name).close()
    return folder


def _deploy(
    context: Context, deployment: Any, hypervisor: Hypervisor, row: VmRow, request: ProtectRequest, emit: Emit
) -> None:
    deployment.deploy(
        hypervisor,
        row.ref,
        settings=context.settings,
        authority_ca_pem=context.ca_pem(),
        token=context.catalog.new_enrolment(row.id, ENROLMENT_S),
        tap_id=row.id,
        disks=request.disks or None,
        progress=lambda done, total, what: emit.progress(f"{row.name}: {what}", done, total, "percent"),
    )


def _quietly(what: str, action: Callable[..., Any], *arguments: Any) -> None:
    """Undo one thing; what cannot be undone is logged, and does not hide the error that led here."""
    try:
        action(*arguments)
    except Exception as error:
        log.warning("could not undo", what=what, reason=str(error))


def _told(context: Context, row: VmRow) -> dict[str, Any]:
    """Return what ingest says of a VM, nothing while it does not answer: it may be starting again."""
    try:
        return context.ingest().status().get(row.id, {})
    except UnavailableError:
        return {}


def _enrolments(context: Context, row: VmRow) -> int:
    return int(_told(context, row).get("enrolments", 0))


def _await_connected(context: Context, row: VmRow, before: int, hint: str | None, emit: Emit) -> None:
    """Wait for the new tap. `before`: enrolments before it came; what is said until it enrols is of another."""
    deadline = time.monotonic() + CONNECT_S
    while time.monotonic() < deadline:
        emit.check()
        told = _told(context, row)
        if told.get("connected"):
            return
        reason = told.get("alarm") or told.get("refused")
        if reason and told.get("enrolments") != before:
            raise TapFailedError(f"the tap in {row.name} cannot work: {reason}", hint=hint)
        time.sleep(POLL_S)
    where = context.settings.tap.advertise
    silent = f"the tap in {row.name} did not report within {CONNECT_S:.0f} s at {where}"
    raise TapSilentError(silent, hint=hint)


def _await_protected(context: Context, row: VmRow, timeout: float, emit: Emit) -> VmStatus:
    """Wait until the first point can be recovered to. Nothing is undone here."""
    deadline = time.monotonic() + timeout
    while True:
        status = _status_or_none(context, row)
        if status and status.state == "Protected":
            return status
        state = status.state if status else "Unknown"
        if status and status.alarm and state == "Error":
            raise SyncUnfinishedError(f"{row.name}: {status.alarm}", hint=GOES_ON)
        if time.monotonic() > deadline:
            raise SyncUnfinishedError(f"{row.name} is still in {state} after {timeout:.0f} s", hint=GOES_ON)
        if status:
            emit.progress(f"{row.name}: {state}", status.synced_bytes or 0, status.sync_bytes)
        try:
            emit.check()
        except CancelledError as error:
            error.hint = GOES_ON
            raise
        time.sleep(POLL_S)


def _status_or_none(context: Context, row: VmRow) -> VmStatus | None:
    try:
        return status_of(context, row)
    except LastwriteError:
        return None
