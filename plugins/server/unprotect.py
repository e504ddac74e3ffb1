"""Ending the protection of a VM: its tap goes, its journal stays unless that was confirmed."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

from lastwrite.catalog import VmRow
from lastwrite.errors import LastwriteError
from plugins.errors import NotConfirmedError
from plugins.models import UnprotectResult
from plugins.server.context import Context, Emit


@dataclass(frozen=True)
class UnprotectRequest:
    """What `unprotect` was asked; `confirm` is the VM's name, typed once more to delete its journal."""

    vm: str
    delete_journal: bool = False
    confirm: str | None = None


def unprotect(context: Context, request: UnprotectRequest, emit: Emit) -> UnprotectResult:
    """End the protection of a VM. Raises UnknownVmError, NotConfirmedError.

    A guest or a host that cannot be reached does not stop it: the appliance lets the tap in no more, and the
    result's notes say what is left in the guest.
    """
    row = context.catalog.vm(request.vm)
    if request.delete_journal and request.confirm != row.name:
        raise NotConfirmedError(
            f"the journal of {row.name} is deleted only when its name is typed as confirmation"
        )
    with context.exclusive(row.name):
        notes = _end(context, row, emit) if row.protected else []
        if request.delete_journal:
            emit.step(f"Deleting the journal {row.journal}")
            context.catalog.remove_vm(row.id)
            shutil.rmtree(row.journal)
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
    emit.step(f"Removing the tap from {row.name}")
    try:
        with context.hypervisor(row.hypervisor) as hypervisor:
            context.deployment().remove(hypervisor, row.ref)
    except LastwriteError as error:
        rest = "In the guest, `python3 /usr/local/lib/lastwrite/agent.pyz remove` removes what is left."
        notes.append(f"The tap could not be removed from the guest: {error.message}. {rest}")
    return notes
