"""What of a timeline cannot be thinned: which range, why, and what helps. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from journal.retention.facts import IN_USE, NOT_ENDED
from journal.retention.plan import Facts
from lastwrite.text import size, utc

_SYNC = "nothing is to be done: it is thinned when the sync has ended, or another has begun"


@dataclass(frozen=True, slots=True)
class Stuck:
    """Neighbouring files that stay as they are. Both LSNs belong to it; times in ns, appliance's clock, 0: not known.

    `reason` and `remedy` are parts of sentences.
    """

    timeline: int
    first_lsn: int
    last_lsn: int
    files: int
    bytes: int
    oldest: int
    newest: int
    reason: str
    remedy: str

    def sentence(self) -> str:
        """Return the range and the reason for people."""
        files = f"{self.files} {'file' if self.files == 1 else 'files'}, {size(self.bytes)}"
        lsns = f"LSN {self.first_lsn} to {self.last_lsn}" if self.last_lsn >= self.first_lsn else "no records"
        return (
            f"{lsns} of timeline {self.timeline} ({files}, {utc(self.oldest or None)} to {utc(self.newest)}) cannot be"
            f" thinned: {self.reason}"
        )


def stuck_sentences(stuck: Sequence[Stuck]) -> list[str]:
    """Return what is to be said of ranges that cannot be thinned: each of them, then each remedy once."""
    remedies = dict.fromkeys(one.remedy for one in stuck)
    return [*(one.sentence() for one in stuck), *(f"what helps: {remedy}" for remedy in remedies)]


def stuck_in(folder: Path, timeline: int, facts: Facts, older_than: int) -> list[Stuck]:
    """Return what cannot be thinned: all that damage keeps, and what is `older_than` a time (ns) of the rest."""
    damage = f"`lastwrite journal check {folder}` names what is damaged: put those files back from a copy"
    found: list[Stuck] = []
    for file in facts.files:
        waits = NOT_ENDED in file.fixed
        if not file.fixed or file.fixed == IN_USE or (waits and file.newest > older_than):
            continue
        remedy = _SYNC if waits else damage
        end = file.next_lsn - 1
        one = Stuck(
            timeline, file.first_lsn, end, 1, file.bytes, file.oldest, file.newest, file.fixed, remedy
        )
        before = found[-1] if found else None
        if before and before.reason == one.reason and before.last_lsn + 1 == one.first_lsn:
            found[-1] = replace(before, last_lsn=end, files=before.files + 1, bytes=before.bytes + one.bytes,
                                newest=one.newest)  # fmt: skip
        else:
            found.append(one)
    return found
