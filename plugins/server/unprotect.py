"""Ending the protection of a VM: its tap goes, its journal stays unless that was confirmed."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lastwrite.catalog import VmRow
from lastwrite.errors import LastwriteError
from plugins.errors import JournalNotDeletedError, NotConfirmedError
from plugins.models import UnprotectResult
from plugins.server.context import Context, Emit


@dataclass(frozen=True)
class UnprotectRequest:
    """What `unprotect` was asked; `confirm` is the VM's name, typed once more to delete its journal."""

    vm: str
    delete_journal: bool = False
    confirm: str | None = None


def unprotect(context: Context, request: UnprotectRequest, emit: Emit) -> UnprotectResult:
    """End the protection of a VM. Raises UnknownVmError, NotConfirmedError, JournalBusy, JournalNotDeletedError.

    A guest or a host that cannot be reached does not stop it: the appliance lets the tap in no more, and the
    result's notes say what is left in the guest.
    """
    row = context.catalog.vm(request.vm)
    if request.delete_journal and request.confirm != row.name:
        raise NotConfirmedError(
            f"the journal of {row.name} is deleted only when its name is typed as confirmation"
        )
    with context.exclusive(row.name):
        notes = _end(context, row, emit) if row.protected else _end_session(context, row)
        if request.delete_journal:
            emit.step(f"Deleting the journal {row.journal}")
            notes += _delete(context, row)
    return UnprotectResult(
        vm=row.name,
        journal=row.journal,
        journal_deleted=request.delete_journal,
        already=not row.protected,
        notes=notes,
    )


def _end(context: Context, row: VmRow, emit: Emit) -> list[str]:
    notes = []
    emit.step(f"Detaching the tap of {row.name}")
    try:
        context.ingest().detach(row.id)
    except LastwriteError as error:
        notes.append(f"The tap could not be told to detach: {error.message}.")
    # From here on the tap is refused, whatever is left of it.
    context.catalog.update_vm(row.id, protected=False)
    notes += _end_session(context, row)
    emit.step(f"Removing the tap from {row.name}")
    try:
        with context.hypervisor(row.hypervisor) as hypervisor:
            context.deployment().remove(hypervisor, row.ref)
    except LastwriteError as error:
        rest = "In the guest, `python3 /usr/local/lib/lastwrite/agent.pyz remove` removes what is left."
        notes.append(f"The tap could not be removed from the guest: {error.message}. {rest}")
    return notes


def _end_session(context: Context, row: VmRow) -> list[str]:
    """Have ingest end what the tap may still have open: a tap can ignore that it was told to detach."""
    try:
        context.ingest().end(row.id)
    except LastwriteError as error:
        return [f"The ingest process could not be told to let the tap go: {error.message}."]
    return []


def _delete(context: Context, row: VmRow) -> list[str]:
    """Delete a journal that nobody writes; return what could not be deleted of it.

    It is taken out of its place first, so that at no moment half a journal is found there.
    """
    folder = Path(row.journal)
    aside = folder.with_name(f".{folder.name}-deleted-{row.id[:8]}")
    with _locked(folder):
        try:
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(aside)  # of an earlier attempt
            with contextlib.suppress(FileNotFoundError):
                folder.rename(aside)
        except OSError as error:
            raise JournalNotDeletedError(f"{folder} cannot be deleted: {error.strerror}") from error
        context.catalog.remove_vm(row.id)
    try:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(aside)
    except OSError as error:
        return [f"What is left of the journal could not be deleted: {aside}: {error.strerror}."]
    return []


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the writer's lock of a journal, when there is one. Raises JournalBusy."""
    from journal.storage import lock

    try:
        descriptor = lock(folder)
    except (FileNotFoundError, NotADirectoryError):
        yield
        return
    try:
        yield
    finally:
        os.close(descriptor)
