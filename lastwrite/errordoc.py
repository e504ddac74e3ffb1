"""Makes docs/errors.md from the error tree: `python -m lastwrite.errordoc > docs/errors.md`.

Every module of the project's packages is imported by its name, so that no error can be missed.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys

from lastwrite.errors import LastwriteError, all_errors

PACKAGES = ("lastwrite", "journal", "hypervisors", "guesttap", "recovery", "failover", "plugins")
NO_MODULES = ("__main__", "migrations")

HEAD = """# Errors

Every error has a code, and an exit status that says of which kind it is. With `--json` an error is printed on
stderr as `{"error": {"code", "message", "hint", "details", "exit_status"}}`; stdout stays empty. The message
says what happened to which object; the hint says what to do. A hint in this list is given when
nothing better is known: often the real one is more precise, such as the nearest names.

This file is made by `python -m lastwrite.errordoc`; a test compares them.
"""


def import_all() -> None:
    """Import every module of every package of the project that is installed."""
    for name in PACKAGES:
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(package.__path__, f"{name}."):
            if not any(part in NO_MODULES for part in module.name.split(".")):
                importlib.import_module(module.name)


def our_errors() -> list[type[LastwriteError]]:
    """Return every error of the project's packages, and no other, by exit status and code."""
    import_all()
    ours = [kind for kind in all_errors() if kind.__module__.partition(".")[0] in PACKAGES]
    return sorted(ours, key=lambda kind: (kind.exit_code, not _is_base(kind), kind.code))


def text() -> str:
    """Return the whole document."""
    parts = [HEAD]
    status = None
    for kind in our_errors():
        if kind.exit_code != status:
            status = kind.exit_code
            parts.append(f"\n## Exit status {status}: {_meaning(kind)}\n")
            parts.append("\n| code | what happened | what to do | part |\n|---|---|---|---|\n")
        cells = (f"`{kind.code}`", _summary(kind), kind.hint, kind.__module__.partition(".")[0])
        parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n")
    return "".join(parts)


def _is_base(kind: type[LastwriteError]) -> bool:
    return kind.__module__ == LastwriteError.__module__


def _summary(kind: type[LastwriteError]) -> str:
    return (kind.__doc__ or "").strip().splitlines()[0]


def _meaning(kind: type[LastwriteError]) -> str:
    words = "A defect of Lastwrite." if kind is LastwriteError else _summary(kind)
    return words[0].lower() + words[1:].rstrip(".")


if __name__ == "__main__":
    sys.stdout.write(text())
