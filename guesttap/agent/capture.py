"""One attached tap and what the agent knows about it: epochs begin, break and become valid here.

Lives as long as the process, across connections. The kernel's ring is the only store of captured data: what is
not durable on the appliance stays in it, except while an epoch is broken; then the ring is read into the
dirty set and given back, for the next epoch's sync brings those places.
"""

from __future__ import annotations

import enum
import time
from typing import TYPE_CHECKING, Any, Mapping

from guesttap.agent import clock
from guesttap.agent.disks import DiskReader
from guesttap.agent.epochs import Epoch, Settling
from guesttap.agent.knowledge import Knowledge
from guesttap.agent.marks import Marks
from guesttap.agent.numbering import Numbering
from guesttap.agent.pump import Break, Pump
from guesttap.agent.store import Remembered, Store
from guesttap.agent.stream import Stream
from guesttap.agent.sync import Plan, read_step
from guesttap.bpf.errors import RingFullError

if TYPE_CHECKING:
    from guesttap.bpf.ring import RingRecord
    from guesttap.bpf.tap import BpfTap
    from guesttap.protocol import Message

OUTGOING_LIMIT = 4 << 20
"""Bytes waiting for the network above which the ring is left alone: what is in the kernel survives us."""
SYNC_OUTGOING_LIMIT = 512 << 10
MIN_CALM_NS, MAX_CALM_NS = 300_000_000, 30_000_000_000
LONG_LIFE_NS = 60_000_000_000


class Mode(enum.Enum):
    """What is done with the ring's records."""

    IDLE = "nothing, until the appliance says what to do"
    STREAMING = "they are sent, in an open epoch"
    BROKEN = "they join the dirty set, until the losses have stopped"
    BEGINNING = "they join the dirty set, up to the mark where the next epoch begins"


