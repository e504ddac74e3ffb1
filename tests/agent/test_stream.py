"""What the change stream holds and where, with a scripted tap and appliance (doubles.py)."""

from __future__ import annotations

import time

import pytest

from journal import frame
from tests.agent.conftest import MakeDesk
from tests.agent.doubles import DISK_BYTES, FUA_BIT, META_BIT, Desk, block, resume

pytestmark = pytest.mark.usefixtures("short_waits")


def test_zero_ranges_travel_as_merged_zero_records(desk: Desk) -> None:
    desk.tap.put_on_disk(65536, block("x"))
    desk.protect()
    synced = [record for got in desk.frames if got.header.kind == frame.SYNC for record, _ in got.records]
    assert [(r.kind, r.sector, r.sectors) for r in synced] == [
        (frame.ZERO, 0, 128),
        (frame.WRITE, 128, 8),
        (frame.ZERO, 136, DISK_BYTES // 512 - 136),
    ]


def test_captured_writes_keep_order_place_flags_and_data(desk: Desk) -> None:
    desk.protect()
    desk.tap.write(4096, block("a"), opf=1 | FUA_BIT)
    desk.tap.write(4096, block("b", 512), opf=1 | META_BIT)
    desk.tap.discard(65536, 8192)
    desk.tap.flush()
    desk.until(lambda: len(desk.captured()) == 3)
    (one, data), (two, _), (three, _) = desk.captured()
    assert (one.sector, one.sectors, one.flags, data) == (8, 8, frame.FUA, block("a"))
    assert (two.sectors, two.flags) == (1, frame.META)
    assert (three.kind, three.sector, three.sectors) == (frame.DISCARD, 128, 16)
    desk.check_numbering()
    assert desk.image() == desk.tap.path.read_bytes()


def test_pieces_that_end_within_a_sector_become_whole_sectors(desk: Desk) -> None:
    desk.protect()
    content = block("0123456789", 1024)
    desk.tap.write(512, content[:700], bio=5)
    desk.turn(30)  # the rest is still on its way: nothing of it may be sent
    assert desk.captured() == [] or desk.captured()[0][0].sectors == 1
    sent = desk.frames[-1].header.position
    desk.tap.write(512 + 700, content[700:], bio=5)
    desk.until(lambda: sum(record.sectors for record, _ in desk.captured()) == 2)
    assert b"".join(data for _, data in desk.captured()) == content
    assert desk.frames[-1].header.position > sent


def test_ring_space_is_given_back_only_by_an_ack(desk: Desk) -> None:
    desk.protect()
    desk.turn(5)
    desk.auto_ack = False
    before = desk.tap.consumer_position
    desk.tap.write(0, block("a"))
    desk.until(lambda: desk.captured())
    desk.turn(3)
    assert desk.tap.consumer_position == before
    desk.acknowledge(desk.frames[-1])
    desk.until(lambda: desk.tap.consumer_position == desk.tap.producer_position, 3)


def test_after_a_reconnect_the_same_records_get_the_same_numbers(desk: Desk) -> None:
    desk.protect()
    desk.turn(3)
    durable = desk.frames[-1].header
    desk.auto_ack = False
    for number in range(5):
        desk.tap.write(number * 4096, block(str(number)))
    desk.until(lambda: len(desk.captured()) == 5)
    lost_frames = [got for got in desk.frames if got.header.first_lsn >= durable.next_lsn and got.records]
    cuts = len(desk.notes("cut"))
    del desk.frames[desk.frames.index(lost_frames[0]) :]
    resume(desk, position=durable.position, next_lsn=durable.next_lsn, next_cut=cuts + 1)
    desk.until(lambda: len(desk.captured()) == 5)
    again = [got for got in desk.frames if got.header.first_lsn >= durable.next_lsn and got.records]
    assert [pair for got in again for pair in got.records] == [p for got in lost_frames for p in got.records]
    desk.check_numbering()


def test_a_killed_agent_goes_on_where_the_appliance_is(desk: Desk) -> None:
    desk.protect()
    desk.auto_ack = False
    desk.tap.write(0, block("a"))
    desk.tap.write(4096, block("b"))
    desk.turn(2)
    durable = desk.frames[-1].header
    position = desk.tap.consumer_position
    desk.restart_agent()
    assert desk.capture.whole and desk.capture.number == 1
    kept = [got for got in desk.frames if got.header.position <= position]
    desk.frames = kept
    desk.auto_ack = True
    resume(desk, position=kept[-1].header.position, next_lsn=kept[-1].header.next_lsn, next_cut=2)
    desk.until(lambda: len(desk.captured()) == 2)
    assert durable.epoch == 1 and not desk.notes("gap")
    assert desk.image() == desk.tap.path.read_bytes()


def test_a_tick_claims_no_time_later_than_what_it_holds(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guesttap.agent.cuts.BUSY_TICK_NS", 30_000_000)
    desk.protect()
    for number in range(30):
        desk.tap.write(number * 4096, block(str(number)))
        desk.turn()
        time.sleep(0.01)
    desk.turn(10)
    ticks = [
        (index, note)
        for index, got in enumerate(desk.frames)
        for note in got.notes
        if note.get("kind") == "tick"
    ]
    assert len(ticks) >= 3
    for index, note in ticks:
        later = [record.time for got in desk.frames[index + 1 :] for record, _ in got.records]
        assert all(time_ns >= note["mono"] - 1000 for time_ns in later)
    monos = [note["mono"] for _, note in ticks]
    assert monos == sorted(monos)


def test_a_bookmark_stands_exactly_at_its_mark_and_is_answered_after_its_frame(desk: Desk) -> None:
    desk.protect()
    desk.tap.write(0, block("before"))
    desk.say(type="request", id=9, do="mark", label="deploy", kind="bookmark", deadline=10**9)
    desk.until(lambda: desk.cuts("bookmark"))
    desk.tap.write(4096, block("after"))
    desk.until(lambda: [m for m in desk.messages if m["type"] == "reply"])
    place = desk.place_of("cut", kind="bookmark")
    before = [data for got in desk.frames[: place + 1] for _, data in got.records]
    assert block("before") in before and block("after") not in before
    (reply,) = [m for m in desk.messages if m["type"] == "reply"]
    note = desk.cuts("bookmark")[0]
    assert reply["ok"] and reply["id"] == 9 and note["label"] == "deploy"
    assert reply["result"]["lsn"] == desk.frames[place].header.next_lsn - 1
    assert reply["result"]["number"] == note["number"] and reply["result"]["consistency"] == "crash"


def test_a_bookmark_during_the_initial_sync_is_refused(desk: Desk) -> None:
    desk.tap.flying = 1
    desk.connect()
    desk.until(lambda: desk.notes("epoch"))
    desk.say(type="request", id=1, do="mark", label=None, kind="bookmark", deadline=10**9)
    desk.until(lambda: desk.messages)
    assert desk.messages[0]["ok"] is False and "sync" in desk.messages[0]["error"]


def test_a_bookmark_that_a_loss_overtakes_is_refused(desk: Desk) -> None:
    desk.protect()
    desk.tap.lose(0, block("x"))
    desk.say(type="request", id=1, do="mark", label=None, kind="bookmark", deadline=10**9)
    desk.until(lambda: [m for m in desk.messages if m["type"] == "reply"])
    assert desk.messages[-1]["ok"] is False


def test_ping_is_answered_with_both_clocks_and_a_status(desk: Desk) -> None:
    desk.protect()
    desk.say(type="ping", sent=123, offset=-5)
    desk.until(lambda: desk.messages)
    pong = desk.messages[0]
    assert pong["type"] == "pong" and pong["sent"] == 123
    assert abs(pong["wall"] - time.time_ns()) < 10**9
    assert pong["status"]["state"] == "Protected" and pong["status"]["lost"] == 0
    desk.say(type="request", id=1, do="mark", label=None, kind="bookmark", deadline=10**9)
    desk.until(lambda: desk.cuts("bookmark"))
    assert desk.cuts("bookmark")[0]["offset"] == -5


def test_detach_takes_the_tap_out_and_ends_the_session(desk: Desk) -> None:
    desk.protect()
    desk.say(type="request", id=3, do="detach", label=None, kind=None, deadline=10**9)
    assert desk.session is not None
    desk.session.run(lambda: False)
    assert desk.tap.detached and desk.session.detached
    assert desk.far.pump(1)[-1]["ok"] is True  # type: ignore[call-overload]


def test_the_network_being_slow_leaves_the_ring_alone(make_desk: MakeDesk) -> None:
    desk = make_desk(ring_bytes=64 << 20, size=32 << 20)
    desk.protect()
    for number in range(500):
        desk.tap.write(number * 65536, block(str(number), 65536))
    assert desk.session is not None
    for _ in range(60):
        desk.session.turn()  # the appliance takes nothing
    assert desk.near.pending_bytes < 10 << 20
    assert desk.capture.pump.position < desk.tap.producer_position
    desk.until(lambda: len(desk.captured()) == 500)
    assert desk.image() == desk.tap.path.read_bytes()
