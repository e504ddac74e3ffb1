"""The agent's rules of order, with a scripted tap and appliance (doubles.py)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from guesttap.agent import epochs, health
from guesttap.bpf.abi import UNRESOLVED
from journal import frame
from tests.agent.doubles import DISK_BYTES, FUA_BIT, META_BIT, Desk, block


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epochs, "CALM_NS", 20_000_000)
    monkeypatch.setattr("guesttap.agent.capture.MIN_CALM_NS", 20_000_000)


MakeDesk = Callable[..., Desk]


@pytest.fixture
def make_desk(tmp_path: Path) -> Iterator[MakeDesk]:
    made: list[Desk] = []

    def make(**tap: int) -> Desk:
        made.append(Desk(tmp_path / "desk", **tap))
        return made[-1]

    yield make
    for desk in made:
        desk.close()


@pytest.fixture
def desk(make_desk: MakeDesk) -> Desk:
    return make_desk()


def test_first_epoch_begins_with_its_note_and_ends_its_sync_with_a_cut(desk: Desk) -> None:
    desk.tap.write(0, block("before"))
    desk.tap.write(8192, block("a"))
    desk.protect()
    desk.check_numbering()
    first = desk.frames[0]
    assert first.header.epoch == 1 and not first.records
    assert first.notes[0]["sync"] == "initial" and first.notes[0]["generation"] == 77
    assert desk.image() == desk.tap.path.read_bytes()


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


def test_a_loss_stands_as_a_gap_exactly_before_the_first_record_after_it(desk: Desk) -> None:
    desk.protect()
    desk.tap.write(0, block("good"))
    desk.tap.lose(4096, block("lost"))
    desk.tap.write(8192, block("after"))
    desk.until(lambda: desk.capture.valid and desk.capture.number == 2)
    gap = desk.place_of("gap")
    assert [data for _, data in desk.frames[gap].records] == [block("good")]
    assert all(block("after") != data for got in desk.frames[: gap + 1] for _, data in got.records)
    epoch = desk.notes("epoch")[1]
    assert epoch["sync"] == "bitmap"
    synced = [r for got in desk.frames if got.header.epoch == 2 for r, _ in got.records]
    assert sum(r.sectors for r in synced) * 512 == 65536  # one grain holds all of it
    desk.check_numbering()
    assert desk.image() == desk.tap.path.read_bytes()


def test_a_loss_with_no_write_after_it_is_noticed_too(desk: Desk) -> None:
    desk.protect()
    desk.tap.lose(4096, block("lost"))
    desk.until(lambda: desk.capture.valid and desk.capture.number == 2)
    assert desk.image() == desk.tap.path.read_bytes()


def test_an_overflow_ends_protected_and_identical(desk: Desk) -> None:
    desk.protect()
    desk.auto_ack = False
    for number in range(400):
        desk.tap.write(number % 256 * 4096, block(str(number)))
        if number % 40 == 0:
            desk.turn()
    assert desk.tap.lost()
    desk.auto_ack = True
    desk.acknowledge(desk.frames[-1])
    desk.until(lambda: desk.capture.valid and (desk.capture.number or 0) >= 2)
    assert desk.image() == desk.tap.path.read_bytes()
    desk.check_numbering()


def test_no_new_epoch_begins_while_writes_are_being_lost(desk: Desk) -> None:
    desk.protect()
    desk.tap.lose(0, block("a"))
    desk.until(lambda: desk.notes("gap"))
    for number in range(20):
        desk.tap.lose(4096, block(str(number)))
        desk.turn()
        assert len(desk.notes("epoch")) == 1
    desk.tap.landing = 1
    time.sleep(0.1)
    desk.turn(10)
    assert len(desk.notes("epoch")) == 1  # one is still on its way to the disk
    desk.tap.landing = 0
    desk.until(lambda: len(desk.notes("epoch")) == 2)


def test_a_loss_during_a_bitmap_sync_brings_all_of_it_again(desk: Desk) -> None:
    desk.protect()
    desk.tap.flying = 1  # so that the sync waits
    desk.tap.lose(0, block("first"))
    desk.until(lambda: len(desk.notes("epoch")) == 2)
    desk.tap.write(131072, block("captured in the epoch that never became valid"))
    desk.turn(20)
    desk.tap.lose(262144, block("second"))
    desk.until(lambda: len(desk.notes("epoch")) == 3)
    desk.tap.flying = 0
    desk.until(lambda: desk.capture.valid)
    assert [note["sync"] for note in desk.notes("epoch")] == ["initial", "bitmap", "bitmap"]
    assert len(desk.cuts("sync-end")) == 2
    assert desk.image() == desk.tap.path.read_bytes()


def test_a_loss_during_the_initial_sync_begins_it_again(desk: Desk) -> None:
    desk.tap.flying = 1
    desk.connect()
    desk.until(lambda: desk.notes("epoch"))
    desk.tap.lose(0, block("x"))
    desk.until(lambda: len(desk.notes("epoch")) == 2)
    desk.tap.flying = 0
    desk.until(lambda: desk.capture.valid)
    assert [note["sync"] for note in desk.notes("epoch")] == ["initial", "initial"]
    assert desk.image() == desk.tap.path.read_bytes()


def test_the_sync_reads_nothing_before_what_was_in_flight_has_ended(desk: Desk) -> None:
    desk.tap.flying = 3
    desk.connect()
    desk.until(lambda: desk.notes("epoch"))
    time.sleep(0.05)
    desk.turn(20)
    assert all(got.header.kind == frame.CAPTURED for got in desk.frames)
    desk.tap.flying = 0
    desk.until(lambda: desk.capture.valid)


def test_sync_end_stands_after_every_write_that_the_sync_could_have_seen(
    make_desk: MakeDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = make_desk(size=4 << 20)
    desk.tap.put_on_disk(0, block("x", 4 << 20))
    seen: list[bytes] = []
    read = desk.capture.reader.read

    def write_then_read(disk: int, offset: int, length: int) -> memoryview:
        seen.append(block(str(len(seen))))
        desk.tap.write(offset, seen[-1])
        return read(disk, offset, length)

    monkeypatch.setattr(desk.capture.reader, "read", write_then_read)
    desk.connect()
    desk.until(lambda: desk.capture.valid)
    end = desk.place_of("cut", kind="sync-end")
    before = [
        d for got in desk.frames[: end + 1] if got.header.kind == frame.CAPTURED for _, d in got.records
    ]
    assert len(seen) >= 4 and all(content in before for content in seen)
    assert not any(got.header.kind == frame.SYNC for got in desk.frames[end + 1 :])


def test_a_reconnect_in_the_middle_of_a_sync_goes_on_at_the_cursor(make_desk: MakeDesk) -> None:
    desk = make_desk(size=8 << 20)
    for number in range(0, 8 << 20, 1 << 20):
        desk.tap.put_on_disk(number, block("data"))
        desk.tap.put_on_disk(number + 4096, block("x", (1 << 20) - 4096))
    desk.connect()
    desk.until(lambda: len(desk.notes("sync")) >= 3)
    last = desk.notes("sync")[-1]
    kept = desk.place_of("sync", sector=last["sector"])
    desk.frames = desk.frames[: kept + 1]
    header = desk.frames[-1].header
    desk.restart_agent()
    cursor = {"disk": last["disk"], "sector": last["sector"]}
    resume(desk, position=header.position, next_lsn=header.next_lsn, syncing=True, cursor=cursor)
    desk.until(lambda: desk.capture.valid)
    synced = [r.sector for g in desk.frames[kept + 1 :] if g.header.kind == frame.SYNC for r, _ in g.records]
    assert min(synced) == last["sector"]
    assert len(desk.notes("epoch")) == 1
    assert desk.image() == desk.tap.path.read_bytes()
    desk.tap.lose(0, block("x"))
    desk.until(lambda: desk.capture.valid and desk.capture.number == 2)
    assert desk.notes("epoch")[1]["sync"] == "bitmap"  # from there on it knows everything again
    assert desk.image() == desk.tap.path.read_bytes()


def test_an_agent_killed_in_a_bitmap_sync_reads_everything_again(desk: Desk) -> None:
    desk.protect()
    desk.tap.flying = 1
    desk.tap.lose(0, block("x"))
    desk.until(lambda: len(desk.notes("epoch")) == 2)
    desk.turn(3)
    header = desk.frames[-1].header
    desk.restart_agent()
    desk.tap.flying = 0
    cuts = len(desk.notes("cut"))
    resume(desk, epoch=2, position=header.position, next_lsn=header.next_lsn, syncing=True, base=True,
           next_cut=cuts + 1)  # fmt: skip
    desk.until(lambda: desk.capture.valid)
    assert [note["sync"] for note in desk.notes("epoch")] == ["initial", "bitmap", "full"]
    assert desk.image() == desk.tap.path.read_bytes()


def test_an_agent_killed_after_a_gap_says_so_and_reads_everything_again(desk: Desk) -> None:
    desk.protect()
    desk.tap.landing = 1
    desk.tap.lose(0, block("x"))
    desk.until(lambda: desk.notes("gap"))
    desk.tap.write(8192, block("absorbed"))
    desk.turn(5)
    header, cuts = desk.frames[-1].header, len(desk.notes("cut"))
    desk.restart_agent()
    assert not desk.capture.whole and not desk.capture.dirty_known
    desk.tap.landing = 0
    desk.connect(epoch=2, next_lsn=header.next_lsn, next_cut=cuts + 1, base=True)
    desk.until(lambda: desk.capture.valid)
    assert desk.notes("epoch")[1]["sync"] == "full"
    assert desk.image() == desk.tap.path.read_bytes()


def test_a_begin_to_an_agent_that_knows_all_that_is_dirty_is_a_bitmap_sync(desk: Desk) -> None:
    desk.protect()
    header, cuts = desk.frames[-1].header, len(desk.notes("cut"))
    desk.disconnect()
    desk.tap.write(4096, block("while away"))
    desk.connect(
        epoch=2, next_lsn=header.next_lsn, next_cut=cuts + 1, base=True, reason="the last epoch has ended"
    )
    desk.until(lambda: desk.capture.valid)
    assert desk.notes("epoch")[1]["sync"] == "bitmap"
    assert desk.image() == desk.tap.path.read_bytes()


def test_a_begin_from_a_journal_that_went_back_is_a_full_sync(desk: Desk) -> None:
    desk.protect()
    desk.tap.write(4096, block("acknowledged, then lost by the appliance"))
    desk.until(lambda: desk.captured())
    desk.turn(3)
    keep = desk.place_of("cut", kind="sync-end")
    desk.frames = desk.frames[: keep + 1]
    header, cuts = desk.frames[-1].header, len(desk.notes("cut"))
    desk.connect(epoch=2, next_lsn=header.next_lsn, next_cut=cuts + 1, base=True)
    desk.until(lambda: desk.capture.valid)
    assert desk.notes("epoch")[1]["sync"] == "full"
    assert desk.image() == desk.tap.path.read_bytes()


def test_a_failed_write_is_followed_by_what_the_disk_has(desk: Desk) -> None:
    desk.tap.put_on_disk(4096, block("old"))
    desk.protect()
    bio = desk.tap.write(4096, block("never reached the disk"), disk=False)
    desk.tap.fail(4096, 4096, bio)
    desk.tap.write(0, block("later"))
    desk.until(lambda: len(desk.captured()) == 3)
    assert [data for _, data in desk.captured()] == [
        block("never reached the disk"),
        block("old"),
        block("later"),
    ]
    assert desk.image() == desk.tap.path.read_bytes()


def test_a_failed_write_whose_place_was_written_since_ends_the_epoch(desk: Desk) -> None:
    """Reading the disk would bring content of the future into the state at the failure."""
    desk.protect()
    bio = desk.tap.write(4096, block("failed"), disk=False)
    desk.tap.fail(4096, 4096, bio)
    desk.tap.write(4096, block("future"))
    desk.until(lambda: desk.capture.valid and desk.capture.number == 2)
    gap = desk.place_of("gap")
    assert block("future") not in [data for got in desk.frames[: gap + 1] for _, data in got.records]
    assert desk.image() == desk.tap.path.read_bytes()


def test_a_failure_that_nobody_can_place_leads_to_a_full_sync(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guesttap.agent.pump.UNRESOLVED_NS", 50_000_000)
    desk.protect()
    desk.tap.fail(0, 0, 4711, UNRESOLVED)
    desk.until(lambda: desk.capture.valid and desk.capture.number == 2)
    assert desk.notes("epoch")[1]["sync"] == "full"


def test_a_split_part_that_fails_before_its_known_parent_changes_nothing(desk: Desk) -> None:
    desk.protect()
    bio = desk.tap.write(4096, block("failed"), disk=False)
    desk.tap.fail(0, 0, 4711, UNRESOLVED)
    desk.tap.fail(4096, 4096, bio)
    desk.until(lambda: len(desk.captured()) == 2)
    desk.turn(10)
    assert not desk.notes("gap")
    assert desk.image() == desk.tap.path.read_bytes()


def test_a_mismatch_of_the_accounts_seen_twice_leads_to_a_full_sync(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "INTERVAL_NS", 20_000_000)
    desk.protect()
    desk.tap.put_on_disk(4096, block("missed by the tap"))
    wrong = SimpleNamespace(disk=0, known=True, quiet=True, balanced=False, difference=-8)
    desk.tap.account = SimpleNamespace(balanced=False, quiet=True, disks=[wrong])
    desk.until(lambda: desk.capture.valid and desk.capture.number == 2)
    assert "8 sectors" in desk.notes("gap")[0]["reason"]
    assert desk.notes("epoch")[1]["sync"] == "full"
    assert desk.image() == desk.tap.path.read_bytes()
    desk.turn(30)
    assert len(desk.notes("gap")) == 1  # the same mismatch is not answered twice


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


def test_the_state_of_an_epoch_is_durable_before_its_first_frame(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, int]] = []
    real = desk.store.remember

    def remember(**changes: object) -> None:
        seen.append(("store", int(str(changes.get("number") or 0))))
        real(**changes)

    monkeypatch.setattr(desk.store, "remember", remember)
    desk.connect()
    assert desk.session is not None
    send = desk.near.send_frame
    stream = desk.session._stream

    def send_frame(data: bytes) -> None:
        seen.append(("frame", 0))
        send(data)

    monkeypatch.setattr(stream, "_send", send_frame)
    desk.until(lambda: desk.notes("epoch"))
    assert seen.index(("store", 1)) < seen.index(("frame", 0))
    assert desk.store.remembered.generation == 77 and desk.store.remembered.number == 1


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


def resume(desk: Desk, **keys: object) -> None:
    """Connect again, and the appliance says `resume`."""
    welcome = {"action": "resume", "epoch": 1, "syncing": False, "base": True, "next_cut": 1}
    desk.connect(**{**welcome, **keys})
