"""Real TLS, a real receiver process, a real journal; the tap is a double."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from guesttap.channel import ChannelClosed
from guesttap.ingest_client import TapNotConnectedError, TapRequestFailedError
from journal.frame import parse_header
from journal.reader import JournalReader
from lastwrite.catalog import UnknownVmError, VmRow
from tests.receiver.conftest import Appliance, Restarts, wait_for
from tests.receiver.double import TapDouble, await_message


def stored_frames(vm: VmRow) -> Counter[bytes]:
    """Return the bytes of every whole frame that lies in the journal's segments, read with no help of ours."""
    found: Counter[bytes] = Counter()
    for path in Path(vm.journal).glob("timelines/*/*.seg"):
        data, place = path.read_bytes(), 4096
        while data[place : place + 4] == b"LWF1":
            end = place + parse_header(data[place : place + 64]).frame_bytes
            found[data[place:end]] += 1
            place = end
    return found


class Pumping:
    """Pumps a tap on a thread while the test asks the receiver something; answers requests like an agent."""

    def __init__(self, tap: TapDouble, lie: bool = False, mute: bool = False) -> None:
        self.tap = tap
        self.lie = lie
        self.mute = mute
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join(10)

    def run(self) -> None:
        try:
            while not self.stop.is_set():
                for item in self.tap.pump(0.05):
                    if isinstance(item, dict) and item["type"] == "request" and not self.mute:
                        self.answer(item["id"], item["label"])
        except ChannelClosed:
            pass

    def answer(self, number: int, label: str) -> None:
        lsn, cut = (5, 999) if self.lie else self.tap.cut("bookmark", label=label)
        result = {"lsn": lsn, "number": cut, "wall": 1, "mono": 1, "consistency": "crash", "messages": []}
        reply = {"type": "reply", "id": number, "ok": True, "result": result, "error": None}
        self.tap.live().send_message(reply)


def test_what_is_acknowledged_is_in_the_journal_bit_for_bit(
    appliance: Appliance, vm: VmRow, tap: TapDouble
) -> None:
    assert tap.hello()["action"] == "begin"
    tap.follow()
    for _ in range(50):
        tap.write()
        tap.pump()
    tap.cut()
    tap.settle()
    assert tap.acked_lsn == tap.next_lsn
    assert stored_frames(vm) == Counter(tap.sent.values())
    assert JournalReader(vm.journal).latest() == tap.next_lsn - 1


@pytest.mark.usefixtures("own_appliance")
def test_nothing_acknowledged_is_lost_through_ten_kills(
    appliance: Appliance, vm: VmRow, tap: TapDouble
) -> None:
    chance = random.Random(2026)
    acked = 0
    appliance.terminate()
    receivers = Restarts(appliance)
    receivers.start()
    for _ in range(10):
        action = tap.hello()["action"]
        assert action == ("resume" if acked else "begin")
        tap.follow()
        until = time.monotonic() + chance.uniform(0.05, 0.4)
        killer = threading.Timer(until - time.monotonic(), receivers.kill)
        killer.start()
        try:
            while True:
                if len(tap.ring) < 64:
                    tap.write(chance.choice((1, 5, 40)))
                tap.pump()
        except ChannelClosed:
            acked = tap.acked_lsn
        killer.join()
        # What was acknowledged must lie in the files before anything repairs them.
        stored = stored_frames(vm)
        for frame in tap.sent.values():
            if parse_header(frame).next_lsn <= acked:
                assert frame in stored
        receivers.start()
    tap.hello()
    tap.follow()
    tap.settle()
    receivers.close()
    reader = JournalReader(vm.journal)
    assert reader.next_lsn == tap.next_lsn
    assert not reader.damage()
    assert len(reader.epochs()) == 1
    # Every frame is there, and once: duplicates were never stored twice.
    assert stored_frames(vm) == Counter(tap.sent.values())


def test_a_mark_is_answered_when_its_cut_is_durable(appliance: Appliance, vm: VmRow, tap: TapDouble) -> None:
    tap.hello()
    tap.follow()
    with Pumping(tap):
        made = appliance.client.mark(vm.name, "before-upgrade")
        cut = JournalReader(vm.journal).cuts()[-1]
        assert (cut.number, cut.lsn, cut.label) == (made["number"], made["lsn"], "before-upgrade")


def test_a_mark_whose_cut_is_not_in_the_stream_fails(appliance: Appliance, vm: VmRow, tap: TapDouble) -> None:
    tap.hello()
    tap.follow()
    with Pumping(tap, lie=True), pytest.raises(TapRequestFailedError, match="not in the stream"):
        appliance.client.mark(vm.name, "never")


