"""The control process: `python -m plugins.server.control [--config FILE]`. SIGTERM ends it."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from pathlib import Path

import structlog
import uvicorn

from lastwrite.config import OURS_ALONE, Settings
from lastwrite.errors import LastwriteError
from lastwrite.logs import configure
from plugins.errors import ServerRunningError, StateDirError
from plugins.server.app import create_app
from plugins.server.context import Context

FINISH_S = 3

log = structlog.get_logger("plugins.control")


def main(arguments: list[str] | None = None) -> int:
    """Serve until a signal comes; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m plugins.server.control", description=__doc__)
    parser.add_argument("--config", type=Path, help="the configuration file")
    options = parser.parse_args(arguments)
    os.umask(OURS_ALONE)
    try:
        settings = Settings.load(options.config)
        configure("control", settings.log.json_lines, settings.log.level)
        with listening(settings.control_socket) as listener:
            server(Context(settings)).run(sockets=[listener])
    except LastwriteError as error:
        log.error("cannot serve", code=error.code, reason=error.message, hint=error.hint)
        return error.exit_code
    return 0


def server(context: Context) -> uvicorn.Server:
    """Return a server for the application over `context`, which logs as this process does."""
    config = uvicorn.Config(
        create_app(context),
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=FINISH_S,
        lifespan="on",
    )
    return uvicorn.Server(config)


def listening(path: Path) -> socket.socket:
    """Return a socket listening at `path` for this user alone. Raises ServerRunningError or StateDirError."""
    if answers(path):
        raise ServerRunningError(f"a control process answers at {path} already")
    listener = socket.socket(socket.AF_UNIX)
    try:
        path.unlink(missing_ok=True)
        old = os.umask(0o177)  # from its first moment it is ours alone
        try:
            listener.bind(str(path))
        finally:
            os.umask(old)
        listener.listen(64)
    except OSError as error:
        listener.close()
        raise StateDirError(f"{path}: {error.strerror or error}") from error
    return listener


def answers(path: Path) -> bool:
    """Return whether somebody accepts connections at `path`."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(2)
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


if __name__ == "__main__":
    sys.exit(main())
