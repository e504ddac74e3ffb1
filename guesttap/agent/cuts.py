"""Cuts: ticks by themselves, bookmarks and AppShots on request.

A tick stands after the last record read so far. Its time is the clock as it was *before* the ring was read: all
that had completed by then was in the ring by then, so the state at the tick holds everything that anybody
was told is done at that time. (With the clock read afterwards a write could fall between the two, and the tick
would claim a state newer than it is.) When the ring was not read to its end, the last record's own time
has the same property. Bookmarks and AppShots put a mark into the ring, so their place is exact.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Callable, Dict

from guesttap.agent import clock
from guesttap.agent.capture import Capture
from guesttap.agent.clock import Moment
from guesttap.agent.errors import AgentBusyError
from guesttap.agent.quiesce import Outcome, Quiescer
from guesttap.agent.stream import Stream

if TYPE_CHECKING:
    from guesttap.bpf.ring import RingRecord

BUSY_TICK_NS, IDLE_TICK_NS = 1_000_000_000, 2_000_000_000
HOLD_NS = 3_000_000_000
"""How long the ring may wait for an AppShot's applications after its mark; then it counts without them."""

Result = Dict[str, Any]
Reply = Callable[[Result], None]
Refuse = Callable[[str], None]


class Ticker:
    """Places the ticks of one connection."""

    def __init__(self, capture: Capture, stream: Stream) -> None:
        self._capture = capture
        self._stream = stream
        self._last = Moment(0, 0)
        self._last_position = -1
        self._epoch = -1

    def turn(self, before: Moment, offset: int | None) -> None:
        """Place a tick if it is time for one. `before`: the clock before the ring was read this time."""
        capture, pump = self._capture, self._capture.pump
        if not capture.streaming or not pump.at_rest or pump.held:
            return
        waited = time.monotonic_ns() - self._last.mono
        moved = pump.position != self._last_position or self._stream.epoch != self._epoch
        if waited < (BUSY_TICK_NS if moved else IDLE_TICK_NS):
            return
        moment = before if pump.caught_up else clock.at(pump.last_time)
        if moment.mono <= self._last.mono:
            return
        self._stream.cut(moment, "tick", "crash", offset=offset)
        self._last, self._last_position, self._epoch = moment, pump.position, self._stream.epoch


def bookmark(capture: Capture, stream: Stream, label: str | None, offset: int | None, kind: str,
             reply: Reply, refuse: Refuse) -> None:  # fmt: skip
    """Put a mark into the ring, and a cut where it is read. Raises AgentBusyError, RingFullError."""
    _require_valid(capture)

    def reached(record: RingRecord) -> None:
        moment = clock.at(record.time)
        lsn, number = stream.cut(moment, kind, "crash", label=label, offset=offset)
        reply(_result(lsn, number, moment, "crash", None, []))

    token = capture.marks.expect(reached, refuse)
    try:
        capture.tap.mark(token)
    except BaseException:
        capture.marks.give_up(token)
        raise


class AppShot:
    """One AppShot under way: its freeze runs elsewhere (quiesce.py); the ring waits at its mark for the verdict."""

    def __init__(
        self,
        capture: Capture,
        stream: Stream,
        label: str | None,
        offset: int | None,
        start: Callable[[Callable[[], None]], Quiescer],
        reply: Reply,
        refuse: Refuse,
    ) -> None:
        """`start` is given what puts the mark, and starts the freeze. Raises AgentBusyError."""
        _require_valid(capture)
        self._capture = capture
        self._stream = stream
        self._label = label
        self._offset = offset
        self._reply = reply
        self._refuse = refuse
        self._moment: Moment | None = None
        self._held_since = 0
        self.over = False
        self._token = token = capture.marks.expect(self._reached, self._failed)
        self.quiescer = start(lambda: capture.tap.mark(token))

    @property
    def frozen(self) -> bool:
        """Whether file systems may be frozen now: then the agent touches none."""
        return self.quiescer.frozen

    def turn(self) -> None:
        """Take news; place the cut when its worth is known."""
        self.quiescer.poll()
        outcome = self.quiescer.outcome
        if self.over or self._moment is None:
            if outcome is not None and not outcome.marked and not self.over:
                self._capture.marks.give_up(self._token)
                self._failed("; ".join(outcome.messages) or "no mark could be put")
            return
        if outcome is None and time.monotonic_ns() - self._held_since > HOLD_NS:
            outcome = self.quiescer.so_far()
        if outcome is not None:
            self._place(outcome)

    def abandon(self) -> None:
        """The connection is gone: thaw, and forget it."""
        self.over = True
        self._capture.pump.held = False
        self.quiescer.abandon()

    def _reached(self, record: RingRecord) -> None:
        self._moment = clock.at(record.time)
        self._held_since = time.monotonic_ns()
        self._capture.pump.held = True

    def _place(self, outcome: Outcome) -> None:
        moment = self._moment or clock.now()
        keys = {"label": self._label, "offset": self._offset, "frozen": outcome.frozen_ns}
        lsn, number = self._stream.cut(moment, "appshot", outcome.consistency, **keys)
        self._capture.pump.held = False
        self.over = True
        self._reply(_result(lsn, number, moment, outcome.consistency, outcome.frozen_ns, outcome.messages))

    def _failed(self, reason: str) -> None:
        self.over = True
        self._capture.pump.held = False
        self._refuse(reason)


def _require_valid(capture: Capture) -> None:
    if not capture.valid:
        raise AgentBusyError("the VM's sync is not finished, so nobody could recover to this point")


def _result(
    lsn: int, number: int, moment: Moment, consistency: str, frozen: int | None, messages: list[str]
) -> Result:
    return {
        "lsn": lsn,
        "number": number,
        "wall": moment.wall,
        "mono": moment.mono,
        "consistency": consistency,
        "frozen": frozen,
        "messages": messages,
    }
