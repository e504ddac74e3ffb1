"""The view process: `python -m recovery.nbd --config FILE`. SIGTERM or SIGINT ends it (exit status 0)."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

import structlog

from lastwrite.catalog import Catalog
from lastwrite.config import Settings
from lastwrite.errors import LastwriteError
from lastwrite.logs import configure
from recovery.nbd import JournalExports, NbdServer

log = structlog.get_logger("recovery.nbd")


def exports_of(catalog: Catalog) -> JournalExports:
    """Return the exports of every VM in the catalog."""
    return JournalExports(
        lambda name: Path(catalog.vm(name).journal),
        lambda: [(vm.name, Path(vm.journal)) for vm in catalog.vms()],
    )


def main(arguments: list[str] | None = None) -> int:
    """Serve until a signal comes; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m recovery.nbd", description=__doc__)
    parser.add_argument("--config", type=Path, help="the configuration file")
    options = parser.parse_args(arguments)
    # Blocked before any thread starts, so that only sigwait below receives them.
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        settings = Settings.load(options.config)
        configure("nbd", settings.log.json_lines, settings.log.level)
        return _serve(settings, signals)
    except LastwriteError as error:
        log.error("cannot serve", code=error.code, reason=error.message, hint=error.hint)
        return error.exit_code


def _serve(settings: Settings, signals: set[signal.Signals]) -> int:
    catalog = Catalog(settings.catalog_url)
    with NbdServer(settings.nbd.listen, exports_of(catalog)) as server:
        host, port = server.address
        log.info("ready", listen=f"{host}:{port}")
        ended = signal.sigwait(signals)
        log.info("ending", signal=signal.Signals(ended).name, connections=server.connections)
    return 0


if __name__ == "__main__":
    sys.exit(main())
