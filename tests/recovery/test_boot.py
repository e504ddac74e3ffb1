from __future__ import annotations

from pathlib import Path

import pytest

from hypervisors.base import DiskSpec, ExecResult, NicSpec, VmSpec
from hypervisors.errors import NotCapableError, VmExistsError, VmNotFoundError
from hypervisors.memory import MemoryHypervisor
from journal.reader import JournalReader
from lastwrite.errors import UsageError
from recovery import boot as booting
from recovery.boot import BootEvent, boot, finish, pinned_disks, wait_until_answering
from recovery.errors import BootFailed, DiskNotFound
from recovery.points import find, parse
from tests.recovery.disks import MIB
from tests.recovery.journals import JournalMaker, block

SPEC = VmSpec(
    "web01",
    64 * MIB,
    1,
    disks=(DiskSpec("vda", MIB), DiskSpec("vdb", 2 * MIB)),
    nics=(NicSpec("user", mac="52:54:00:00:00:01"),),
)


@pytest.fixture
def reader(tmp_path: Path) -> JournalReader:
    maker = JournalMaker(tmp_path / "j", disks=[("vda", MIB), ("vdb", 2 * MIB)])
    maker.synced()
    maker.write(0, block(3))
    return JournalReader(maker.folder)


@pytest.fixture
def hv() -> MemoryHypervisor:
    made = MemoryHypervisor("here")
    made.connect()
    return made


def test_a_vm_boots_from_exports_that_are_pinned_to_one_lsn(
    reader: JournalReader, hv: MemoryHypervisor
) -> None:
    events: list[BootEvent] = []
    point = find(reader, parse("latest"))
    vm = boot(hv, SPEC, reader, point, "10.0.0.9:10809", "web01-test", events.append)
    exports = hv.find(vm.id).exports
    assert vm.name == "web01-test"
    assert {target: (e.host, e.port, e.export, e.bytes) for target, e in exports.items()} == {
        "vda": ("10.0.0.9", 10809, f"web01/vda@lsn:{point.lsn}", MIB),
        "vdb": ("10.0.0.9", 10809, f"web01/vdb@lsn:{point.lsn}", 2 * MIB),
    }
    assert [event.step for event in events] == ["resolve", "boot"]
    assert point.description in events[0].text
    finish(hv, vm.id)
    assert hv.find(vm.id).exports == {}


def test_disks_that_have_another_name_in_the_guest_are_mapped(reader: JournalReader) -> None:
    spec = VmSpec("x", 64 * MIB, 1, disks=(DiskSpec("sda", MIB),))
    point = find(reader, parse("latest"))
    with pytest.raises(DiskNotFound, match="sda"):
        pinned_disks(spec, reader, point, "h:1")
    disk, other = pinned_disks(spec, reader, point, "h:1", vm_name="other", disks={"sda": "vdb"})
    assert (disk.target, disk.export) == ("sda", f"other/vdb@lsn:{point.lsn}")
    assert (other.target, other.export) == ("vda", f"other/vda@lsn:{point.lsn}")


def test_nothing_is_made_when_it_cannot_work(reader: JournalReader, hv: MemoryHypervisor) -> None:
    point = find(reader, parse("latest"))
    with pytest.raises(UsageError):
        boot(hv, SPEC, reader, point, "nowhere", "a")
    with pytest.raises(DiskNotFound):
        boot(hv, VmSpec("x", 64 * MIB, 1), reader, point, "h:1", "a")
    boot(hv, SPEC, reader, point, "h:1", "a")
    with pytest.raises(VmExistsError):
        boot(hv, SPEC, reader, point, "h:1", "a")
    assert [vm.name for vm in hv.list_vms()] == ["a"]


def test_waiting_ends_when_the_guest_answers(
    reader: JournalReader, hv: MemoryHypervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(booting, "POLL_SECONDS", 0.01)
    vm = boot(hv, SPEC, reader, find(reader, parse("latest")), "h:1", "a")
    answers = iter([ExecResult(1, b"", b""), ExecResult(1, b"", b""), ExecResult(0, b"", b"")])
    hv.find(vm.id).program = lambda argv, _: (
        next(answers) if argv == ["/bin/true"] else ExecResult(127, b"", b"")
    )
    events: list[BootEvent] = []
    assert 0 < wait_until_answering(hv, vm.id, 10, events.append) < 5
    assert [event.step for event in events] == ["wait", "wait", "answering"]


def test_waiting_is_bounded_and_says_what_the_last_answer_was(
    reader: JournalReader, hv: MemoryHypervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(booting, "POLL_SECONDS", 0.01)
    vm = boot(hv, SPEC, reader, find(reader, parse("latest")), "h:1", "a")
    with pytest.raises(BootFailed, match="ended with 127"):
        wait_until_answering(hv, vm.id, 0.1)
    hv.stop(vm.id)
    with pytest.raises(BootFailed, match="is off"):
        wait_until_answering(hv, vm.id, 0.1)


def test_waiting_for_what_can_never_answer_ends_at_once(
    hv: MemoryHypervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(VmNotFoundError):
        wait_until_answering(hv, "nobody", 60)

    def refuse(*_: object, **__: object) -> ExecResult:
        raise NotCapableError("no guest_exec here")

    monkeypatch.setattr(hv, "guest_exec", refuse)
    with pytest.raises(NotCapableError):
        wait_until_answering(hv, "nobody", 60)


def test_a_disk_that_was_taken_away_since_is_booted_with_its_point(
    reader: JournalReader, hv: MemoryHypervisor
) -> None:
    spec = VmSpec("web01", 64 * MIB, 1, disks=(DiskSpec("vda", MIB, "scsi"),))
    vm = boot(hv, spec, reader, find(reader, parse("latest")), "h:1", "copy")
    made = hv.find(vm.id)
    assert {target: each.bytes for target, each in made.exports.items()} == {"vda": MIB, "vdb": 2 * MIB}
    assert [(disk.target, disk.bus) for disk in made.spec.disks] == [("vda", "scsi"), ("vdb", "scsi")]


def test_a_point_whose_disk_has_no_place_is_refused(reader: JournalReader) -> None:
    spec = VmSpec("x", 64 * MIB, 1, disks=(DiskSpec("vda", MIB),))
    with pytest.raises(UsageError, match="disk vda of the point has no place"):
        pinned_disks(spec, reader, find(reader, parse("latest")), "h:1", disks={"vda": "vdb"})
