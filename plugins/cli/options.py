"""Options that many commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from lastwrite.config import Settings
    from plugins.client import ControlClient

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs; errors too, on stderr.")]
Config = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Configuration file to use.")]
State = Annotated[Path | None, typer.Option("--state", metavar="DIR", help="State directory of the server.")]


def settings_of(config: Path | None, state: Path | None) -> Settings:
    """Return the settings that count with these options. Raises ConfigError."""
    from lastwrite.config import Settings

    return Settings.load(config, state_dir=state)


def connect(config: Path | None, state: Path | None) -> ControlClient:
    """Return a client of the server that these options lead to. Raises ConfigError."""
    from plugins.client import ControlClient

    return ControlClient(settings_of(config, state).control_socket)
