"""What an interrupted check has done already: kept outside the journal, so that a read-only one can be checked."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from journal import layout
from journal.scan import SegmentScan
from lastwrite.errors import UsageError

_VERSION = 2


class StateNotAFile(UsageError):
    """What is to remember a check is there already, and is no regular file."""

    code = "check-state"
    hint = "Name another file with --state; it is replaced and removed as the check goes on."


def default_state(journal_id: str) -> Path:
    """Return where the state of checking a journal is kept unless another place is named."""
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "lastwrite" / f"check-{journal_id}.json"


@dataclass
class BadFrame:
    """A frame whose data is bad: its place in the file (bytes), its LSNs and epoch, and the reason."""

    offset: int
    first_lsn: int
    next_lsn: int
    epoch: int
    reason: str


class FileRead(NamedTuple):
    """So many frames of a file have been read, and these of them are bad."""

    frames: int
    bad: list[BadFrame]


@dataclass
class CheckState:
    """How far each sealed file has been read, and what was found there.

    A file is known again by where it lies (device and inode), its digest, size and times of change: what is another
    now is read again, and so is a copy of it.
    """

    path: Path | None
    journal: str
    problem: str = ""
    _files: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path | None, journal: str, restart: bool) -> CheckState:
        """Return the state kept at `path`; an empty one when there is none, it makes no sense, or on `restart`.

        Raises StateNotAFile: a pipe or a device must not be replaced.
        """
        state = cls(path, journal)
        if path is not None and _is_strange(path):
            raise StateNotAFile(f"{path} is no regular file")
        if path is None or restart:
            return state
        try:
            kept = json.loads(layout.read_file(path))
            if (kept["version"], kept["journal"]) == (_VERSION, journal):
                state._files = {str(name): dict(facts) for name, facts in kept["files"].items()}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            state.problem = f"the state of the last check cannot be used: {error}"
        return state

    def known(self, name: str, scan: SegmentScan) -> FileRead:
        """Return how far a file was read, and what was found there."""
        kept = self._files.get(name)
        facts = _facts(scan)
        if kept is None or facts is None or {key: kept.get(key) for key in facts} != facts:
            return FileRead(0, [])
        try:
            frames, bad = int(kept["frames"]), [BadFrame(**bad) for bad in kept["bad"]]
        except (KeyError, TypeError, ValueError):
            return FileRead(0, [])
        return FileRead(frames, bad) if 0 <= frames <= scan.frame_count else FileRead(0, [])

    def remember(self, name: str, scan: SegmentScan, read: FileRead) -> None:
        """Take a file as read up to a frame, when it is one that nothing is added to any more."""
        facts = _facts(scan)
        if facts is not None:
            self._files[name] = facts | {"frames": read.frames, "bad": [vars(one) for one in read.bad]}

    def save(self) -> None:
        """Write the state, whole or not at all. What keeps it from being written stands in `problem`."""
        if self.path is None:
            return
        new = self.path.with_name(self.path.name + ".new")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            new.write_text(json.dumps({"version": _VERSION, "journal": self.journal, "files": self._files}))
            new.replace(self.path)
        except OSError as error:
            self.problem = f"the check cannot be resumed: {self.path}: {error.strerror}"

    def forget(self) -> None:
        """Remove the state: the check is complete, the next one reads everything again."""
        if self.path is not None:
            try:
                self.path.unlink(missing_ok=True)
            except OSError as error:
                self.problem = self.problem or f"{self.path} cannot be removed: {error.strerror}"


def _is_strange(path: Path) -> bool:
    """Return whether something is there that is no regular file."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def _facts(scan: SegmentScan) -> dict[str, Any] | None:
    if scan.footer is None:
        return None
    try:
        told = scan.path.stat()
    except OSError:
        return None
    place, times = [told.st_dev, told.st_ino], [told.st_mtime_ns, told.st_ctime_ns]
    return {"digest": scan.footer.digest.hex(), "size": told.st_size, "place": place, "times": times}
