"""A protected real guest with a database at work, shared by the tests of the whole path."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.appliance import Appliance
from lab.guests import Guest
from lab.hosts import Host
from lab.inspect import Inspection, inspect
from lab.run import wait_until
from lab.truth import Commit, parse_commits

CHECK = ["/usr/bin/python3", "/usr/local/lib/lwdemo/check.py"]
PROTECTED_WITHIN_S = 240


@dataclass
class World:
    """Hosts, guest and appliance; `boot_id` is the guest's as it was before protection."""

    source: Host
    target: Host
    guest: Guest
    appliance: Appliance
    folder: Path
    boot_id: str = ""
    measured: dict[str, Any] = field(default_factory=dict)

    def status(self) -> dict[str, Any]:
        """Return the guest's entry of `lastwrite status --json`."""
        return next(vm for vm in self.appliance.json("status")["vms"] if vm["name"] == self.guest.name)

    def wait_protected(self, timeout_s: float = PROTECTED_WITHIN_S) -> dict[str, Any]:
        """Wait until the guest's tap is Protected, and return the status."""
        wait_until(f"{self.guest.name} is Protected", self._protected, timeout_s=timeout_s, every_s=0.5)
        return self.status()

    def _protected(self) -> bool:
        return bool(self.status()["state"] == "Protected")

    def commits(self) -> list[Commit]:
        """Return what the workload says that it committed."""
        return parse_commits(self.guest.agent.read_file("/run/lwdemo/commits").decode())

    def guest_now(self) -> int:
        """Return the guest's wall clock, in ns."""
        return int(self.guest.agent.check("date +%s%N"))

    def recover_raw(self, point: str) -> Path:
        """Recover a point as a raw image; the caller deletes it."""
        image = self.folder / f"point-{time.monotonic_ns()}.raw"
        self.appliance.ask("recover", f"{self.guest.name}@{point}", "--to", str(image), timeout_s=300)
        return image

    def look_into(self, point: str) -> Inspection:
        """Recover a point as an image, look into it, delete it."""
        image = self.recover_raw(point)
        try:
            return inspect(image, scratch=self.folder)
        finally:
            image.unlink()

    def journal(self) -> Path:
        """Return the folder of the guest's journal."""
        return next((self.appliance.state / "journals").iterdir())

    def epochs(self) -> list[dict[str, Any]]:
        """Return the epochs that the journal holds."""
        found: list[dict[str, Any]] = self.appliance.json("journal", "info", str(self.journal()))[
            "timelines"
        ][0]["epochs"]
        return found

    def checked(self, guest: Guest) -> dict[str, Any]:
        """Return what check.py prints in a guest."""
        found: dict[str, Any] = json.loads(guest.agent.exec(CHECK).out)
        return found
