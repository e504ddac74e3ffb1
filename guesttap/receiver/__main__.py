"""The ingest process: `python -m guesttap.receiver [--config FILE]`. SIGTERM and SIGINT end it cleanly."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from pathlib import Path

import structlog

from guesttap.authority import Authority
from guesttap.receiver.local import LocalServer
from guesttap.receiver.registry import Registry
from guesttap.receiver.server import TapServer
from journal.retention.defaults import stop_bytes
from lastwrite import logs
from lastwrite.address import parse_address
from lastwrite.catalog import Catalog
from lastwrite.config import OURS_ALONE, Settings
from lastwrite.errors import LastwriteError

log = structlog.get_logger()


def main(arguments: list[str] | None = None) -> int:
    """Run until a signal; return the exit status."""
    parser = argparse.ArgumentParser(prog="guesttap.receiver", description=__doc__)
    parser.add_argument("--config", type=Path, help="configuration file")
    options = parser.parse_args(arguments)
    os.umask(OURS_ALONE)  # what VMs have written is for nobody else
    try:
        settings = Settings.load(options.config)
        logs.configure("ingest", json=settings.log.json_lines, level=settings.log.level)
        _serve(settings)
    except LastwriteError as error:
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
        return error.exit_code
    return 0


def _serve(settings: Settings) -> None:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    catalog = Catalog(settings.catalog_url)
    registry = Registry(catalog, lambda folder: stop_bytes(settings.retention, folder))
    server = TapServer(parse_address(settings.tap.listen), Authority(settings.pki_dir), registry)
    local = LocalServer(settings.ingest_socket, registry)
    local.start()
    threading.Thread(target=server.serve, name="accept", daemon=True).start()
    stop.wait()
    log.info("ending")
    local.stop()
    server.stop()
    catalog.close()


if __name__ == "__main__":
    sys.exit(main())
