"""Opening the catalog's SQLite database so that several processes can share it, and bringing it up to date.

Write-ahead logging lets readers go on while one process writes. Who will write says so when the transaction
begins (BEGIN IMMEDIATE): then waiting for the lock happens before anything was read, never in the middle.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DatabaseError, OperationalError
from sqlalchemy.pool import NullPool

from lastwrite.catalog_tables import CatalogDamagedError, CatalogTooNewError, CatalogUnavailableError

MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_TIMEOUT_S = 20.0


def open_database(url: str) -> Engine:
    """Return an engine for `url`, its tables as this version knows them.

    Raises CatalogUnavailableError, CatalogDamagedError, CatalogTooNewError.
    """
    # One connection for each transaction: cheap with SQLite, and no file stays open across a fork.
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S}, poolclass=NullPool)
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    with translated(url):
        _use_write_ahead_log(engine)
        _migrate(engine)
    return engine


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """Give a connection in a transaction that holds the write lock; commit at the end."""
    with engine.connect().execution_options(immediate=True) as connection, connection.begin():
        yield connection


@contextmanager
def translated(url: str) -> Iterator[None]:
    """Turn the database library's errors into the catalog's."""
    try:
        yield
    except OperationalError as error:
        raise CatalogUnavailableError(f"the catalog {url} cannot be used: {error.orig}") from error
    except DatabaseError as error:
        if isinstance(error.orig, sqlite3.IntegrityError):
            raise
        raise CatalogDamagedError(f"the catalog {url} is damaged: {error.orig}") from error


def _prepare(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None  # the driver begins no transaction by itself: _begin does
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = FULL")


def _begin(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("immediate")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _use_write_ahead_log(engine: Engine) -> None:
    """Switch the file over, once for its life. SQLite does not wait for a lock here, so we do."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection = engine.raw_connection()
            try:
                connection.cursor().execute("PRAGMA journal_mode = WAL")
                return
            finally:
                connection.close()
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise OperationalError("PRAGMA journal_mode = WAL", None, error) from error
            time.sleep(0.02)
        except sqlite3.DatabaseError as error:
            raise DatabaseError("PRAGMA journal_mode = WAL", None, error) from error


def migration_config() -> Config:
    """Return alembic's configuration: the scripts inside this package, no file."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config


def _migrate(engine: Engine) -> None:
    config = migration_config()
    script = ScriptDirectory.from_config(config)
    with engine.connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    if current == script.get_current_head():
        return
    if current is not None and current not in {revision.revision for revision in script.walk_revisions()}:
        raise CatalogTooNewError(f"the catalog is at revision {current}, which this version does not know")
    with writing(engine) as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
