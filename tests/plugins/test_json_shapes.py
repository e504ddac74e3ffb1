"""The fields of every result: programs rely on them, so one that goes or is renamed fails here."""

from __future__ import annotations

import pytest

from plugins import models

SHAPES = {
    "HypervisorList": "hypervisors",
    "HypervisorInfo": "name kind url created",
    "HypervisorCheck": "name kind url version vms seconds capabilities findings",
    "VmList": "vms problems",
    "VmInfo": "name hypervisor id power memory_bytes vcpus disks has_agent protected",
    "Status": "vms ingest",
    "VmStatus": "name id hypervisor protected journal state connected rpo_ms durable_wall when epoch next_lsn"
    " synced_bytes sync_bytes ring_used ring_bytes lost unreadable_bytes received_bytes clock_offset_ns"
    " accounting alarm",
    "PointList": "vm timeline latest_lsn latest_wall latest ranges points cuts",
    "PointInfo": "wall when lsn kind label consistency number epoch frozen",
    "RangeInfo": "quality begin_wall begin end_wall end first_lsn last_lsn reason",
    "Marked": "vm name lsn wall when consistency frozen messages",
    "ProtectResult": "vm id hypervisor journal state already rpo_ms seconds alarm",
    "UnprotectResult": "vm journal journal_deleted already notes",
    "RecoveredPoint": "lsn wall when consistency timeline description",
    "RecoverFileResult": "vm point files seconds",
    "ImageFile": "disk path disk_bytes file_bytes",
    "RecoverBootResult": "vm point name id hypervisor started_seconds answering_seconds local local_seconds",
    "DoctorReport": "ok checks",
    "Check": "name ok found remedy",
    "ConfigReport": "file environment settings",
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_result_has_the_fields_that_were_promised(name: str) -> None:
    assert list(getattr(models, name).model_fields) == SHAPES[name].split()
