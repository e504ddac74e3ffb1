"""What may differ between the disks and what the appliance has, and so which sync the next epoch needs."""

from __future__ import annotations

from typing import Mapping

from guesttap.agent.dirty import DirtySet
from guesttap.agent.epochs import Epoch


class Knowledge:
    """The places in `dirty` may differ from the end of the last valid epoch; all others do not, if `complete`.

    `base` says that the appliance's journal has a valid epoch that a bitmap sync can stand on.
    """

    def __init__(self, sizes: Mapping[int, int]) -> None:
        self._sizes = dict(sizes)
        self.dirty = DirtySet(sizes)
        self.base = False
        self._doubt: str | None = "the agent knows nothing of what was sent before"

    @property
    def complete(self) -> bool:
        """Whether every place that may differ is known."""
        return self._doubt is None

    def lose(self, doubt: str) -> None:
        """From now on any place may differ, for this reason."""
        self._doubt = self._doubt or doubt

    def nothing_differs(self) -> None:
        """An open epoch takes care of everything that was known."""
        self.dirty = DirtySet(self._sizes)
        self._doubt = None

    def fold(self, epoch: Epoch | None) -> None:
        """The journal leaves an epoch out that never became valid: what it was to bring, the next must bring."""
        if epoch is None or epoch.plan is None or epoch.touched is None:
            return
        self.dirty.update(epoch.touched)
        if epoch.plan.everything:
            self.lose("the sync before was not finished")
        else:
            self.dirty.add_all(epoch.plan.extents)

    def kind_of_sync(self, number: int, before: Epoch | None) -> str:
        """Return how epoch `number`, which follows `before`, has to sync: bitmap, initial or full."""
        if self.base and self.complete:
            return "bitmap"
        never_valid = number == 1 or (before is not None and before.sync == "initial" and not before.valid)
        return "full" if self.base or not never_valid else "initial"
