"""Finding the VM that somebody means: in the catalog, or on the hypervisors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lastwrite.catalog import VmRow
from lastwrite.errors import LastwriteError, NotFoundError, UnavailableError
from lastwrite.names import nearest_hint
from plugins.errors import AmbiguousVmError, NoHypervisorError
from plugins.server.context import Context

if TYPE_CHECKING:
    from hypervisors.base import Vm


def known(context: Context, ref: str, hypervisor: str | None, name: str | None) -> VmRow | None:
    """Return the catalog's row of the VM that is meant, by its name here or its id there, or None."""
    rows = context.catalog.vms()
    wanted = name or ref
    row = next((vm for vm in rows if wanted in (vm.name, vm.id)), None)
    row = row or next((vm for vm in rows if vm.ref == ref), None)
    if row is None or (hypervisor is not None and row.hypervisor != hypervisor):
        return None
    own_name = (row.spec or {}).get("name")
    # A name that is asked for with --as may belong to another VM here: then it is not the one that is meant.
    return row if ref in (row.name, row.id, row.ref, own_name) else None


def on_hypervisors(context: Context, ref: str, hypervisor: str | None) -> tuple[str, Vm]:
    """Return the hypervisor that holds the VM with this name or id, and the VM.

    Raises AmbiguousVmError, VmNotFoundError with the nearest names, UnavailableError when one that could have
    it does not answer.
    """
    names = [hypervisor] if hypervisor else [row.name for row in context.catalog.hypervisors()]
    if not names:
        raise NoHypervisorError("no hypervisor was added yet, so there is no VM to protect")
    found: list[tuple[str, Vm]] = []
    failed: list[LastwriteError] = []
    for name in names:
        try:
            with context.hypervisor(name) as connected:
                found.append((name, connected.get_vm(ref)))
        except LastwriteError as error:
            failed.append(error)
    if len(found) > 1:
        places = ", ".join(name for name, _ in found)
        raise AmbiguousVmError(
            f"there is a VM {ref} on more than one hypervisor: {places}", hypervisors=places
        )
    return found[0] if found else _nowhere(context, ref, names, failed)


def _nowhere(context: Context, ref: str, names: list[str], failed: list[LastwriteError]) -> tuple[str, Vm]:
    """Raise what tells best why the VM was not found."""
    from hypervisors.errors import VmNotFoundError

    away = [error for error in failed if not isinstance(error, NotFoundError)]
    if len(failed) == 1:
        raise failed[0]
    if away:
        reasons = "; ".join(error.message for error in away)
        raise UnavailableError(f"VM {ref} was not found, and not every hypervisor answers: {reasons}")
    hint = nearest_hint(ref, _all_names(context, names), "There is no VM on them.")
    raise VmNotFoundError(f"no VM {ref} on {', '.join(names)}", hint=hint, name=ref)


def _all_names(context: Context, names: list[str]) -> list[str]:
    found = []
    for name in names:
        with context.hypervisor(name) as connected:
            found += [vm.name for vm in connected.list_vms()]
    return found
