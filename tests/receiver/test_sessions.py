"""Who is let in, who is not, and what of a stream is refused: real TLS, a real receiver, a tap double."""

from __future__ import annotations

import signal
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guesttap.authority import Authority
from guesttap.channel import ChannelClosed
from journal.frame import SYNC
from journal.reader import JournalReader
from lastwrite.catalog import VmRow
from tests.receiver.conftest import Appliance, wait_for
from tests.receiver.double import (
    TapDouble,
    await_message,
    connect,
    context,
    cut_note,
    enrol,
    epoch_note,
    note,
)


def streaming(tap: TapDouble) -> TapDouble:
    """Bring a tap into the middle of its stream."""
    tap.hello()
    tap.follow()
    tap.write()
    tap.settle()
    return tap


def refused_code(tap: TapDouble) -> str:
    """Return the code of the error with which the receiver ends the session."""
    error = tap.await_end()
    assert error is not None
    return str(error["code"])


# --- certificates


def hello_fails(appliance: Appliance, tls: ssl.SSLContext) -> None:
    """Assert that a hello over this TLS gets no welcome."""
    tap = TapDouble(appliance.address, tls)
    with pytest.raises((ChannelClosed, OSError)):
        tap.hello()
    tap.close()


def test_a_certificate_of_another_authority_is_turned_away(
    appliance: Appliance, vm: VmRow, tmp_path: Path
) -> None:
    other = Authority(tmp_path / "other")
    hello_fails(appliance, context(appliance.authority.ca_pem, other.issue(vm.id)))


def test_an_expired_certificate_is_turned_away(appliance: Appliance, vm: VmRow) -> None:
    expired = appliance.authority.issue(vm.id, days=-1)
    hello_fails(appliance, context(appliance.authority.ca_pem, expired))


@pytest.mark.parametrize("name", ["0" * 32, "appliance", "*"])
def test_a_certificate_for_no_vm_is_turned_away(appliance: Appliance, name: str) -> None:
    stranger = appliance.authority.issue(name)
    channel = connect(appliance.address, context(appliance.authority.ca_pem, stranger))
    channel.send_message(TapDouble(appliance.address, context(appliance.authority.ca_pem)).hello_message())
    assert await_message(channel, "error")["code"] == "not-enrolled"
    channel.close()


def test_a_certificate_of_one_vm_does_not_open_anothers_journal(
    appliance: Appliance, vm: VmRow, tap: TapDouble
) -> None:
    victim = appliance.add_vm(f"victim-{vm.name}")
    streaming(tap)
    assert JournalReader(victim.journal).next_lsn == 1
    assert JournalReader(vm.journal).next_lsn == tap.next_lsn


