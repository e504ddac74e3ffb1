"""Every error a user can meet, as one tree.

Each class has a kebab-case `code`, an `exit_code` for the shell and a `hint` template saying what to do.
An instance carries a message that says what happened to which object. docs/errors.md is generated
from this tree. Runs inside guests too: Python 3.8, standard library only.

    LastwriteError
    |-- UsageError            what was asked makes no sense            exit 2
    |-- NotFoundError         a named thing does not exist             exit 3
    |-- UnavailableError      something is not reachable or running    exit 4
    |-- IntegrityError        data is damaged or would be wrong        exit 5
    |-- RefusedError          it would break a promise                 exit 6
    `-- UnsupportedError      this machine or VM cannot do it          exit 7
"""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Type


class LastwriteError(Exception):
    """The root: `message` names the object and the reason, `hint` the remedy."""

    code = "internal"
    exit_code = 1
    hint = "This is a defect of Lastwrite: please report it with the log."

    def __init__(self, message: str, *, hint: Optional[str] = None, **details: Any) -> None:  # noqa: UP045
        super().__init__(message)
        self.message = message
        if hint is not None:
            self.hint = hint
        self.details: Dict[str, Any] = details  # noqa: UP006

    def to_dict(self) -> Dict[str, Any]:  # noqa: UP006
        """Return what `--json` prints and what crosses the API."""
        return {"code": self.code, "message": self.message, "hint": self.hint, "details": self.details}


class UsageError(LastwriteError):
    """What was asked makes no sense as it was written."""

    code = "usage"
    exit_code = 2
    hint = "See --help of the command for the form it expects."


class NotFoundError(LastwriteError):
    """A thing that was named does not exist."""

    code = "not-found"
    exit_code = 3
    hint = "List what exists and choose one of those."


class UnavailableError(LastwriteError):
    """Something is not reachable, or not running, right now."""

    code = "unavailable"
    exit_code = 4
    hint = "Bring it back and try again: nothing was changed."


class IntegrityError(LastwriteError):
    """Data is damaged, or an answer would be wrong."""

    code = "integrity"
    exit_code = 5
    hint = "Nothing wrong was served. Run `lastwrite journal check DIR` to see what is damaged."


class RefusedError(LastwriteError):
    """It was refused because it would break a promise."""

    code = "refused"
    exit_code = 6
    hint = "Nothing was changed."


class UnsupportedError(LastwriteError):
    """This machine, VM or hypervisor cannot do it."""

    code = "unsupported"
    exit_code = 7
    hint = "Use another tap or another host for this VM."


def all_errors() -> List[Type[LastwriteError]]:  # noqa: UP006
    """Return every class of the tree that has been imported, root first, each code once."""
    found: Dict[str, Type[LastwriteError]] = {}  # noqa: UP006
    queue: List[Type[LastwriteError]] = [LastwriteError]  # noqa: UP006
    while queue:
        kind = queue.pop(0)
        found.setdefault(kind.code, kind)
        queue.extend(sorted(kind.__subclasses__(), key=lambda k: (k.code, k.__module__)))
    return list(found.values())
