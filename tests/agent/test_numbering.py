"""The journal's numbers of the tapped disks: the rule itself, and that everything that leaves obeys it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guesttap.agent.numbering import Numbering
from guesttap.protocol import ProtocolError
from journal import frame
from tests.agent.conftest import MakeDesk
from tests.agent.doubles import Desk, block, resume


def disk(number: int, name: str, serial: str | None = None) -> dict[str, Any]:
    return {"disk": number, "name": name, "serial": serial}


def test_without_a_list_the_disks_are_numbered_from_zero() -> None:
    nothing: list[object] | None
    for nothing in (None, []):
        numbering = Numbering([disk(0, "vdb"), disk(1, "vda")], nothing)
        assert numbering.of == {0: 0, 1: 1} and not numbering.known


def test_another_disk_gets_a_fresh_number() -> None:
    numbering = Numbering([disk(0, "vdb", "B")], [disk(0, "vda", "A"), disk(4, "vdc", "C")])
    assert numbering.of == {0: 5} and not numbering.known


def test_a_serial_is_followed_to_another_name() -> None:
    numbering = Numbering(
        [disk(0, "vda", "B"), disk(1, "vdb", "A")], [disk(0, "vda", "A"), disk(1, "vdb", "B")]
    )
    assert numbering.of == {0: 1, 1: 0} and numbering.known


def test_another_serial_under_the_same_name_is_another_disk() -> None:
    assert Numbering([disk(0, "vda", "new")], [disk(0, "vda", "old")]).of == {0: 1}


@pytest.mark.parametrize(("mine", "theirs"), [(None, None), ("A", None), (None, "A"), ("", "A")])
def test_the_name_decides_when_a_serial_is_missing(mine: str | None, theirs: str | None) -> None:
    assert Numbering([disk(0, "vdb", mine)], [disk(0, "vda"), disk(3, "vdb", theirs)]).of == {0: 3}


def test_no_number_is_given_twice() -> None:
    numbering = Numbering([disk(0, "vda"), disk(1, "vdb", "A")], [disk(0, "vda", "A")])
    assert numbering.of == {0: 1, 1: 0}  # the serial is surer than the name
    same = Numbering([disk(0, "vda", "X"), disk(1, "vdb", "X")], [disk(0, "vdb", "X")])
    assert same.of == {0: 1, 1: 0}


_disks = st.lists(
    st.tuples(st.sampled_from("abcd"), st.sampled_from([None, "1", "2", "3"])), min_size=1, max_size=4,
    unique_by=lambda one: one[0],
)  # fmt: skip


@given(st.lists(_disks, min_size=1, max_size=6), st.booleans())
def test_the_same_disks_get_the_same_numbers_once_the_journal_has_listed_them(
    epochs: list[list[tuple[str, str | None]]], newest_counts: bool
) -> None:
    """Whether the journal keeps a number's first name or its newest."""
    journal: dict[int, dict[str, Any]] = {}
    for epoch in epochs:
        tapped = [disk(index, *one) for index, one in enumerate(epoch)]
        numbering = Numbering(tapped, list(journal.values()))
        assert len(set(numbering.of.values())) == len(tapped)
        for entry in numbering.numbered(tapped):
            if newest_counts or entry["disk"] not in journal:
                journal[entry["disk"]] = entry
        again = Numbering(tapped, list(journal.values()))
        assert again.of == numbering.of and again.known


def test_a_cursor_is_translated_and_one_of_a_foreign_disk_means_the_beginning() -> None:
    numbering = Numbering([disk(0, "vdb")], [disk(0, "vda"), disk(1, "vdb")])
    assert numbering.local_cursor({"disk": 1, "sector": 8}) == {"disk": 0, "sector": 8}
    assert numbering.local_cursor({"disk": 0, "sector": 8}) is None
    assert numbering.local_cursor(None) is None


