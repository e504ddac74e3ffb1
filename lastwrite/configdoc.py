"""Makes docs/configuration.md from the settings: `python -m lastwrite.configdoc > docs/configuration.md`."""

from __future__ import annotations

import json
import sys
from typing import Any

from pydantic import BaseModel

from lastwrite.config import DEFAULT_FILE, FILE_VARIABLE, Settings

HEAD = f"""# Configuration

One TOML file, all of it optional: the one that `--config` names, or else the environment variable
`{FILE_VARIABLE}`, or else `{DEFAULT_FILE}` when it is there. The environment wins over the
file: `tap.listen` is `LASTWRITE_TAP__LISTEN`. `--state` wins over both. `lastwrite config check` shows the
settings that count, and names mistakes as `section.key: why (got value)`. An unknown key is a mistake.

This file is made by `python -m lastwrite.configdoc`; a test compares them.
"""


def text() -> str:
    """Return the whole document."""
    parts = [HEAD]
    for section, field in Settings.model_fields.items():
        kind = field.annotation
        assert isinstance(kind, type) and issubclass(kind, BaseModel)
        parts.append(f"\n## [{section}]\n\n{(kind.__doc__ or '').strip().splitlines()[0]}\n\n")
        parts.append("| key | default | meaning |\n|---|---|---|\n")
        for key, info in kind.model_fields.items():
            parts.append(f"| `{key}` | {_default(info.default)} | {info.description} |\n")
    return "".join(parts)


def _default(value: Any) -> str:
    if value is None:
        return "not set"
    return f"`{value if isinstance(value, bool | int | float) else json.dumps(str(value))}`"


if __name__ == "__main__":
    sys.stdout.write(text())
