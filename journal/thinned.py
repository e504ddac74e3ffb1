"""What thinning has left of the recovery points: in the range of a net segment, the ends of its intervals only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from journal.table import Int64s


class NetRange(NamedTuple):
    """The LSNs from `first_lsn` up to before `next_lsn`; `ends`: the last LSN of each interval, ascending."""

    first_lsn: int
    next_lsn: int
    ends: Int64s


class Thinned:
    """The thinned ranges of a lineage, ordered and apart from each other."""

    def __init__(self, ranges: Iterable[NetRange] = ()) -> None:
        self.ranges = list(ranges)
        self._first = np.array([r.first_lsn for r in self.ranges], np.int64)

    def _range(self, lsn: int) -> NetRange | None:
        index = int(np.searchsorted(self._first, lsn, "right")) - 1
        found = self.ranges[index] if index >= 0 else None
        return found if found and lsn < found.next_lsn else None

    def allows(self, lsn: int) -> bool:
        """Return whether thinning has left `lsn` what it was."""
        found = self._range(lsn)
        if found is None:
            return True
        index = int(np.searchsorted(found.ends, lsn))
        return index < len(found.ends) and int(found.ends[index]) == lsn

    def at_or_before(self, lsn: int) -> int:
        """Return the newest LSN up to `lsn` that is not thinned away; it may be no point for another reason."""
        while (found := self._range(lsn)) is not None:
            index = int(np.searchsorted(found.ends, lsn, "right")) - 1
            if index >= 0:
                return int(found.ends[index])
            lsn = found.first_lsn - 1
        return lsn

    def at_or_after(self, lsn: int) -> int:
        """Return the oldest LSN from `lsn` on that is not thinned away; it may be no point for another reason."""
        while (found := self._range(lsn)) is not None:
            index = int(np.searchsorted(found.ends, lsn))
            if index < len(found.ends):
                return int(found.ends[index])
            lsn = found.next_lsn
        return lsn
