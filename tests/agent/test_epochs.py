"""When epochs begin, break and become valid, with a scripted tap and appliance (doubles.py)."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from guesttap.agent import health
from guesttap.bpf.abi import UNRESOLVED
from journal import frame
from tests.agent.conftest import MakeDesk
from tests.agent.doubles import Desk, block, resume

pytestmark = pytest.mark.usefixtures("short_waits")


def test_first_epoch_begins_with_its_note_and_ends_its_sync_with_a_cut(desk: Desk) -> None:
    desk.tap.write(0, block("before"))
    desk.tap.write(8192, block("a"))
    desk.protect()
    desk.check_numbering()
    first = desk.frames[0]
    assert first.header.epoch == 1 and not first.records
    assert first.notes[0]["sync"] == "initial" and first.notes[0]["generation"] == 77
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
