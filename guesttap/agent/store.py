"""What the agent must not forget: its certificate, its fence, and what it knows of the open epoch.

Owns the files in the state folder (0600, folder 0700). Each write is atomic and durable before it returns.
The epoch file is written before the first frame of its epoch, so a fence or a lost counter is never newer
on the appliance than here.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from guesttap.agent.files import read_json, sync_folder, write_durably


class Remembered(NamedTuple):
    """The epoch as it is on the disk, for an agent that comes after this one.

    `generation` and `number` name it; `baseline` is the tap's lost counter at its beginning; `sync` is how it
    began (initial, full, bitmap). `broken` says that a gap was met and that what differs since then is known to
    this process alone: then its successor must read everything again. `unreadable_bytes`: what the syncs since
    the last one of everything could not read, for which the journal has zeros.
    """

    fence: str | None = None
    generation: int | None = None
    number: int = 0
    baseline: int = 0
    sync: str = "initial"
    broken: bool = False
    unreadable_bytes: int = 0


class Store:
    """The agent's state folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.certificate_path = folder / "certificate.pem"
        self.key_path = folder / "key.pem"
        self._identity_path = folder / "identity.json"
        self._epoch_path = folder / "epoch.json"
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        self.remembered = self._read_epoch()

    def is_enrolled(self, vm: str, token: str | None) -> bool:
        """Return whether there is a certificate for `vm` that no newer token is to replace."""
        found = read_json(self._identity_path)
        if found is None or not self.certificate_path.exists() or not self.key_path.exists():
            return False
        return found.get("vm") == vm and (token is None or found.get("token_sum") == _digest(token))

    def save_identity(self, vm: str, token: str, certificate: str, key: str) -> None:
        """Keep a new certificate; whatever was known under an older one is forgotten."""
        self._identity_path.unlink(missing_ok=True)
        self._epoch_path.unlink(missing_ok=True)
        self.remembered = Remembered()
        write_durably(self.key_path, key.encode("ascii"))
        write_durably(self.certificate_path, certificate.encode("ascii"))
        # Last: it says that the two others belong together.
        text = json.dumps({"vm": vm, "token_sum": _digest(token)})
        write_durably(self._identity_path, text.encode("ascii"))

    def remember(self, **changes: Any) -> None:
        """Replace fields of what is remembered; durable on return. Does nothing when nothing changes."""
        changed = self.remembered._replace(**changes)
        if changed != self.remembered:
            write_durably(self._epoch_path, json.dumps(changed._asdict()).encode("ascii"))
            self.remembered = changed

    def forget_identity(self) -> None:
        """Remove certificate, key and fence: this agent may never speak for the VM again."""
        for path in (self._identity_path, self._epoch_path, self.certificate_path, self.key_path):
            path.unlink(missing_ok=True)
        sync_folder(self.folder)
        self.remembered = Remembered()

    def _read_epoch(self) -> Remembered:
        found = read_json(self._epoch_path) or {}
        return Remembered(**{key: found[key] for key in Remembered._fields if key in found})


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8")).hexdigest()
