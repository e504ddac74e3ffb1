"""The upkeep process: `python -m plugins.server.upkeep [--config FILE]`. SIGTERM ends it between two pieces of work.

Looks after every journal in turn, with the lowest priority for processor and disk: retention, indexes, net maps.
It shares nothing with ingest but the files; killed at any moment, it leaves every journal good.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import platform
import signal
import sys
import threading
import time
from pathlib import Path

import structlog

from journal.layout import IDENTITY
from journal.retention.defaults import default_policy, reserve_bytes
from journal.upkeep import Upkeep, upkeep_all
from lastwrite.catalog import Catalog
from lastwrite.config import OURS_ALONE, Settings
from lastwrite.errors import LastwriteError
from lastwrite.logs import configure

log = structlog.get_logger("plugins.upkeep")

SHORT_SECONDS = 30.0  # between two looks while space is short
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}
_IDLE_CLASS = 3 << 13


def main(arguments: list[str] | None = None) -> int:
    """Look after the journals until a signal comes; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m plugins.server.upkeep", description=__doc__)
    parser.add_argument("--config", type=Path, help="the configuration file")
    options = parser.parse_args(arguments)
    os.umask(OURS_ALONE)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        settings = Settings.load(options.config)
        configure("upkeep", settings.log.json_lines, settings.log.level)
        be_quiet()
        _look_after(settings, stop)
    except LastwriteError as error:
        log.error("cannot look after the journals", code=error.code, reason=error.message, hint=error.hint)
        return error.exit_code
    return 0


def be_quiet() -> None:
    """Take the lowest priority for the processor, and for the disk only what nobody else wants."""
    os.nice(19)
    call = _IOPRIO_SET.get(platform.machine())
    if call is not None and ctypes.CDLL(None, use_errno=True).syscall(call, 1, 0, _IDLE_CLASS):
        log.warning("no idle priority for the disk", reason=os.strerror(ctypes.get_errno()))


def _look_after(settings: Settings, stop: threading.Event) -> None:
    default = default_policy(settings.retention)
    catalog = Catalog(settings.catalog_url)
    try:
        while not stop.is_set():
            told: list[Upkeep] = []
            upkeep_all(
                journals(settings, catalog),
                time.time_ns,
                default=default,
                reserve_of=lambda folder: reserve_bytes(settings.retention, folder),
                go_on=lambda: not stop.is_set(),
                report=told.append,
            )
            for done in told:
                _tell(done)
            short = any(done.retention.short for done in told)
            stop.wait(SHORT_SECONDS if short else settings.retention.every_minutes * 60)
    finally:
        catalog.close()


def journals(settings: Settings, catalog: Catalog) -> list[Path]:
    """Return the folders of every journal: those of the catalog, and others beside them, of ended protection."""
    known = {Path(row.journal) for row in catalog.vms()}
    if settings.journals_dir.is_dir():
        known |= {path for path in settings.journals_dir.iterdir() if (path / IDENTITY).is_file()}
    return sorted(folder for folder in known if (folder / IDENTITY).is_file())


def _tell(done: Upkeep) -> None:
    """Log what was done for a journal."""
    retention = done.retention
    if retention.done or done.indexed:
        log.info(
            "looked after",
            journal=str(done.folder),
            thinned=len(retention.done),
            freed_bytes=retention.freed,
            indexed=done.indexed,
        )
    for problem in done.problems:
        log.warning("not done", journal=str(done.folder), reason=problem)
    if retention.short:
        log.warning("space is short", journal=str(done.folder))


if __name__ == "__main__":
    sys.exit(main())
