"""The catalog's tables and the errors of the catalog. Who changes a table adds a migration."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import JSON, BigInteger, Dialect, ForeignKey, String, TypeDecorator
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from lastwrite.errors import IntegrityError, NotFoundError, RefusedError, UnavailableError


class NameTakenError(RefusedError):
    """Another object of the catalog has that name already."""

    code = "name-taken"
    hint = "Choose another name, or remove the other one first."


class VmTakenError(RefusedError):
    """The VM is in the catalog already, under another name."""

    code = "vm-taken"
    hint = "One VM has one journal: use the name that the message names."


class HypervisorInUseError(RefusedError):
    """A hypervisor cannot be removed while VMs on it are protected."""

    code = "hypervisor-in-use"
    hint = "End the protection of these VMs first: `lastwrite unprotect VM`."


class EnrolmentRefusedError(RefusedError):
    """A token that buys nothing: unknown, used before, or too old."""

    code = "token-refused"
    hint = "Run `lastwrite protect VM` again: it makes a new token and gives it to the guest."


class UnknownHypervisorError(NotFoundError):
    """No hypervisor of that name is in the catalog."""

    code = "unknown-hypervisor"


class UnknownVmError(NotFoundError):
    """No VM of that name or id is in the catalog."""

    code = "unknown-vm"


class CatalogUnavailableError(UnavailableError):
    """The catalog's database cannot be opened, or stays locked."""

    code = "catalog-unavailable"
    hint = "See that its directory exists, is writable and has room; `lastwrite doctor` checks all three."


class CatalogDamagedError(IntegrityError):
    """The catalog's file is not a database, or a damaged one."""

    code = "catalog-damaged"
    hint = "Journals do not need the catalog: move the file away, start the server, protect the VMs again."


class CatalogTooNewError(RefusedError):
    """A later version of Lastwrite has written the catalog."""

    code = "catalog-too-new"
    hint = "Use that version of Lastwrite, or a later one: an older one would lose what it does not know."


class UtcTime(TypeDecorator[dt.datetime]):
    """A time with its zone, kept as microseconds since 1970 so that no database can lose the zone."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: dt.datetime | None, dialect: Dialect) -> int | None:
        """Return what the database keeps."""
        return None if value is None else round(value.timestamp() * 1_000_000)

    def process_result_value(self, value: int | None, dialect: Dialect) -> dt.datetime | None:
        """Return what the program sees."""
        return None if value is None else dt.datetime.fromtimestamp(value / 1_000_000, dt.UTC)


class Base(DeclarativeBase):
    """The metadata that migrations are compared with."""


class HypervisorTable(Base):
    """A hypervisor that was added."""

    __tablename__ = "hypervisor"

    name: Mapped[str] = mapped_column(String(80), primary_key=True)
    kind: Mapped[str] = mapped_column(String(40))
    url: Mapped[str] = mapped_column(String(1000))
    created: Mapped[dt.datetime] = mapped_column(UtcTime)


class VmTable(Base):
    """A VM that is, or was, protected."""

    __tablename__ = "vm"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    name: Mapped[str] = mapped_column(String(80), unique=True)
    hypervisor: Mapped[str] = mapped_column(String(80))
    ref: Mapped[str] = mapped_column(String(200))
    journal: Mapped[str] = mapped_column(String(4096))
    instance: Mapped[str | None] = mapped_column(String(200))
    protected: Mapped[bool] = mapped_column(default=False)
    spec: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    created: Mapped[dt.datetime] = mapped_column(UtcTime)


class EnrolmentTable(Base):
    """A one-time token, as its SHA-256."""

    __tablename__ = "enrolment"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    vm: Mapped[str] = mapped_column(ForeignKey("vm.id", ondelete="CASCADE"))
    expires: Mapped[dt.datetime] = mapped_column(UtcTime)
    redeemed: Mapped[dt.datetime | None] = mapped_column(UtcTime)