def test_a_mark_ends_in_time_when_the_tap_does_not_answer(
    appliance: Appliance, vm: VmRow, tap: TapDouble
) -> None:
    tap.hello()
    tap.follow()
    with Pumping(tap, mute=True), pytest.raises(TapRequestFailedError, match="did not answer"):
        appliance.client.mark(vm.name, "never", seconds=0.5)


def test_a_mark_without_a_tap_says_so(appliance: Appliance, vm: VmRow) -> None:
    with pytest.raises(TapNotConnectedError):
        appliance.client.mark(vm.name, "x")
    with pytest.raises(UnknownVmError, match="web02"):
        appliance.client.mark("web02", "x")


def test_a_bookmark_can_be_made_with_and_without_a_session(
    appliance: Appliance, vm: VmRow, tap: TapDouble
) -> None:
    tap.hello()
    tap.follow()
    tap.settle()
    with Pumping(tap):
        appliance.client.bookmark(vm.name, 4, "live")
    tap.close()
    wait_for(appliance, vm, "connected", False)
    appliance.client.bookmark(vm.name, 4, "later")
    assert {"live", "later"} <= {cut.label for cut in JournalReader(vm.journal).cuts()}


def test_the_status_measures_the_rpo(appliance: Appliance, vm: VmRow, tap: TapDouble) -> None:
    assert appliance.status(vm)["state"] == "Disconnected"
    assert appliance.status(vm)["rpo_ms"] is None
    tap.hello()
    tap.attached, tap.epoch = True, 1
    with Pumping(tap):
        wait_for(appliance, vm, "state", "InitialSync")
        assert appliance.status(vm)["rpo_ms"] is None
    tap.follow()
    tap.settle()
    with Pumping(tap):
        wait_for(appliance, vm, "state", "Protected")
        time.sleep(2.5)  # idle: only pongs say that nothing is missing
        status = appliance.status(vm)
    assert isinstance(status["rpo_ms"], int)
    assert 0 <= status["rpo_ms"] < 2000
    assert isinstance(status["clock_offset_ns"], int)
    assert abs(status["clock_offset_ns"]) < 500_000_000
    assert status["ring_used"] == 0
    tap.close()
    wait_for(appliance, vm, "state", "Disconnected")
    before = appliance.status(vm)["rpo_ms"]
    assert isinstance(before, int)
    time.sleep(0.3)
    after = appliance.status(vm)["rpo_ms"]
    assert isinstance(after, int)
    assert after >= before + 200


@pytest.mark.usefixtures("own_appliance")
def test_a_restarted_receiver_knows_the_rpo_from_the_journal(
    appliance: Appliance, vm: VmRow, tap: TapDouble
) -> None:
    tap.hello()
    tap.follow()
    tap.settle()
    tap.close()
    assert appliance.terminate() == 0
    assert not appliance.settings.ingest_socket.exists()
    appliance.start()
    status = appliance.status(vm)
    assert isinstance(status["rpo_ms"], int)
    assert 0 < status["rpo_ms"] < 60_000
    assert status["next_lsn"] == tap.next_lsn


def test_the_ingest_socket_is_for_its_owner_alone(appliance: Appliance) -> None:
    assert appliance.settings.ingest_socket.stat().st_mode & 0o777 == 0o600


def test_a_gap_and_a_new_epoch_are_taken_on_a_live_connection(
    appliance: Appliance, vm: VmRow, tap: TapDouble
) -> None:
    tap.hello()
    tap.follow()
    tap.write()
    tap.add(tap.build(notes=[{"note": "gap", "wall": 1, "mono": 1, "reason": "the ring was full"}]))
    tap.welcome |= {"action": "begin", "epoch": 2, "base": True}
    tap.welcome |= {"next_lsn": tap.next_lsn, "next_cut": tap.next_cut}
    ring, tap.ring = tap.ring, []
    tap.resume += len(ring)
    tap.follow()
    tap.ring, tap.resume = ring + tap.ring, tap.resume - len(ring)
    tap.settle()
    first, second = JournalReader(vm.journal).epochs()
    assert first.gap_reason == "the ring was full"
    assert second.sync == "bitmap"
    assert second.valid_from is not None


def test_end_of_protection_makes_the_tap_dormant(appliance: Appliance, vm: VmRow, tap: TapDouble) -> None:
    appliance.catalog.update_vm(vm.id, protected=False)
    assert tap.hello()["action"] == "dormant"
    assert appliance.status(vm)["state"] == "Unprotected"


def test_ping_carries_the_offset(appliance: Appliance, vm: VmRow, tap: TapDouble) -> None:
    tap.hello()
    tap.pong(await_message(tap.live(), "ping"))
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        ping = await_message(tap.live(), "ping")
        tap.pong(ping)
        if ping["offset"] is not None:
            assert abs(ping["offset"]) < 500_000_000
            return
    raise AssertionError("no ping carried an offset")
