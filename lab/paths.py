"""Where the lab keeps things: a cache that outlives checkouts, and a directory for what runs."""

from __future__ import annotations

import os
from pathlib import Path

GUEST_FILES = Path(__file__).parent / "guest"


def cache_dir() -> Path:
    """Return the directory of cached images and verdicts (`LASTWRITE_CACHE`), made if it is missing."""
    return _made(Path(os.environ.get("LASTWRITE_CACHE") or "/var/cache/lastwrite"))


def lab_dir() -> Path:
    """Return the directory that holds the hosts' state (`LASTWRITE_LAB`), made if it is missing."""
    return _made(Path(os.environ.get("LASTWRITE_LAB") or "/var/lib/lastwrite-lab"))


def _made(folder: Path) -> Path:
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder
