"""Descriptions of VMs: what is refused, and how disks and exports are paired."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from hypervisors.errors import BadVmSpecError
from hypervisors.model import MIB, Capabilities, DiskSpec, NbdDisk, VmSpec, paired

GOOD = VmSpec("web01", 64 * MIB, 1, disks=(DiskSpec("vda", MIB),))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", "a/b"),
        ("name", "a\nb"),
        ("name", " a"),
        ("name", "x" * 201),
        ("memory_bytes", 0),
        ("vcpus", 0),
        ("firmware", "openfirmware"),
        ("accel", "hvf"),
        ("disks", (DiskSpec("vda", MIB), DiskSpec("vda", MIB))),
        ("disks", (DiskSpec("vda", 0),)),
        ("disks", (DiskSpec("vda", 513),)),
    ],
)
def test_bad_field_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(BadVmSpecError) as caught:
        dataclasses.replace(GOOD, **{field: value})
    assert field in caught.value.message


@pytest.mark.parametrize("change", [{"bytes": 0}, {"bytes": 100}, {"port": 0}, {"port": 65536}, {"host": ""}])
def test_bad_export_is_refused(change: dict[str, Any]) -> None:
    good = {"target": "vda", "host": "h", "port": 1, "export": "e", "bytes": MIB}
    with pytest.raises(BadVmSpecError):
        NbdDisk(**{**good, **change})


def test_exports_are_paired_in_the_order_of_the_description() -> None:
    spec = dataclasses.replace(GOOD, disks=(DiskSpec("vda", None), DiskSpec("vdb", None, "scsi")))
    a, b = (NbdDisk(target, "h", 1, target, MIB) for target in ("vda", "vdb"))
    assert paired(spec, [b, a]) == [(spec.disks[0], a), (spec.disks[1], b)]


def test_description_without_disks_takes_those_of_the_exports() -> None:
    export = NbdDisk("vda", "h", 1, "e", MIB)
    assert paired(dataclasses.replace(GOOD, disks=()), [export]) == [(DiskSpec("vda", MIB), export)]


@pytest.mark.parametrize("targets", [[], ["vdb"], ["vda", "vdb"], ["vda", "vda"]])
def test_exports_that_do_not_match_are_refused(targets: list[str]) -> None:
    with pytest.raises(BadVmSpecError, match="vda"):
        paired(GOOD, [NbdDisk(target, "h", 1, "e", MIB) for target in targets])


def test_capabilities_are_frozen_and_named() -> None:
    able = Capabilities(freeze=True, screenshot=True)
    assert able.names() == ("freeze", "screenshot")
    with pytest.raises(dataclasses.FrozenInstanceError):
        able.freeze = False  # type: ignore[misc]
