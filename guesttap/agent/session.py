"""One connection after its welcome: the loop that owns the channel, the ring and the sync.

One thread does everything, in turns of a few milliseconds: an SSL object cannot be shared, and order needs no
locks this way. Nothing here waits for the appliance: when the network is slow, the ring is left alone.
"""

from __future__ import annotations

import time
from typing import Any, Callable

from guesttap.agent import clock
from guesttap.agent.capture import Capture, Mode
from guesttap.agent.connection import SILENCE_SECONDS
from guesttap.agent.cuts import AppShot, Ticker, bookmark
from guesttap.agent.errors import AgentBusyError
from guesttap.agent.hardening import Watchdog
from guesttap.agent.health import Health
from guesttap.agent.log import Log
from guesttap.agent.mounts import mounts_on
from guesttap.agent.pump import Break
from guesttap.agent.quiesce import Quiescer
from guesttap.agent.settings import Settings
from guesttap.agent.status import StatusFile, describe
from guesttap.agent.stream import Stream
from guesttap.channel import Channel, ChannelClosed
from guesttap.protocol import Message, ProtocolError
from lastwrite.errors import LastwriteError

BUSY_SECONDS, IDLE_SECONDS = 0.002, 0.015
MAX_HOOK_SECONDS = 60.0
DETACH_FLUSH_SECONDS = 2.0


