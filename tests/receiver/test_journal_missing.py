"""A journal that is not where it should be: an alarm, and never a new one in its place. What a tap is told of disks."""

from __future__ import annotations

from pathlib import Path

import pytest

from journal.reader import JournalReader
from lastwrite.catalog import VmRow
from tests.receiver.conftest import Appliance
from tests.receiver.double import TapDouble, connect, epoch_note
from tests.receiver.test_sessions import refused_code, streaming


@pytest.mark.parametrize("lost", ["JOURNAL", "."])
def test_a_missing_journal_is_an_alarm_and_is_not_made_anew(
    appliance: Appliance, vm: VmRow, tap: TapDouble, lost: str
) -> None:
    streaming(tap)
    tap.close()
    appliance.client.end(vm.id)
    thing = Path(vm.journal, lost)
    aside = thing.resolve().with_name(f"{thing.resolve().name}-aside")
    thing.resolve().rename(aside)
    before = sorted(path.name for path in Path(vm.journal).glob("*"))
    told = appliance.status(vm)  # with nobody connected
    assert told["state"] == "Error" and f"no journal in {vm.journal}" in str(told["alarm"])
    tap.channel = connect(appliance.address, tap.tls)
    tap.live().send_message(tap.hello_message())
    assert refused_code(tap) == "not-a-journal"  # an error, not dormant: it may come again
    tap.close()
    assert sorted(path.name for path in Path(vm.journal).glob("*")) == before
    aside.rename(thing.resolve() if lost == "JOURNAL" else vm.journal)
    assert appliance.status(vm)["alarm"] is None
    assert streaming(tap).welcome["action"] == "resume"
    assert JournalReader(vm.journal).next_lsn == tap.next_lsn


def test_an_enrolment_makes_no_journal_either(appliance: Appliance, vm: VmRow) -> None:
    Path(vm.journal).rename(Path(vm.journal).with_name("elsewhere"))
    with pytest.raises(AssertionError, match="not-a-journal"):
        appliance.new_tap(vm)
    assert not Path(vm.journal).exists()
    Path(vm.journal).with_name("elsewhere").rename(vm.journal)


def test_a_welcome_names_every_disk_number_that_the_journal_ever_used(
    appliance: Appliance, vm: VmRow, tap: TapDouble
) -> None:
    assert tap.hello()["disks"] == []
    tap.follow()
    tap.settle()
    second = [{"disk": 1, "name": "vdb", "bytes": 1 << 20, "serial": "s-1"}]
    tap.epoch = 2
    tap.add(tap.build(notes=[epoch_note(2, tap.generation, disks=second)]))
    tap.cut("sync-end")
    tap.settle()
    tap.close()
    appliance.client.end(vm.id)
    assert tap.hello()["disks"] == [
        {"disk": 0, "name": "vda", "serial": None},
        {"disk": 1, "name": "vdb", "serial": "s-1"},
    ]


def test_end_ends_a_session_whose_tap_answers_nothing(
    appliance: Appliance, vm: VmRow, tap: TapDouble
) -> None:
    from journal.writer import JournalWriter

    streaming(tap)
    appliance.client.end(vm.id)
    assert appliance.status(vm)["connected"] is False
    with JournalWriter.open(vm.journal) as journal:
        assert journal.next_lsn == tap.next_lsn
    appliance.client.end(vm.id)  # there is none any more
