"""The memory adapter against the contract, and what tests use it for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hypervisors.base import ExecResult, Hypervisor, NbdDisk
from hypervisors.memory import MemoryHypervisor
from hypervisors.model import MIB, VmSpec
from hypervisors.testing import HypervisorConformance


class TestMemoryConformance(HypervisorConformance):
    @pytest.fixture
    def hypervisor(self) -> Iterator[Hypervisor]:
        with MemoryHypervisor("m1") as adapter:
            yield adapter

    @pytest.fixture
    def export(self) -> NbdDisk:
        return NbdDisk("vda", "127.0.0.1", 10809, "web01/vda@latest", 8 * MIB)


@pytest.fixture
def memory() -> Iterator[MemoryHypervisor]:
    with MemoryHypervisor("m1") as adapter:
        yield adapter


def test_named_world_is_shared_and_an_unnamed_one_is_not() -> None:
    spec = VmSpec("web01", 64 * MIB, 1)
    with MemoryHypervisor("a", "memory://shared-by-this-test") as one:
        one.create_vm(spec)
        with MemoryHypervisor("b", "memory://shared-by-this-test") as two, MemoryHypervisor("c") as alone:
            assert two.get_vm("web01").name == "web01"
            assert alone.list_vms() == []


def test_guest_commands_go_to_the_program_of_the_guest(memory: MemoryHypervisor) -> None:
    vm = memory.create_vm(VmSpec("web01", 64 * MIB, 1))
    memory.start(vm.id)
    memory.find("web01").program = lambda argv, stdin: ExecResult(3, " ".join(argv).encode() + stdin, b"")
    assert memory.guest_exec(vm.id, ["echo", "a"], b"!") == ExecResult(3, b"echo a!", b"")


def test_guest_files_keep_bytes_and_mode(memory: MemoryHypervisor) -> None:
    vm = memory.create_vm(VmSpec("web01", 64 * MIB, 1))
    memory.start(vm.id)
    memory.guest_write(vm.id, "/etc/key", b"k", 0o600)
    assert memory.guest_read(vm.id, "/etc/key") == b"k"
    assert memory.find(vm.id).files["/etc/key"] == (b"k", 0o600)


def test_copy_remembers_its_exports_until_they_are_pulled(memory: MemoryHypervisor) -> None:
    copy = memory.boot_from_nbd(
        VmSpec("copy", 64 * MIB, 1), [NbdDisk("vda", "127.0.0.1", 9, "web01/vda@-1m", MIB)]
    )
    assert copy.disks[0].source == "nbd://127.0.0.1:9/web01/vda@-1m"
    memory.pull_disks(copy.id)
    assert "nbd" not in memory.get_vm(copy.id).disks[0].source