def test_the_agent_refuses_an_appliance_of_another_authority(appliance: Appliance, tmp_path: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(appliance.address, context(Authority(tmp_path / "other").ca_pem))


def test_tls_1_2_is_turned_away(appliance: Appliance) -> None:
    old = context(appliance.authority.ca_pem)
    old.minimum_version = ssl.TLSVersion.TLSv1_2
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        connect(appliance.address, old)


def test_keys_are_for_their_owner_alone(appliance: Appliance) -> None:
    keys = list(appliance.settings.pki_dir.glob("*.key"))
    assert len(keys) == 2
    assert all(key.stat().st_mode & 0o777 == 0o600 for key in keys)
    assert "PRIVATE KEY" not in appliance.log.read_text()


# --- enrolment


def test_a_token_works_once(appliance: Appliance, vm: VmRow) -> None:
    token = appliance.catalog.new_enrolment(vm.id, 60)
    assert enrol(appliance.address, appliance.authority.ca_pem, token)["type"] == "enrolled"
    again = enrol(appliance.address, appliance.authority.ca_pem, token)
    assert (again["type"], again["code"]) == ("error", "token-refused")
    assert token not in appliance.log.read_text()


def test_a_connection_without_certificate_may_only_enrol(appliance: Appliance) -> None:
    tap = TapDouble(appliance.address, context(appliance.authority.ca_pem))
    tap.channel = connect(appliance.address, tap.tls)
    tap.channel.send_message(tap.hello_message())
    assert refused_code(tap) == "not-enrolled"
    tap.close()


def test_a_new_enrolment_ends_the_former_taps_session_and_shuts_it_out(
    appliance: Appliance, vm: VmRow, tap: TapDouble
) -> None:
    streaming(tap)
    newer = appliance.new_tap(vm)
    assert refused_code(tap) == "tap-not-connected"
    assert newer.hello()["action"] == "begin"
    newer.follow()
    newer.settle()
    newer.close()
    assert tap.hello()["action"] == "dormant"
    assert "copy of the past" in tap.welcome["reason"]


# --- who may stream


def test_another_machine_is_dormant(appliance: Appliance, vm: VmRow, tap: TapDouble) -> None:
    assert tap.hello(instance="another-machine")["action"] == "dormant"
    assert "another machine" in str(appliance.status(vm)["refused"])


def test_a_second_live_tap_is_dormant_and_the_first_goes_on(
    appliance: Appliance, vm: VmRow, tap: TapDouble
) -> None:
    streaming(tap)
    copy = TapDouble(appliance.address, tap.tls, fence=tap.fence)
    asking = threading.Thread(target=copy.hello)
    asking.start()
    deadline = time.monotonic() + 15
    while asking.is_alive():  # the first must answer its ping while the second waits for its answer
        tap.pump(0.05)
        assert time.monotonic() < deadline
    copy.close()
    assert copy.welcome["action"] == "dormant"
    assert "another tap" in copy.welcome["reason"]
    tap.write()
    tap.settle()


def test_a_half_dead_connection_gives_way_to_its_successor(
    appliance: Appliance, vm: VmRow, tap: TapDouble
) -> None:
    streaming(tap)
    half_dead, tap.channel = tap.channel, None  # open, but nobody answers pings any more
    begun = time.monotonic()
    assert tap.hello()["action"] == "resume"
    assert time.monotonic() - begun < 12
    tap.follow()
    tap.write()
    tap.settle()
    assert half_dead is not None
    half_dead.close()
    assert len(JournalReader(vm.journal).epochs()) == 1


def test_a_copy_of_the_past_is_dormant(appliance: Appliance, vm: VmRow, tap: TapDouble) -> None:
    streaming(tap)
    copy = TapDouble(appliance.address, tap.tls, fence=tap.fence)
    tap.close()
    wait_for(appliance, vm, "connected", False)
    tap.attached = False  # rebooted: a new epoch, a new fence
    streaming(tap)
    tap.close()
    wait_for(appliance, vm, "connected", False)
    assert copy.hello()["action"] == "dormant"
    copy.close()
    assert "copy of the past" in copy.welcome["reason"]
    assert tap.hello()["action"] == "resume"


def test_a_fence_that_was_lost_on_its_way_locks_nobody_out(
    appliance: Appliance, vm: VmRow, tap: TapDouble
) -> None:
    for _ in range(3):
        tap.hello()
        tap.fence = None  # the tap died before it stored the new fence
        tap.close()
        wait_for(appliance, vm, "connected", False)
    streaming(tap)


def test_a_busy_journal_is_said_and_waited_for(appliance: Appliance, vm: VmRow, tap: TapDouble) -> None:
    from journal.writer import JournalWriter

    with JournalWriter.open(vm.journal):
        tap.channel = connect(appliance.address, tap.tls)
        tap.channel.send_message(tap.hello_message())
        assert refused_code(tap) == "journal-busy"
    streaming(tap)


# --- what is refused of a stream

Make = Callable[[TapDouble], bytearray]


def flipped(tap: TapDouble) -> bytearray:
    data = tap.build(writes=2)
    data[-100] ^= 1
    return data


BAD: dict[str, tuple[Make, str]] = {
    "payload damaged on the wire": (flipped, "bad-frame"),
    "hole in the LSNs": (lambda tap: tap.build(writes=1, first_lsn=tap.next_lsn + 1), "bad-sequence"),
    "records sent again": (lambda tap: tap.build(writes=1, first_lsn=tap.next_lsn - 1), "bad-sequence"),
    "epoch after next": (lambda tap: tap.build(writes=1, epoch=3), "bad-sequence"),
    "cut out of turn": (lambda tap: tap.build(notes=[cut_note(tap.next_cut + 1)]), "bad-sequence"),
    "sync after its end": (lambda tap: tap.build(kind=SYNC, writes=1), "bad-sequence"),
    "unknown note": (lambda tap: tap.build(notes=[note("gift")]), "bad-content"),
    "cut of an unknown kind": (lambda tap: tap.build(notes=[cut_note(tap.next_cut, "x")]), "bad-content"),
    "cut with a map as label": (
        lambda tap: tap.build(notes=[cut_note(tap.next_cut, label={"a": 1})]),
        "bad-content",
    ),
    "time out of range": (lambda tap: tap.build(notes=[{**note("gap"), "reason": "x", "wall": -1}]), "bad-content"),
    "epoch without disks": (
        lambda tap: tap.build(notes=[epoch_note(2, 77, disks="none")], epoch=2),
        "bad-content",
    ),
    "disk of absurd size": (
        lambda tap: tap.build(
            notes=[epoch_note(2, 77, disks=[{"disk": 0, "name": "a", "bytes": 1 << 62, "serial": None}])],
            epoch=2,
        ),
        "bad-content",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_frame_is_refused_and_the_stream_goes_on(
    appliance: Appliance, vm: VmRow, tap: TapDouble, name: str
) -> None:
    make, code = BAD[name]
    streaming(tap)
    good = tap.next_lsn
    tap.live().send_frame(make(tap))
    assert refused_code(tap) == code
    wait_for(appliance, vm, "connected", False)
    assert JournalReader(vm.journal).next_lsn == good
    # Content that no journal may hold would come again from the ring: then a new epoch, no bitmap on top of it.
    welcome = tap.hello()
    assert welcome["action"] == ("begin" if code == "bad-content" else "resume")
    if welcome["action"] == "begin":
        assert welcome["base"] is False
    tap.follow()
    tap.write()
    tap.settle()


def test_a_write_beyond_the_end_of_its_disk_is_refused(
    appliance: Appliance, vm: VmRow, tap: TapDouble
) -> None:
    from journal.frame import CAPTURED, FrameBuilder

    streaming(tap)
    for disk, sector in ((0, (64 << 20) // 512 - 1), (1, 0)):
        builder = FrameBuilder(CAPTURED)
        builder.add_write(disk, sector, bytes(1024), 1)
        frame = builder.finish(first_lsn=tap.next_lsn, epoch=tap.epoch or 1, position=tap.head + 1)
        tap.live().send_frame(frame)
        assert refused_code(tap) == "bad-content"
        wait_for(appliance, vm, "connected", False)
        streaming(tap)


@pytest.mark.parametrize(
    "message",
    [{"type": "hello"}, {"type": "nonsense"}, {"type": "pong", "sent": "x", "wall": 1, "mono": 1}],
)
def test_a_message_out_of_place_ends_the_session(
    appliance: Appliance, vm: VmRow, tap: TapDouble, message: dict[str, Any]
) -> None:
    streaming(tap)
    tap.live().send_message(message)
    assert refused_code(tap) == "protocol"
    assert streaming(tap).welcome["action"] == "resume"


# --- hostile and clumsy connections


def test_silent_connections_do_not_keep_others_out(appliance: Appliance, vm: VmRow, tap: TapDouble) -> None:
    silent = [socket.create_connection(appliance.address) for _ in range(25)]
    streaming(tap)
    for sock in silent:
        sock.close()


def test_too_many_strangers_are_turned_away_at_once(appliance: Appliance) -> None:
    strangers = [socket.create_connection(appliance.address) for _ in range(60)]
    time.sleep(0.5)
    closed = 0
    for sock in strangers:
        sock.setblocking(False)
        try:
            closed += sock.recv(1) == b""
        except BlockingIOError:
            pass
        except ConnectionResetError:
            closed += 1
    assert closed >= 20
    for sock in strangers:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
    time.sleep(0.3)


def test_a_tap_that_vanishes_in_the_middle_of_a_frame_leaves_whole_frames(
    appliance: Appliance, vm: VmRow, tap: TapDouble
) -> None:
    streaming(tap)
    whole = tap.next_lsn
    tap.live().send_frame(tap.build(writes=40)[:5000])
    tap.live().pump(0.1)
    tap.close()
    wait_for(appliance, vm, "connected", False)
    assert JournalReader(vm.journal).next_lsn == whole
    assert streaming(tap).welcome["action"] == "resume"


@pytest.mark.usefixtures("own_appliance")
def test_sigterm_writes_what_was_received_and_frees_the_journal(
    appliance: Appliance, vm: VmRow, tap: TapDouble
) -> None:
    streaming(tap)
    assert appliance.process is not None
    appliance.process.send_signal(signal.SIGTERM)
    error = tap.await_end()
    assert error is not None
    assert appliance.process.wait(20) == 0
    from journal.writer import JournalWriter

    with JournalWriter.open(vm.journal) as journal:
        assert journal.next_lsn == tap.next_lsn
