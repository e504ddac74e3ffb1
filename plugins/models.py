"""The results of the commands: what the API sends, what `--json` prints, and what the tables are made of.

Times are nanoseconds since 1970 of the source's clock in `wall` and `*_wall`, the same instant as ISO 8601 (UTC)
in `when` or the name without `_wall`; `frozen` is nanoseconds, sizes are bytes.
A field is never renamed or removed within API version 1; new ones may come.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Result(BaseModel):
    """The base of all results."""

    model_config = ConfigDict(frozen=True)


class Health(Result):
    """The control process."""

    version: str
    pid: int
    state_dir: str


class HypervisorInfo(Result):
    """A hypervisor of the catalog."""

    name: str
    kind: str
    url: str
    created: str


class HypervisorList(Result):
    """`hypervisor list`."""

    hypervisors: list[HypervisorInfo]


class FindingInfo(Result):
    """One thing that was found on a hypervisor; `remedy` says what to do when it is not ok."""

    capability: str
    ok: bool
    detail: str
    remedy: str


class HypervisorCheck(Result):
    """`hypervisor check`: it was reached, and what it can do."""

    name: str
    kind: str
    url: str
    version: str
    vms: int
    seconds: float
    capabilities: dict[str, bool]
    findings: list[FindingInfo]


class Removed(Result):
    """Something was taken out of the catalog."""

    name: str


class DiskInfo(Result):
    """A disk of a VM."""

    name: str
    bytes: int | None


class VmInfo(Result):
    """A VM on a hypervisor."""

    name: str
    hypervisor: str
    id: str
    power: str
    memory_bytes: int
    vcpus: int
    disks: list[DiskInfo]
    has_agent: bool | None
    protected: bool


class Problem(Result):
    """Something that could not be looked at, and the remedy."""

    where: str
    message: str
    hint: str


class VmList(Result):
    """`vm list`."""

    vms: list[VmInfo]
    problems: list[Problem]


class VmStatus(Result):
    """One protected VM. What only the ingest process knows is null while it is away."""

    name: str
    id: str
    hypervisor: str
    protected: bool
    journal: str
    state: str
    connected: bool = False
    rpo_ms: float | None = None
    durable_wall: int | None = None
    when: str | None = None
    epoch: int | None = None
    next_lsn: int | None = None
    synced_bytes: int | None = None
    sync_bytes: int | None = None
    ring_used: int | None = None
    ring_bytes: int | None = None
    lost: int | None = None
    unreadable_bytes: int | None = None
    received_bytes: int | None = None
    clock_offset_ns: int | None = None
    accounting: Any = None
    alarm: str | None = None


class Status(Result):
    """`status`."""

    vms: list[VmStatus]
    ingest: bool


class PointInfo(Result):
    """A cut, a bookmark or an AppShot."""

    wall: int
    when: str
    lsn: int
    kind: str
    label: str | None
    consistency: str
    number: int
    epoch: int
    frozen: int | None


class RangeInfo(Result):
    """A stretch of the past: `exact` or `approximate` (every point in it can be recovered to), or a `gap`."""

    quality: str
    begin_wall: int | None
    begin: str | None
    end_wall: int | None
    end: str | None
    first_lsn: int
    last_lsn: int | None
    reason: str


class PointList(Result):
    """`points`: the honest timeline, and the points with a name (all of them with --all)."""

    vm: str
    timeline: int
    latest_lsn: int | None
    latest_wall: int | None
    latest: str | None
    ranges: list[RangeInfo]
    points: list[PointInfo]
    cuts: int


class Marked(Result):
    """`bookmark` and `appshot`: the point that was made."""

    vm: str
    name: str
    lsn: int
    wall: int | None
    when: str | None
    consistency: str
    frozen: int | None
    messages: list[str]


class ProtectResult(Result):
    """`protect`."""

    vm: str
    id: str
    hypervisor: str
    journal: str
    state: str
    already: bool
    rpo_ms: float | None
    seconds: float
    alarm: str | None = None


class UnprotectResult(Result):
    """`unprotect`."""

    vm: str
    journal: str
    journal_deleted: bool
    already: bool
    notes: list[str]


class RecoveredPoint(Result):
    """The point that was recovered to. Consistency: app, filesystem, crash or approximate."""

    lsn: int
    wall: int
    when: str
    consistency: str
    timeline: int
    description: str


class ImageFile(Result):
    """A file that was written."""

    disk: str
    path: str
    disk_bytes: int
    file_bytes: int


class RecoverFileResult(Result):
    """`recover --to`."""

    vm: str
    point: RecoveredPoint
    files: list[ImageFile]
    seconds: float


class RecoverBootResult(Result):
    """`recover --boot`. Seconds count from the command; null: it was not waited for, or did not come."""

    vm: str
    point: RecoveredPoint
    name: str
    id: str
    hypervisor: str
    started_seconds: float
    answering_seconds: float | None
    local: bool
    local_seconds: float | None


class Check(Result):
    """One thing that `doctor` looked at."""

    name: str
    ok: bool
    found: str
    remedy: str


class DoctorReport(Result):
    """`doctor`."""

    ok: bool
    checks: list[Check]


class ConfigReport(Result):
    """`config check`."""

    file: str | None
    environment: list[str]
    settings: dict[str, Any]
