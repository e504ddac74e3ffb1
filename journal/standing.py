"""Where a writer's timeline stands: what the next frame must be, by the frames that were taken."""

from __future__ import annotations

from journal.history import Cut
from journal.notes import JournalDisk
from journal.sequence import Sequence


class Standing:
    """The state of a timeline after the last frame that was appended, durable or not."""

    _state: Sequence

    @property
    def next_lsn(self) -> int:
        """LSN that the next record must have."""
        return self._state.next_lsn

    @property
    def next_cut(self) -> int:
        """Number that the next cut must have."""
        return self._state.next_cut

    @property
    def epoch(self) -> int:
        """Number of the last epoch, 0 when there is none."""
        return self._state.epoch

    @property
    def epoch_open(self) -> bool:
        """Whether frames of that epoch may follow: no gap, nothing damaged that its points need."""
        return self._state.epoch_open

    @property
    def generation(self) -> int | None:
        """The tap's generation in the last epoch."""
        return self._state.generation

    @property
    def position(self) -> int:
        """The tap's resume position after the last frame."""
        return self._state.position

    @property
    def valid(self) -> bool:
        """Whether the last epoch's sync has ended."""
        return self._state.valid

    @property
    def valid_base(self) -> bool:
        """Whether a bitmap sync may follow: there is a valid epoch, and nothing that it needs is damaged."""
        return self._state.valid_base

    @property
    def known_disks(self) -> dict[int, JournalDisk]:
        """Every disk that the journal ever had, by the number that it must keep."""
        return dict(self._state.known)

    @property
    def sync_cursor(self) -> dict[str, int] | None:
        """{disk, sector} before which everything of the running sync was sent, None at its beginning."""
        return dict(self._state.sync_cursor) if self._state.sync_cursor else None

    @property
    def last_cut(self) -> Cut | None:
        """The newest cut."""
        return self._state.last_cut
