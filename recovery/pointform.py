"""The forms in which a point is written: text -> Point. Knows nothing of any journal.

The forms and their meaning are specified in docs/recovery-points.md; a test compares the two. Used by
every command, the API and the NBD export names through `recovery.points`.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from lastwrite import instant
from lastwrite.instant import SECOND, format_time, looks_like_time
from recovery.errors import BadExport, BadPoint

__all__ = ["Form", "Point", "format_time", "parse", "parse_time", "split_export", "split_target"]

UNITS = {"s": SECOND, "m": 60 * SECOND, "h": 3600 * SECOND, "d": 86400 * SECOND}
MAX_POINT_CHARS = 512

_AGO = re.compile(r"-(\d{1,9})([smhd])", re.ASCII)
_NUMBER = re.compile(r"\d{1,19}", re.ASCII)
_PREFIX = re.compile(r"[a-z]+:")


class Form(enum.Enum):
    """How a point is written."""

    LATEST = "latest"
    TIME = "time"
    AGO = "ago"
    CUT = "cut"
    LSN = "lsn"
    APP = "app"
    NAME = "name"


@dataclass(frozen=True)
class Point:
    """A point as somebody wrote it: not yet looked up.

    `number` is ns since 1970 (TIME), ns before now (AGO), a cut's number (CUT), an LSN (LSN), else 0;
    `name` is the label of APP and NAME, else "".
    """

    text: str
    form: Form
    number: int = 0
    name: str = ""

    @property
    def floating(self) -> bool:
        """Whether the same text may mean another instant a moment later."""
        return self.form in (Form.LATEST, Form.AGO)


def parse(text: str) -> Point:
    """Return the Point that `text` spells. Raises BadPoint."""
    if not text or len(text) > MAX_POINT_CHARS or not text.isprintable() or text != text.strip():
        raise BadPoint(f"{text[:80]!r} is not a recovery point")
    if text == "latest":
        return Point(text, Form.LATEST)
    if text.startswith("app:") and len(text) > 4:
        return Point(text, Form.APP, name=text[4:])
    if text.startswith(("cut:", "lsn:")):
        return _numbered(text)
    if text.startswith("-"):
        return _ago(text)
    if looks_like_time(text):
        return Point(text, Form.TIME, parse_time(text))
    if _PREFIX.match(text) or text == "latest-proven":
        raise BadPoint(f"{text!r} is no form of a point that this version knows")
    return Point(text, Form.NAME, name=text)


def _numbered(text: str) -> Point:
    form, digits = text.split(":", 1)
    if not _NUMBER.fullmatch(digits):
        raise BadPoint(f"{text!r}: after {form}: comes a number")
    return Point(text, Form(form), int(digits))


def _ago(text: str) -> Point:
    found = _AGO.fullmatch(text)
    if not found:
        raise BadPoint(f"{text!r}: a time ago is written -90s, -10m, -2h or -1d")
    return Point(text, Form.AGO, int(found[1]) * UNITS[found[2]])


def parse_time(text: str) -> int:
    """Return ns since 1970 of an ISO time; UTC when it names no zone. Raises BadPoint."""
    try:
        return instant.parse_time(text)
    except ValueError as error:
        raise BadPoint(str(error)) from error


def split_target(text: str) -> tuple[str, Point]:
    """Return (vm, Point) of `VM@POINT`; without `@` the point is `latest`. Raises BadPoint."""
    vm, at, point = text.partition("@")
    if not vm:
        raise BadPoint(f"{text!r} names no VM", hint="Write VM@POINT, for instance web01@latest.")
    return vm, parse(point if at else "latest")


def split_export(text: str) -> tuple[str, str, Point]:
    """Return (vm, disk, Point) of `VM/DISK@POINT`. Raises BadExport or BadPoint."""
    target, at, point = text.partition("@")
    vm, slash, disk = target.rpartition("/")
    if not (vm and slash and disk and at):
        raise BadExport(f"{text[:80]!r} is not an export name")
    return vm, disk, parse(point)