class Capture:
    """A tap with its epochs. One connection at a time uses it, through `resume` or `begin`, then `turn`."""

    def __init__(self, tap: BpfTap, store: Store, boot: str, disks: list[Message]) -> None:
        self.tap = tap
        self.mode = Mode.IDLE
        self.epoch: Epoch | None = None
        self.marks = Marks()
        self._store = store
        self._boot = boot
        self._disks = disks
        self._numbering = Numbering(disks, None)
        self._renumbered = False
        self._news: list[str] = []
        self.sizes = {disk.index: disk.bytes for disk in tap.disks}
        self.reader = DiskReader(tap.disks)
        self.pump = Pump(tap, self.reader)
        self._known = Knowledge(self.sizes)
        self._acked = tap.consumer_position
        self._acked_lsn = 0
        self._next_number = 1
        self._reason = ""
        self._broken_at = 0
        self._token: int | None = None
        self._calm_lost = 0
        self._calm_since = 0
        self._calm_needed = MIN_CALM_NS
        self._began = 0

    # --- what it can go on with

    @property
    def remembered(self) -> Remembered | None:
        """What an earlier process of ours knew of this very tap, or None."""
        found = self._store.remembered
        return found if found.generation == self.tap.generation else None

    @property
    def whole(self) -> bool:
        """Whether no write was lost in what can be sent, as far as the ring has been read."""
        if self.mode is Mode.IDLE and self.epoch is None:
            return self.remembered is not None and not self.remembered.broken
        return self.epoch is not None and self.mode is Mode.STREAMING

    @property
    def dirty_known(self) -> bool:
        """Whether every place that may differ from what was sent is known."""
        return self._known.complete or self.whole

    @property
    def number(self) -> int | None:
        """The epoch that it is in, or None."""
        if self.epoch is not None:
            return self.epoch.number
        return self.remembered.number if self.remembered is not None else None

    @property
    def streaming(self) -> bool:
        """Whether an epoch is open."""
        return self.mode is Mode.STREAMING

    @property
    def valid(self) -> bool:
        """Whether what is read now can be recovered to."""
        return self.mode is Mode.STREAMING and self.epoch is not None and self.epoch.valid

    @property
    def unreadable_bytes(self) -> int:
        """How much the syncs since the last one of everything could not read: the journal has zeros for it."""
        return self.remembered.unreadable_bytes if self.remembered is not None else 0

    def take_news(self) -> list[str]:
        """Return what happened since the last call, in sentences for the log."""
        taken, self._news = self._news, []
        return taken

    # --- the appliance's answer

    def number_disks(self, journal: object) -> Mapping[int, int]:
        """Take the welcome's list of disks; return the journal's number of each tapped disk. Precedes the rest.

        Raises ProtocolError when the list cannot be used.
        """
        before, self._numbering = self._numbering, Numbering(self._disks, journal)
        self._renumbered = bool(journal) and not self._numbering.known
        if self.epoch is not None and before.of != self._numbering.of:
            # What the journal holds under the old numbers is no base for the new ones.
            self._renumbered = True
            self._known.lose("the journal has other numbers for the disks than before")
        return self._numbering.of

    def resume(self, welcome: Message, stream: Stream) -> None:
        """Go on sending from the appliance's last durable position in its open epoch."""
        self._forget_connection()
        self._known.base = bool(welcome.get("base"))
        number, syncing = welcome["epoch"], bool(welcome.get("syncing"))
        if self.epoch is None:
            self._recall(number, syncing)
        self.pump.go_to(welcome["position"])
        self._next_number = number + 1
        epoch = self.epoch
        if epoch is None or epoch.number != number or self.mode is not Mode.STREAMING:
            self._break(stream, Break("the agent cannot go on with this epoch"))
            return
        if self._renumbered:
            self._break(stream, Break("the journal knows the disks by other numbers", full=True))
            return
        if not syncing:
            self._known.nothing_differs()
            epoch.become_valid()
            self.tap.confirm_dirty()
            return
        if epoch.plan is None:
            self._break(stream, Break("what was to be synced is not known any more", full=True))
            return
        epoch.plan.seek(self._numbering.local_cursor(welcome.get("cursor")))
        epoch.forget_end()
        epoch.settling = epoch.settling or Settling(self.tap)

    def begin(self, welcome: Message) -> None:
        """Begin a new epoch as soon as the ring is calm; what the ring still holds joins the dirty set."""
        self._forget_connection()
        self._known.base = bool(welcome.get("base"))
        self._next_number = welcome["epoch"]
        self._reason = str(welcome.get("reason", ""))[:200]
        if self.epoch is None:
            self._known.lose("the agent was started anew")
        elif not self._known.base or welcome["next_lsn"] < self._acked_lsn:
            self._known.lose("the journal does not hold what was sent before")
        elif self.epoch.valid and not welcome.get("valid", True):
            self._known.lose("the journal does not hold the end of the sync")
        self.pump.go_to(self.tap.consumer_position)
        self._acked = self._broken_at = self.tap.consumer_position
        self._store.remember(broken=True)
        self._enter_broken()

    def _recall(self, number: int, syncing: bool) -> None:
        """An earlier process of ours was in this epoch: go on in its place, as far as its memory is not needed."""
        found = self.remembered
        if found is None or found.broken or found.number != number:
            return
        plan = None
        if syncing and found.sync != "bitmap":
            plan = Plan(self.sizes, None)
        self.epoch = Epoch(number, found.sync, found.baseline, plan, self.sizes)
        self.mode = Mode.STREAMING

    def _forget_connection(self) -> None:
        self.marks = Marks()
        self._token = None
        if self.mode is Mode.BEGINNING:
            self.mode = Mode.BROKEN
        self._acked = self.tap.consumer_position

    # --- one round

    def read(self, stream: Stream, outgoing: int) -> None:
        """Take what the ring has. `outgoing`: bytes that wait for the network. Does not wait for anything."""
        self.pump.caught_up = False
        if self.mode is Mode.STREAMING and self.epoch is not None:
            if outgoing < OUTGOING_LIMIT and not self.pump.held:
                broke = self.pump.read(self.epoch, stream, self.marks)
                if broke is not None:
                    self._break(stream, broke)
        elif self.mode in (Mode.BROKEN, Mode.BEGINNING):
            self._absorb(stream)

    def sync(self, stream: Stream, outgoing: int) -> None:
        """Send the next piece of the sync, or mark its end, if it is time for that."""
        epoch = self.epoch
        if self.mode is not Mode.STREAMING or epoch is None or epoch.plan is None or epoch.end_marked:
            return
        if epoch.settling is not None and not epoch.settling.is_over():
            return
        if epoch.plan.finished:
            token = self.marks.expect(lambda record: self._end_sync(record, stream), lambda _reason: None)
            epoch.end_marked = self._mark(token)
        elif outgoing < SYNC_OUTGOING_LIMIT:
            builder = read_step(epoch.plan, self.reader, self._numbering.of)
            self._note_unreadable()
            moment = clock.now()
            disk, sector = epoch.plan.cursor
            number = self._numbering.of[disk]
            note = {
                "note": "sync",
                "disk": number,
                "sector": sector,
                "wall": moment.wall,
                "mono": moment.mono,
            }
            builder.notes.append(note)
            stream.sync(builder)

    def acknowledge(self, lsn: int, position: int) -> None:
        """Everything before `lsn`, and before this ring position, is durable on the appliance."""
        self._acked_lsn = max(self._acked_lsn, lsn)
        self._acked = max(self._acked, min(position, self.pump.position))
        epoch = self.epoch
        end = epoch.end_position if epoch is not None else None
        if epoch is not None and end is not None and not epoch.valid and self._acked >= end:
            epoch.become_valid()
            self._known.base = True
            if self.mode is Mode.STREAMING:  # else something came since: keep that in mind
                self._known.nothing_differs()
            self.tap.confirm_dirty()
        if self.mode is Mode.STREAMING:
            self._release(self._acked)

    def break_epoch(self, stream: Stream, broke: Break) -> None:
        """End the open epoch here, for a reason that lies outside of the ring."""
        if self.mode is Mode.STREAMING and self.pump.at_rest:
            self._break(stream, broke)

    def close(self) -> None:
        """Let go of disks and tap; the tap goes on in the kernel."""
        self.reader.close()
        self.tap.close()

    def detach(self) -> None:
        """End the capture."""
        self.reader.close()
        self.tap.detach()
        self._store.remember(generation=None)

    # --- inside

    def _release(self, position: int) -> None:
        if position > self.tap.consumer_position:
            self.tap.release(position)

    def _note_unreadable(self) -> None:
        """Count what the sync could not read, durably before its frame leaves, and name it."""
        found = self.reader.take_unreadable()
        if not found:
            return
        total = self.unreadable_bytes + sum(extent.length for extent in found)
        self._store.remember(unreadable_bytes=total)
        names = {disk.index: disk.name for disk in self.tap.disks}
        for disk, offset, length in found:
            where = f"{length} bytes at sector {offset >> 9} of disk {names[disk]}"
            self._news.append(f"The disk cannot read {where}: the journal gets zeros for them.")

    def _mark(self, token: int) -> bool:
        try:
            self.tap.mark(token)
        except RingFullError:
            self.marks.give_up(token)
            return False
        return True

    def _end_sync(self, record: RingRecord, stream: Stream) -> None:
        stream.cut(clock.at(record.time), "sync-end", "crash")
        if self.epoch is not None:
            self.epoch.end_position = record.end
        stream.reach(record.end)

    def _break(self, stream: Stream, broke: Break) -> None:
        """Close the epoch at the place that was read last, and keep what differs from there on in mind."""
        self._known.dirty.add_all(self.pump.sectors.halves())
        self.pump.go_to(self.pump.position)
        stream.reach(self.pump.position)
        stream.note(clock.now(), "gap", reason=broke.reason)
        self.marks.fail_all("the epoch ended: " + broke.reason)
        self._news.append(f"The epoch ends here: {broke.reason}.")
        if broke.full:
            self._known.lose(broke.reason)
        self._broken_at = self.pump.position
        self._reason = broke.reason
        if self.epoch is not None:
            self._next_number = self.epoch.number + 1
            long = time.monotonic_ns() - self._began > LONG_LIFE_NS
            self._calm_needed = MIN_CALM_NS if long else min(MAX_CALM_NS, 2 * self._calm_needed)
        # Durable before the ring gives anything back that only this process will know.
        self._store.remember(broken=True)
        self._enter_broken()

    def _enter_broken(self) -> None:
        self.mode = Mode.BROKEN
        self._token = None
        self._calm_since = time.monotonic_ns()
        self._calm_lost = self.tap.lost()

    def _absorb(self, stream: Stream) -> None:
        mark, known = self.pump.absorb(self._known.dirty, self._token)
        if not known:
            self._known.lose("a write failed on the disk, and nobody knows which")
        if self._acked >= self._broken_at:  # else the old epoch's last records are only in the ring
            self._release(self.pump.position)
        if mark is not None:
            if self.tap.lost() != self._calm_lost:
                self._enter_broken()
            else:
                self._begin_at(mark, stream)
        elif self.mode is Mode.BROKEN:
            self._mark_when_calm()

    def _mark_when_calm(self) -> None:
        """Put the mark where the next epoch begins, once the old one is durable and nothing is lost any more."""
        now, lost = time.monotonic_ns(), self.tap.lost()
        used = self.tap.producer_position - self.pump.position
        if lost != self._calm_lost or self.tap.lost_in_flight() or used > self.tap.ring_bytes // 2:
            self._calm_lost, self._calm_since = lost, now
        ready = self.epoch is None or now - self._calm_since >= self._calm_needed
        if ready and self._acked >= self._broken_at and not self.tap.lost_in_flight():
            token = self.marks.expect(lambda _record: None, lambda _reason: None)
            if self._mark(token):
                self._token = token
                self.mode = Mode.BEGINNING

    def _begin_at(self, mark: RingRecord, stream: Stream) -> None:
        """The new epoch begins at this mark, which was read; nothing was lost between putting and reading it."""
        self._known.fold(self.epoch)
        # After the mark: what was lost before it is in the answer, what is lost from now on breaks the epoch.
        self._known.dirty.add_all(self.tap.take_dirty())
        sync = self._known.kind_of_sync(self._next_number, self.epoch)
        plan = Plan(self.sizes, list(self._known.dirty.extents()) if sync == "bitmap" else None)
        self._store.remember(
            generation=self.tap.generation,
            number=self._next_number,
            baseline=self._calm_lost,
            sync=sync,
            broken=False,
            unreadable_bytes=self.unreadable_bytes if sync == "bitmap" else 0,
        )
        self.epoch = Epoch(self._next_number, sync, self._calm_lost, plan, self.sizes)
        self.epoch.settling = Settling(self.tap)
        self._known.nothing_differs()
        self._began = time.monotonic_ns()
        self.pump.go_to(mark.end)
        self._announce(mark, stream)
        self.mode = Mode.STREAMING

    def _announce(self, mark: RingRecord, stream: Stream) -> None:
        keys: dict[str, Any] = {"order": "total", "generation": self.tap.generation, "boot": self._boot}
        moment = clock.at(mark.time)
        sync = self.epoch.sync if self.epoch is not None else "full"
        disks = self._numbering.numbered(self._disks)
        stream.begin_epoch(
            self._next_number, mark.end, moment, reason=self._reason, sync=sync, disks=disks, **keys
        )
