"""What counts as recoverable, and how old it is; clocks that disagree. No sockets, no files."""

from __future__ import annotations

from typing import Any

from guesttap.receiver.clock import ClockOffset
from guesttap.receiver.contents import Contents, read_contents
from guesttap.receiver.status import VmStatus
from journal.frame import CAPTURED, FrameBuilder, parse_header
from tests.receiver.double import cut_note, epoch_note

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND


def at(note: dict[str, Any], seconds: int) -> dict[str, Any]:
    """Return a note of that second after START; the monotonic clock began at START."""
    return note | {"wall": START + seconds * SECOND, "mono": seconds * SECOND}


def contents(*notes: dict[str, Any], write_at: int | None = None) -> Contents:
    """Return a frame's contents."""
    builder = FrameBuilder(CAPTURED)
    if write_at is not None:
        builder.add_write(0, 0, bytes(512), write_at * SECOND)
    builder.notes.extend(notes)
    data = builder.finish(first_lsn=1, epoch=1, position=1)
    return read_contents(parse_header(data), data)


def pong(seconds: int, ring_used: int) -> dict[str, Any]:
    return {"wall": START + seconds * SECOND, "mono": seconds * SECOND, "status": {"ring_used": ring_used}}


def protected() -> VmStatus:
    """Return the status of a VM whose sync ended at second 10."""
    status = VmStatus()
    status.begin_session(1, 1, valid=False, sync="initial")
    status.durable(2, [contents(at(epoch_note(1, 7), 1)), contents(at(cut_note(1, "sync-end"), 10))])
    return status


def rpo(status: VmStatus, now: int) -> int | None:
    return status.rpo_ms(START + now * SECOND)


def test_there_is_no_rpo_before_the_first_sync_has_ended() -> None:
    status = VmStatus()
    status.begin_session(1, 1, valid=False, sync="initial")
    status.durable(2, [contents(at(epoch_note(1, 7), 1)), contents(at(cut_note(1), 5))])
    status.pong(pong(6, 0), 0)
    assert (status.state, rpo(status, 7)) == ("InitialSync", None)
    assert status.durable_wall == START + 6 * SECOND


def test_the_rpo_is_the_age_of_the_newest_durable_record() -> None:
    status = protected()
    assert (status.state, rpo(status, 12)) == ("Protected", 2000)
    status.durable(3, [contents(write_at=13)])
    assert rpo(status, 14) == 1000


def test_an_idle_tap_with_an_empty_ring_has_lost_nothing() -> None:
    status = protected()
    status.pong(pong(60, 0), 0)
    assert rpo(status, 61) == 1000


def test_an_answer_with_something_in_the_ring_proves_nothing() -> None:
    status = protected()
    status.pong(pong(60, 4096), 0)
    assert rpo(status, 61) == 51_000


def test_a_wrong_clock_of_the_source_does_not_change_the_rpo() -> None:
    for offset in (-3600, 3600):
        status = protected()
        status.pong(pong(0, 1), offset * SECOND)
        assert rpo(status, 12 - offset) == 2000


def test_after_a_gap_the_rpo_grows_until_the_next_sync_ends() -> None:
    status = protected()
    gap = at({"note": "gap", "reason": "ring full"}, 20)
    status.durable(3, [contents(gap), contents(at(epoch_note(2, 7, "bitmap"), 21)), contents(write_at=25)])
    assert (status.state, rpo(status, 30)) == ("BitmapSync", 20_000)
    status.durable(4, [contents(at(cut_note(2, "sync-end"), 31))])
    assert (status.state, rpo(status, 32)) == ("Protected", 1000)


def test_a_tap_that_is_away_keeps_its_last_point() -> None:
    status = protected()
    status.end_session()
    assert (status.state, rpo(status, 110)) == ("Disconnected", 100_000)
    status.alarm = "no space"
    assert status.state == "Error"
    status.protected = False
    assert status.state == "Unprotected"


def test_what_a_tap_reports_is_cut_down_to_what_people_read() -> None:
    status = protected()
    hostile = {"ring_used": 1, "accounting": "x" * 10_000, "lost": [1, 2], "synced_bytes": {"a": b"bytes"}}
    status.pong(pong(60, 0) | {"status": hostile}, None)
    shown = status.as_dict()
    assert (len(shown["accounting"]), shown["lost"], shown["synced_bytes"]) == (200, None, {"a": None})


def test_the_offset_is_that_of_the_shortest_round_trip() -> None:
    offset = ClockOffset()
    assert offset.value is None
    offset.add(1000, 0, 400, 6900)  # 400 ns there and back: 5700 if it went evenly
    offset.add(2000, 1000, 1100, 7050)  # 100 ns: 5000
    offset.add(3000, 2000, 2900, 9000)
    assert offset.value == 5000


def test_sectors_that_could_not_be_read_are_an_alarm_in_plain_words() -> None:
    status = protected()
    status.pong(pong(60, 0) | {"status": {"ring_used": 0, "unreadable_bytes": 0}}, 0)
    assert status.as_dict()["alarm"] is None
    status.pong(pong(61, 0) | {"status": {"ring_used": 0, "unreadable_bytes": 8192}}, 0)
    told = status.as_dict()
    assert told["alarm"].startswith(
        "8.0 KiB of the guest's disks could not be read and are zeros in the copy"
    )
    assert (told["unreadable_bytes"], told["state"]) == (8192, "Protected")
    status.end_session()
    assert status.as_dict()["alarm"] == told["alarm"]
    for hostile in ("x", [1], True, -1):
        status.pong(pong(62, 0) | {"status": {"unreadable_bytes": hostile}}, 0)
        assert status.as_dict()["alarm"] is None


def test_a_new_enrolment_takes_back_what_was_said_of_the_former_tap() -> None:
    status = protected()
    status.alarm, status.refused = "no space", "this is a copy of the past"
    status.begin_enrolment()
    told = status.as_dict()
    assert (told["alarm"], told["refused"], told["enrolments"]) == (None, None, 1)
