"""Ids and names: how they are made, and which ones are allowed."""

from __future__ import annotations

import re
import uuid

from lastwrite.errors import UsageError

MAX_NAME = 80

_ID = re.compile(r"[0-9a-f]{32}\Z")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*\Z")


class InvalidNameError(UsageError):
    """A name that cannot be used for a VM, a hypervisor or a point."""

    code = "invalid-name"
    hint = (
        "A name begins with a letter or a digit, goes on with letters, digits and . _ + - "
        f"and has at most {MAX_NAME} characters, because it is part of addresses such as VM@POINT."
    )


def new_id() -> str:
    """Return a fresh random id: 32 lower-case hex digits."""
    return uuid.uuid4().hex


def is_id(text: str) -> bool:
    """Return whether `text` has the form of an id."""
    return bool(_ID.match(text))


def is_name(text: str) -> bool:
    """Return whether `text` can be a name."""
    return len(text) <= MAX_NAME and bool(_NAME.match(text))


def valid_name(text: str, what: str = "name") -> str:
    """Return `text` when it can be the name of a `what` (a word for the message). Raises InvalidNameError."""
    if not is_name(text):
        raise InvalidNameError(f"{text!r} cannot be the name of a {what}", name=text)
    return text