class Session:
    """Streams over one channel until it closes (ChannelClosed), `stop` says so, or the tap was detached."""

    def __init__(
        self,
        settings: Settings,
        channel: Channel,
        capture: Capture,
        welcome: Message,
        log: Log,
        health: Health,
    ) -> None:
        self._settings = settings
        self._channel = channel
        self._capture = capture
        self._log = log
        self._health = health
        self._stream = Stream(
            channel.send_frame,
            capture.number_disks(welcome.get("disks")),
            epoch=welcome["epoch"],
            next_lsn=welcome["next_lsn"],
            next_cut=welcome["next_cut"],
            position=welcome["position"] if welcome["action"] == "resume" else capture.tap.consumer_position,
        )
        self._ticker = Ticker(capture, self._stream)
        self._status = StatusFile(settings.run_dir)
        self._watchdog = Watchdog()
        self._appshot: AppShot | None = None
        self._offset: int | None = None
        self._said = ""
        self.detached = False
        if welcome["action"] == "resume":
            capture.resume(welcome, self._stream)
        else:
            capture.begin(welcome)

    def run(self, stop: Callable[[], bool]) -> None:
        """Work until `stop()` or a detach. Raises ChannelClosed and other LastwriteErrors, OSError."""
        try:
            while not stop() and not self.detached:
                self.turn()
            self._stream.flush_old()
            self._channel.close(flush_seconds=DETACH_FLUSH_SECONDS)
        finally:
            if self._appshot is not None:
                self._appshot.abandon()
                self._log.release()

    def turn(self) -> None:
        """One round: messages, ring, sync, tick, health."""
        busy = self._channel.pending_bytes > 0 or not self._capture.pump.caught_up
        busy = busy or (self._capture.epoch is not None and not self._capture.epoch.valid)
        extra = self._freeze_descriptor()
        for item in self._channel.pump(BUSY_SECONDS if busy else IDLE_SECONDS, extra):
            if isinstance(item, dict):
                self._take(item)
        if time.monotonic() - self._channel.last_received > SILENCE_SECONDS:
            raise ChannelClosed(f"the appliance was silent for {SILENCE_SECONDS:g} s")
        self._watchdog.turn()
        self._follow_appshot()
        if not self._is_frozen() and not self.detached:
            self._work()

    def _work(self) -> None:
        before = clock.now()  # before the ring is read: see cuts.py
        capture, stream = self._capture, self._stream
        capture.read(stream, self._channel.pending_bytes)
        capture.sync(stream, self._channel.pending_bytes)
        self._ticker.turn(before, self._offset)
        stream.flush_old()
        if capture.valid and capture.pump.caught_up and capture.pump.at_rest:
            wrong = self._health.check()
            if wrong:
                self._log.say(f"Accounting: {wrong}")
                capture.break_epoch(stream, Break(wrong, full=True))
        self._status.write(lambda: describe(capture, self._health), capture.mode)
        for line in capture.take_news():
            self._log.say(line)
        self._say_state()

    # --- messages

    def _take(self, message: Message) -> None:
        kind = message["type"]
        if kind == "ack":
            self._capture.acknowledge(message["lsn"], message["position"])
        elif kind == "ping":
            self._pong(message)
        elif kind == "request":
            self._request(message)
        elif kind == "error":
            raise ChannelClosed("the appliance ended it: {}".format(str(message.get("message"))[:300]))
        else:
            raise ProtocolError(f"the appliance sent {kind[:40]!r} in a session")

    def _pong(self, message: Message) -> None:
        self._offset = message.get("offset")
        moment = clock.now()  # before the ring's fill is looked at: what it says holds for that time
        status = describe(self._capture, self._health)
        pong = {"type": "pong", "sent": message["sent"], "wall": moment.wall, "mono": moment.mono}
        self._channel.send_message({**pong, "status": status})

    def _request(self, message: Message) -> None:
        number, do, label = message["id"], message.get("do"), message.get("label")

        def reply(result: dict[str, Any]) -> None:
            self._channel.send_message(
                {"type": "reply", "id": number, "ok": True, "result": result, "error": None}
            )

        def refuse(reason: str) -> None:
            self._channel.send_message(
                {"type": "reply", "id": number, "ok": False, "result": None, "error": reason}
            )

        try:
            if do == "mark":
                kind = "shutdown" if message.get("kind") == "shutdown" else "bookmark"
                bookmark(self._capture, self._stream, label, self._offset, kind, reply, refuse)
            elif do == "appshot":
                self._start_appshot(label, message.get("deadline"), reply, refuse)
            elif do == "detach":
                self._detach(reply)
            else:
                refuse(f"this agent does not know how to do {str(do)[:40]!r}")
        except LastwriteError as error:
            refuse(error.message)

    def _detach(self, reply: Callable[[dict[str, Any]], None]) -> None:
        self._capture.detach()
        self.detached = True
        self._log.say("The tap was detached, as the appliance asked.")
        reply({})

    # --- AppShots

    def _start_appshot(self, label: str | None, deadline: object, reply: Any, refuse: Any) -> None:
        if self._appshot is not None:
            raise AgentBusyError("another AppShot is under way")
        capture, channel = self._capture, self._channel
        seconds = deadline / 2e9 if isinstance(deadline, int) else MAX_HOOK_SECONDS
        mounts = mounts_on(disk.name for disk in capture.tap.disks)

        def start(mark: Callable[[], None]) -> Quiescer:
            limit = min(MAX_HOOK_SECONDS, seconds)
            return Quiescer(mounts, self._settings.hooks_dir, mark, limit, [channel.fileno()])

        self._appshot = AppShot(capture, self._stream, label, self._offset, start, reply, refuse)

    def _freeze_descriptor(self) -> tuple[int, ...]:
        shot = self._appshot
        return () if shot is None or shot.quiescer.outcome is not None else (shot.quiescer.fileno(),)

    def _is_frozen(self) -> bool:
        return self._appshot is not None and self._appshot.frozen

    def _follow_appshot(self) -> None:
        shot = self._appshot
        if shot is None:
            return
        if not shot.frozen:
            # Before the answer to `freezing` is given: from then on no line may reach a file system.
            self._log.hold()
        shot.turn()
        if not shot.frozen:
            self._log.release()
        if shot.over and shot.quiescer.outcome is not None:
            self._appshot = None

    def _say_state(self) -> None:
        mode, epoch = self._capture.mode, self._capture.epoch
        words = {
            Mode.BROKEN: "Writes could not all be kept in order; the places are noted and will be sent.",
            Mode.BEGINNING: "",
            Mode.IDLE: "",
        }.get(mode)
        if words is None and epoch is not None:
            words = "Protected: every write is sent." if epoch.valid else f"Sync ({epoch.sync}) is running."
        if words and words != self._said:
            self._said = words
            self._log.say(words)
