"""The lock of a state directory: whoever holds it runs the server there."""

from __future__ import annotations

import fcntl
from pathlib import Path

LOCK_NAME = "serve.lock"


def is_held(state_dir: Path) -> bool:
    """Return whether a server runs, starts or ends in `state_dir`; nothing is changed."""
    try:
        with open(state_dir / LOCK_NAME) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
