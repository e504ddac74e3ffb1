"""The agent as a service: adopt the tap, enrol, connect, say hello, stream; again and again until told to stop."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

from guesttap.agent import clock, machine
from guesttap.agent.capture import Capture
from guesttap.agent.connection import Backoff, connect, first_message
from guesttap.agent.enrol import enrol_if_needed
from guesttap.agent.errors import ApplianceUnreachableError, DiskGrownError, DormantError
from guesttap.agent.hardening import Watchdog, harden
from guesttap.agent.health import Health
from guesttap.agent.log import Log
from guesttap.agent.session import Session
from guesttap.agent.settings import Settings
from guesttap.agent.status import publish
from guesttap.agent.store import Store
from guesttap.agent.unit import EXIT_DORMANT
from guesttap.bpf.disks import disks_to_tap, resolve_disks
from guesttap.bpf.errors import BrokenTapError
from guesttap.bpf.pins import Pins
from guesttap.bpf.tap import BpfTap
from guesttap.channel import Channel
from guesttap.protocol import VERSION, Message
from lastwrite import __version__
from lastwrite.errors import IntegrityError, LastwriteError, UnavailableError

if TYPE_CHECKING:
    from types import FrameType

POLL_SECONDS = 0.2


class Agent:
    """The service. `run` returns the process's exit status."""

    def __init__(self, settings: Settings, log: Log) -> None:
        self._settings = settings
        self._log = log
        self._store = Store(settings.state_dir)
        self._instance = settings.instance or machine.instance()
        self._boot = machine.boot()
        self._backoff = Backoff()
        self._watchdog = Watchdog()
        self._stopping = False
        self._capture: Capture | None = None
        self._health: Health | None = None

    def run(self) -> int:
        """Serve until SIGTERM (0), a detach or a dormant answer (EXIT_DORMANT). Raises LastwriteError."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        for problem in harden():
            self._log.say(f"Note: {problem}")
        self._adopt()
        try:
            while not self._stopping:
                if self._attempt():
                    return EXIT_DORMANT
                self._pause(self._backoff.next_delay())
        except DormantError as error:
            return self._sleep_on(error)
        finally:
            if self._capture is not None:
                self._capture.close()
        return 0

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True

    def _attempt(self) -> bool:
        """Connect once and stream as long as that lasts; True when the tap was detached for good."""
        try:
            if enrol_if_needed(self._settings, self._store, self._instance):
                self._log.say(f"Enrolled as VM {self._settings.vm}.")
            channel = connect(self._settings, (self._store.certificate_path, self._store.key_path))
            try:
                return self._serve(channel)
            finally:
                channel.close()
        except DiskGrownError as error:
            self._log.say(f"{error.message} The tap is attached anew.")
            self._detach()
        except (UnavailableError, IntegrityError, OSError) as error:
            self._log.say(f"No connection: {error}")
        publish(self._settings.run_dir, {"state": "Disconnected"})
        return False

    def _serve(self, channel: Channel) -> bool:
        channel.send_message(self._hello())
        welcome = first_message(channel)
        if welcome["type"] != "welcome":
            raise ApplianceUnreachableError(
                "it answered {}: {}".format(welcome["type"], welcome.get("message"))
            )
        if welcome["action"] == "dormant":
            raise DormantError(str(welcome.get("reason"))[:300])
        if welcome.get("fence"):
            # Durable before any frame: an agent without this fence is a copy of the past.
            self._store.remember(fence=welcome["fence"])
        capture = self._ready_capture(channel)
        self._log.say("Connected: {} ({}).".format(welcome["action"], welcome.get("reason", "")))
        self._backoff.reset()
        health = self._health or Health(capture.tap)
        self._health = health
        session = Session(self._settings, channel, capture, welcome, self._log, health)
        session.run(lambda: self._stopping)
        if session.detached:
            self._capture = None
        return session.detached

    # --- the tap

    def _adopt(self) -> None:
        """Find the tap of an earlier process of ours. One that cannot be used is taken out."""
        try:
            tap = BpfTap.adopt(self._settings.pin_dir)
        except BrokenTapError as error:
            self._log.say(f"The tap found in the kernel is not usable and is removed: {error.message}")
            Pins(self._settings.pin_dir).remove()
            return
        if tap is not None:
            self._use(tap)

    def _ready_capture(self, channel: Channel) -> Capture:
        """Return the capture; on a fresh boot the tap is attached only now, after the appliance has agreed."""
        if self._capture is not None:
            return self._capture
        try:
            tap = BpfTap.attach(self._disks(), self._settings.ring_bytes, self._settings.pin_dir)
        except LastwriteError as error:
            channel.send_message({"type": "error", "code": error.code, "message": error.message[:300]})
            channel.close(flush_seconds=1.0)
            raise
        return self._use(tap)

    def _use(self, tap: BpfTap) -> Capture:
        disks = machine.describe_disks(tap.disks)
        self._capture = Capture(tap, self._store, self._boot, disks)
        self._health = None
        return self._capture

    def _disks(self) -> list[str]:
        return disks_to_tap() if self._settings.taps_all_disks else list(self._settings.disks)

    def _detach(self) -> None:
        capture, self._capture = self._capture, None
        if capture is not None:
            capture.detach()

    def _hello(self) -> Message:
        capture, moment = self._capture, clock.now()
        tap = capture.tap if capture is not None else None
        disks = tap.disks if tap is not None else resolve_disks(self._disks())
        return {
            "type": "hello",
            "protocol": VERSION,
            "agent": __version__,
            "instance": self._instance,
            "boot": self._boot,
            "fence": self._store.remembered.fence,
            "generation": tap.generation if tap is not None else None,
            "resume": tap.consumer_position if tap is not None else 0,
            "head": tap.producer_position if tap is not None else 0,
            "whole": capture is not None and capture.whole,
            "dirty_known": capture is not None and capture.dirty_known,
            "epoch": capture.number if capture is not None else None,
            "kernel": machine.kernel(),
            "disks": machine.describe_disks(disks),
            "wall": moment.wall,
            "mono": moment.mono,
        }

    # --- the ends

    def _sleep_on(self, error: DormantError) -> int:
        self._detach()
        self._log.say(f"This agent sends nothing and has ended, because the appliance said: {error.message}")
        self._log.say(error.hint)
        publish(self._settings.run_dir, {"state": "Unprotected", "reason": error.message})
        return EXIT_DORMANT

    def _pause(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self._stopping and time.monotonic() < deadline:
            self._watchdog.turn()
            time.sleep(max(0.0, min(POLL_SECONDS, deadline - time.monotonic())))
