"""`lastwrite config check`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plugins.cli.options import Config, Json, State, settings_of

if TYPE_CHECKING:
    from rich.console import Console

    from plugins.models import ConfigReport

EXAMPLES = {"check": ("lastwrite config check --config /etc/lastwrite/lastwrite.toml",)}


def check(json: Json = False, config: Config = None, state: State = None) -> None:
    """Check the configuration and show the settings that count.

    A mistake is named as `section.key: why (got value)`. Needs no server.
    """
    import os

    from lastwrite.config import find_file
    from plugins.cli.output import show
    from plugins.models import ConfigReport

    settings = settings_of(config, state)
    file = find_file(config)
    report = ConfigReport(
        file=str(file) if file else None,
        environment=sorted(name for name in os.environ if name.startswith("LASTWRITE_")),
        settings=settings.model_dump(mode="json"),
    )
    show(report, json, _render)


def _render(result: ConfigReport, out: Console) -> None:
    from plugins.cli.output import fields, say, table

    say(f"The configuration is good. File: {result.file or 'none'}", out)
    if result.environment:
        out.print(fields([("Environment", ", ".join(result.environment))]))
    rows = [
        (f"{section}.{key}", "" if value is None else str(value))
        for section, values in result.settings.items()
        for key, value in values.items()
    ]
    out.print(table(("KEY", "VALUE"), rows))
