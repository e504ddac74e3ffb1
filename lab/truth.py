"""What was really committed, and whether a recovered database holds exactly that.

The workload notes each commit on tmpfs: its number and the wall times just before and just after. A recovery to
the instant T must hold every row whose commit had returned by T, none whose commit began after T, and may hold
those in flight at T.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Commit:
    """One commit of the workload; times in ns of the guest's wall clock."""

    n: int
    before: int
    after: int


@dataclass(frozen=True)
class Verdict:
    """What a recovered database should hold, what it does hold, and what is wrong with it."""

    expected: int
    in_flight: int
    found: int
    faults: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether nothing is missing, nothing is from the future, and the database is whole."""
        return not self.faults


def parse_commits(text: str) -> list[Commit]:
    """Read the workload's file of commits; a last line that is not whole is left out."""
    lines = text.split("\n")[:-1]
    return [Commit(*map(int, line.split())) for line in lines]


def judge(checked: dict[str, Any], commits: list[Commit], instant: int) -> Verdict:
    """Compare what check.py printed of a recovered database with the truth at `instant` (ns, guest's clock)."""
    must = [commit.n for commit in commits if commit.after <= instant]
    may = [commit.n for commit in commits if commit.before <= instant < commit.after]
    faults = []
    if checked["integrity"] != "ok":
        faults.append(f"the database's own check says: {checked['integrity']}")
    if checked["bad_checksums"] or checked["holes"]:
        faults.append(
            f"{checked['bad_checksums']} rows with a wrong checksum, {checked['holes']} missing in between"
        )
    last_must = max(must, default=0)
    if (checked["last"] or 0) < last_must:
        faults.append(f"committed up to row {last_must}, recovered only up to {checked['last']}")
    if (checked["last"] or 0) > max([last_must, *may]):
        faults.append(f"row {checked['last']} was committed after the instant")
    return Verdict(len(must), len(may), checked["rows"], faults)
