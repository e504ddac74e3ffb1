"""`python -m guesttap.agent`: the same as the zipapp."""

from __future__ import annotations

import sys

from guesttap.agent.main import run

if __name__ == "__main__":
    sys.exit(run())