@pytest.mark.parametrize(
    "wrong",
    [
        7,
        ["vda"],
        [{"disk": 0}],
        [disk(-1, "vda")],
        [disk(1 << 16, "vda")],
        [{"disk": True, "name": "vda"}],
        [{"disk": 0, "name": "vda", "serial": 5}],
        [disk(65535, "vdz")],
    ],
)
def test_a_list_that_cannot_be_used_is_refused(wrong: object) -> None:
    with pytest.raises(ProtocolError):
        Numbering([disk(0, "vda")], wrong)


# --- in the stream

OTHER = disk(0, "other", "S")


def numbers(desk: Desk) -> set[int]:
    return {record.disk for got in desk.frames for record, _ in got.records}


@pytest.mark.usefixtures("short_waits")
def test_records_notes_and_sync_bear_the_journals_numbers(desk: Desk) -> None:
    desk.tap.put_on_disk(65536, block("x"))
    desk.connect(disks=[OTHER])
    desk.until(lambda: desk.capture.valid)
    desk.tap.write(4096, block("a"))
    desk.tap.discard(65536, 8192)
    desk.until(lambda: len(desk.captured()) == 2)
    desk.tap.lose(0, block("lost"))
    desk.until(lambda: desk.capture.valid and desk.capture.number == 2)
    assert numbers(desk) == {1}
    assert {note["disk"] for note in desk.notes("sync")} == {1}
    assert [[d["disk"] for d in note["disks"]] for note in desk.notes("epoch")] == [[1], [1]]
    assert desk.notes("epoch")[1]["sync"] == "bitmap"
    assert desk.image() == desk.tap.path.read_bytes()


@pytest.mark.usefixtures("short_waits")
def test_a_restarted_agent_goes_on_under_the_same_number_at_the_cursor(make_desk: MakeDesk) -> None:
    desk = make_desk(size=8 << 20)
    desk.tap.put_on_disk(0, block("x", 8 << 20))
    desk.connect(disks=[OTHER])
    desk.until(lambda: len(desk.notes("sync")) >= 3)
    last = desk.notes("sync")[-1]
    desk.frames = desk.frames[: desk.place_of("sync", sector=last["sector"]) + 1]
    header, kept = desk.frames[-1].header, len(desk.frames)
    desk.restart_agent()
    cursor = {"disk": 1, "sector": last["sector"]}
    listed = [OTHER, disk(1, "vda")]
    resume(
        desk, position=header.position, next_lsn=header.next_lsn, syncing=True, cursor=cursor, disks=listed
    )
    desk.until(lambda: desk.capture.valid)
    synced = [r.sector for g in desk.frames[kept:] if g.header.kind == frame.SYNC for r, _ in g.records]
    assert min(synced) == last["sector"] > 0
    assert numbers(desk) == {1} and len(desk.notes("epoch")) == 1
    assert desk.image() == desk.tap.path.read_bytes()


@pytest.mark.usefixtures("short_waits")
@pytest.mark.parametrize("restarted", [False, True])
def test_a_resume_under_other_numbers_ends_the_epoch_and_sends_everything(
    desk: Desk, restarted: bool
) -> None:
    desk.protect()
    desk.turn(3)
    header, cuts = desk.frames[-1].header, len(desk.notes("cut"))
    desk.disconnect()
    if restarted:
        desk.restart_agent()
    desk.tap.write(4096, block("while away"))
    resume(desk, position=header.position, next_lsn=header.next_lsn, next_cut=cuts + 1, disks=[OTHER])
    desk.until(lambda: desk.capture.valid and desk.capture.number == 2)
    gap = desk.place_of("gap")
    assert {r.disk for got in desk.frames[: gap + 1] for r, _ in got.records} == {0}
    assert {r.disk for got in desk.frames[gap + 1 :] for r, _ in got.records} == {1}
    assert desk.notes("epoch")[1]["sync"] == "full"
    assert desk.image() == desk.tap.path.read_bytes()
