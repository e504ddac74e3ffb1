"""Small files that must be whole and durable, whatever happens while they are written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Dict

from guesttap.agent.errors import AgentStateError

Json = Dict[str, Any]


def write_durably(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace `path` with `data` so that after a crash it holds the old content or the new, and is on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".new")
    fd = os.open(str(draft), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        os.fchmod(fd, mode)
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)
    draft.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the entries of `folder` durable."""
    fd = os.open(str(folder), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def read_json(path: Path) -> Json | None:
    """Return the JSON object in `path`, or None when there is no such file. Raises AgentStateError."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise AgentStateError(f"{path} cannot be read: {error}") from error
    try:
        found = json.loads(text)
    except ValueError as error:
        raise AgentStateError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise AgentStateError(f"{path} holds no JSON object")
    return found
