"""`python -m lastwrite`: the command `lastwrite`, wherever the installation says that it is.

This package lies below all others and knows none of them: the entry point leads to the command.
"""

from __future__ import annotations

import sys
from importlib.metadata import entry_points


def main() -> int:
    """Run the command line and return its exit status."""
    for point in entry_points(group="console_scripts", name="lastwrite"):
        return int(point.load()())
    print("error: the command `lastwrite` is not installed", file=sys.stderr)
    print(
        "hint: Install it from the project's folder: `pip install .`, or run setup/bootstrap.sh.",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
