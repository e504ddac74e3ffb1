"""The catalog: which hypervisors there are, which VMs are protected, and the tokens that taps enrol with.

Several processes share it. It holds nothing that a journal needs: losing it loses no data. The rows that it
gives out are plain values; a change goes through a method.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import sqlalchemy.exc
from sqlalchemy import delete, or_, select, update
from sqlalchemy.orm import Session

from lastwrite.catalog_tables import (
    Base,
    CatalogDamagedError,
    CatalogTooNewError,
    CatalogUnavailableError,
    EnrolmentRefusedError,
    EnrolmentTable,
    HypervisorInUseError,
    HypervisorTable,
    NameTakenError,
    UnknownHypervisorError,
    UnknownVmError,
    VmTable,
    VmTakenError,
)
from lastwrite.database import open_database, translated, writing
from lastwrite.ids import new_id, valid_name
from lastwrite.names import nearest_hint

__all__ = [
    "Catalog",
    "CatalogDamagedError",
    "CatalogTooNewError",
    "CatalogUnavailableError",
    "EnrolmentRefusedError",
    "HypervisorInUseError",
    "HypervisorRow",
    "NameTakenError",
    "UnknownHypervisorError",
    "UnknownVmError",
    "VmRow",
    "VmTakenError",
]


@dataclass(frozen=True)
class HypervisorRow:
    """A hypervisor: `kind` names its adapter."""

    name: str
    kind: str
    url: str
    created: dt.datetime


@dataclass(frozen=True)
class VmRow:
    """A VM that is, or was, protected.

    `ref` is its id on `hypervisor`, `journal` the path of its journal's folder, `instance` the identity of
    the machine that enrolled, `spec` the portable description of the VM: with it a copy can be made when the
    host is gone.
    """

    id: str
    name: str
    hypervisor: str
    ref: str
    journal: str
    instance: str | None
    protected: bool
    spec: dict[str, Any] | None
    created: dt.datetime


class Catalog:
    """The catalog in the database at `url`, made or brought up to date when it is opened.

    Every method raises CatalogUnavailableError when the database cannot be reached or stays locked.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._engine = open_database(url)

    def close(self) -> None:
        """Let the database go. The catalog cannot be used afterwards."""
        self._engine.dispose()

    # Hypervisors

    def add_hypervisor(self, name: str, kind: str, url: str) -> HypervisorRow:
        """Add a hypervisor; the same one again changes nothing. Raises NameTakenError, InvalidNameError."""
        valid_name(name, "hypervisor")
        with self._writing() as session:
            old = session.get(HypervisorTable, name)
            if old is None:
                old = HypervisorTable(name=name, kind=kind, url=url, created=_now())
                session.add(old)
                session.flush()
            elif (old.kind, old.url) != (kind, url):
                raise NameTakenError(
                    f"hypervisor {name} exists already, with the address {old.url}", name=name
                )
            return _hypervisor(old)

    def hypervisors(self) -> list[HypervisorRow]:
        """Return all hypervisors by name."""
        with self._reading() as session:
            rows = session.scalars(select(HypervisorTable).order_by(HypervisorTable.name))
            return [_hypervisor(row) for row in rows]

    def hypervisor(self, name: str) -> HypervisorRow:
        """Return one hypervisor. Raises UnknownHypervisorError, whose hint offers the nearest names."""
        with self._reading() as session:
            row = session.get(HypervisorTable, name)
            if row is None:
                raise _unknown_hypervisor(session, name)
            return _hypervisor(row)

    def remove_hypervisor(self, name: str) -> None:
        """Forget a hypervisor. Raises UnknownHypervisorError, HypervisorInUseError."""
        with self._writing() as session:
            row = session.get(HypervisorTable, name)
            if row is None:
                raise _unknown_hypervisor(session, name)
            users = select(VmTable.name).where(VmTable.hypervisor == name, VmTable.protected)
            names = sorted(session.scalars(users))
            if names:
                raise HypervisorInUseError(
                    f"hypervisor {name} holds protected VMs: {', '.join(names)}", vms=names
                )
            session.delete(row)

    # VMs

    def add_vm(
        self,
        name: str,
        hypervisor: str,
        ref: str,
        journal: str,
        *,
        spec: dict[str, Any] | None = None,
        protected: bool = False,
        vm_id: str | None = None,
    ) -> VmRow:
        """Add a VM under a new id (or `vm_id`). Raises NameTakenError, VmTakenError, InvalidNameError."""
        valid_name(name, "VM")
        with self._writing() as session:
            if session.scalar(select(VmTable).where(VmTable.name == name)) is not None:
                raise NameTakenError(f"there is a VM {name} in the catalog already", name=name)
            same = select(VmTable.name).where(VmTable.hypervisor == hypervisor, VmTable.ref == ref)
            if (other := session.scalar(same)) is not None:
                raise VmTakenError(
                    f"this VM of {hypervisor} is in the catalog already, as {other}", name=other
                )
            row = VmTable(
                id=vm_id or new_id(), name=name, hypervisor=hypervisor, ref=ref, journal=journal,
                instance=None, protected=protected, spec=spec, created=_now(),
            )  # fmt: skip
            session.add(row)
            session.flush()
            return _vm(row)

    def vms(self) -> list[VmRow]:
        """Return all VMs by name, those whose protection has ended too."""
        with self._reading() as session:
            return [_vm(row) for row in session.scalars(select(VmTable).order_by(VmTable.name))]

    def vm(self, name_or_id: str) -> VmRow:
        """Return one VM. Raises UnknownVmError, whose hint offers the nearest names."""
        with self._reading() as session:
            return _vm(_find_vm(session, name_or_id))

    def update_vm(self, vm_id: str, **changes: Any) -> VmRow:
        """Change fields of a VM (any but `id`) and return it. Raises UnknownVmError, NameTakenError."""
        wrong = set(changes) - (set(VmTable.__table__.columns.keys()) - {"id"})
        if wrong:
            raise TypeError(f"a VM has no field {', '.join(sorted(wrong))} that can be changed")
        with self._writing() as session:
            row = _find_vm(session, vm_id)
            for field, value in changes.items():
                setattr(row, field, value)
            try:
                session.flush()
            except sqlalchemy.exc.IntegrityError:
                raise NameTakenError(f"there is a VM {changes.get('name')} in the catalog already") from None
            return _vm(row)

    def remove_vm(self, vm_id: str) -> None:
        """Forget a VM and its tokens; its journal stays where it is. Raises UnknownVmError."""
        with self._writing() as session:
            session.delete(_find_vm(session, vm_id))

    # Enrolment

    def new_enrolment(self, vm_id: str, ttl_seconds: float) -> str:
        """Return a new one-time token for a VM; unused older ones end. Raises UnknownVmError."""
        token = secrets.token_urlsafe(32)
        expires = _now() + dt.timedelta(seconds=ttl_seconds)
        with self._writing() as session:
            row = _find_vm(session, vm_id)
            unused = delete(EnrolmentTable).where(
                EnrolmentTable.vm == row.id, EnrolmentTable.redeemed.is_(None)
            )
            session.execute(unused)
            session.add(EnrolmentTable(digest=_digest(token), vm=row.id, expires=expires))
        return token

    def redeem(self, token: str, instance: str) -> VmRow:
        """Use a token, once, and remember the machine that used it. Raises EnrolmentRefusedError."""
        digest = _digest(token)
        with self._writing() as session:
            row = session.get(EnrolmentTable, digest)
            if row is None:
                raise EnrolmentRefusedError("the enrolment token is not known")
            if row.redeemed is not None:
                raise EnrolmentRefusedError("the enrolment token was used before", vm=row.vm)
            if row.expires < _now():
                raise EnrolmentRefusedError("the enrolment token is too old", vm=row.vm)
            row.redeemed = _now()
            session.execute(update(VmTable).where(VmTable.id == row.vm).values(instance=instance))
            return _vm(_find_vm(session, row.vm))

    @contextmanager
    def _reading(self) -> Iterator[Session]:
        with translated(self.url), Session(self._engine) as session:
            yield session

    @contextmanager
    def _writing(self) -> Iterator[Session]:
        with translated(self.url), writing(self._engine) as connection, Session(connection) as session:
            yield session
            session.flush()


def schema() -> Any:
    """Return the tables' metadata, for tests that compare it with the migrations."""
    return Base.metadata


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _find_vm(session: Session, name_or_id: str) -> VmTable:
    row = session.scalar(select(VmTable).where(or_(VmTable.id == name_or_id, VmTable.name == name_or_id)))
    if row is None:
        hint = nearest_hint(
            name_or_id,
            session.scalars(select(VmTable.name)),
            "No VM is protected yet: `lastwrite protect VM`.",
        )
        raise UnknownVmError(f"no protected VM is named {name_or_id}", hint=hint, name=name_or_id)
    return row


def _unknown_hypervisor(session: Session, name: str) -> UnknownHypervisorError:
    known = session.scalars(select(HypervisorTable.name))
    hint = nearest_hint(name, known, "None was added yet: `lastwrite hypervisor add NAME URL`.")
    return UnknownHypervisorError(f"no hypervisor is named {name}", hint=hint, name=name)


def _hypervisor(row: HypervisorTable) -> HypervisorRow:
    return HypervisorRow(row.name, row.kind, row.url, row.created)


def _vm(row: VmTable) -> VmRow:
    return VmRow(**{field.name: getattr(row, field.name) for field in fields(VmRow)})
