"""Recovering a VM at a point: as image files, or as a VM that boots on a view of the point."""

from __future__ import annotations

import contextlib
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lastwrite.catalog import VmRow
from lastwrite.errors import LastwriteError, UsageError
from lastwrite.ids import valid_name
from lastwrite.text import utc
from plugins.errors import CancelledError
from plugins.models import ImageFile, RecoverBootResult, RecoveredPoint, RecoverFileResult
from plugins.server.context import Context, Emit

if TYPE_CHECKING:
    from hypervisors.base import Hypervisor, VmSpec
    from journal.reader import JournalReader
    from recovery.points import RecoveryPoint

MAKE_IT = "Make the directory first."


@dataclass(frozen=True)
class FileRequest:
    """What `recover --to` was asked; `path` is absolute."""

    target: str
    path: str
    disk: str | None = None


@dataclass(frozen=True)
class BootRequest:
    """What `recover --boot` was asked."""

    target: str
    hypervisor: str
    name: str | None = None
    pull: bool = True


def to_file(context: Context, request: FileRequest, emit: Emit) -> RecoverFileResult:
    """Write the disks of a VM at a point into images. All of them are there at the end, or none is."""
    from recovery.images import write_image
    from recovery.view import View, disks_at, find_disk

    began = time.monotonic()
    row, reader, point = _look_up(context, request.target)
    disks = [find_disk(reader, point, request.disk)] if request.disk is not None else disks_at(reader, point)
    names = [disk.name for disk in disks]
    paths = image_paths(Path(request.path), names)
    files: list[ImageFile] = []
    with contextlib.ExitStack() as undo:
        for name, path in paths.items():
            text = f"Writing {path.name}"
            emit.step(text)
            view = View(reader, point, name)
            write_image(view, path, _stoppable(emit, text))
            undo.callback(path.unlink)
            size = path.stat().st_blocks * 512
            files.append(ImageFile(disk=name, path=str(path), disk_bytes=view.disk_bytes, file_bytes=size))
        undo.pop_all()
    seconds = time.monotonic() - began
    return RecoverFileResult(vm=row.name, point=_recovered(point), files=files, seconds=seconds)


def image_paths(path: Path, disks: list[str]) -> dict[str, Path]:
    """Return the file for each disk: `path` for a single one, else FILE-DISK.suffix.

    A disk's name stands in a file's as far as it can: other characters than letters, digits, . _ and - become _.
    Raises what cannot be written before anything is: BadImagePath, UnknownImageFormat, ImageExists, ImageNotWritten.
    """
    from recovery.errors import BadImagePath, ImageExists, ImageNotWritten, UnknownImageFormat
    from recovery.images import SUFFIXES

    if not path.is_absolute() or not str(path).isprintable():
        raise BadImagePath(f"{str(path)[:80]!r} is no absolute path of printable characters")
    if path.suffix.lower() not in SUFFIXES:
        raise UnknownImageFormat(
            f"{path}: {path.suffix or 'no ending'} is no image format that can be written"
        )
    if not path.parent.is_dir():
        raise ImageNotWritten(f"{path}: there is no directory {path.parent}", hint=MAKE_IT)
    paths = dict.fromkeys(disks, path)
    if len(disks) > 1:
        paths = {disk: path.with_stem(f"{path.stem}-{part}") for disk, part in _file_parts(disks).items()}
    for file in paths.values():
        try:
            file.lstat()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise BadImagePath(f"{str(file)[:80]}...: {error.strerror}") from error
        raise ImageExists(f"{file} exists already")
    return paths


def _file_parts(disks: list[str]) -> dict[str, str]:
    """Return what stands for each disk in the name of its file, no two the same."""
    parts: dict[str, str] = {}
    for disk in disks:
        plain = part = re.sub(r"[^A-Za-z0-9._-]", "_", disk)
        number = 1
        while part in parts.values():
            number += 1
            part = f"{plain}-{number}"
        parts[disk] = part
    return parts


def boot(context: Context, request: BootRequest, emit: Emit) -> RecoverBootResult:
    """Boot a copy of a VM from a point; wait until it answers, and with `pull` until it stands alone."""
    from recovery import boot as recovery_boot

    began = time.monotonic()
    row, reader, point = _look_up(context, request.target)
    name = valid_name(request.name or copy_name(row.name, point.wall), "VM")
    spec = spec_of(context, row)
    with context.hypervisor(request.hypervisor) as hypervisor:
        emit.step(f"Booting {name} on {hypervisor.name} from {point.description}")
        address = context.settings.nbd.advertise
        vm = recovery_boot.boot(hypervisor, spec, reader, point, address, name, vm_name=row.name)
        started = time.monotonic() - began
        with _deleted_when_cancelled(hypervisor, vm.id):
            emit.check()
            answering = _wait(hypervisor, vm.id, name, began, emit)
        local = _pull(hypervisor, vm.id, name, emit, began) if request.pull else None
    return RecoverBootResult(
        vm=row.name,
        point=_recovered(point),
        name=vm.name,
        id=vm.id,
        hypervisor=request.hypervisor,
        started_seconds=started,
        answering_seconds=answering,
        local=local is not None,
        local_seconds=local,
    )


def _wait(hypervisor: Hypervisor, vm_id: str, name: str, began: float, emit: Emit) -> float | None:
    """Return the seconds from the order to the guest's answer; None where guests cannot be asked."""
    from recovery.boot import wait_until_answering

    if not hypervisor.capabilities().guest_exec:
        return None
    emit.step(f"Waiting for the guest of {name} to answer")
    wait_until_answering(hypervisor, vm_id, progress=lambda _event: emit.check())
    return time.monotonic() - began


def _pull(hypervisor: Hypervisor, vm_id: str, name: str, emit: Emit, began: float) -> float:
    from recovery.boot import finish

    text = f"Copying the disks of {name} to {hypervisor.name}"
    emit.step(text)
    finish(hypervisor, vm_id, lambda done, total: emit.progress(text, done, total))
    return time.monotonic() - began


@contextlib.contextmanager
def _deleted_when_cancelled(hypervisor: Hypervisor, vm_id: str) -> Any:
    try:
        yield
    except CancelledError:
        with contextlib.suppress(LastwriteError):
            hypervisor.stop(vm_id, force=True)
            hypervisor.delete_vm(vm_id, storage=True)
        raise


def copy_name(vm: str, wall: int) -> str:
    """Return a name for a copy of `vm`, by the instant that it shows."""
    return f"{vm}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime(wall // 10**9))}"


def spec_of(context: Context, row: VmRow) -> VmSpec:
    """Return the description that was kept when the VM was protected: its host may be gone by now."""
    from hypervisors.base import DiskSpec, NicSpec, VmSpec

    if row.spec is None:
        with context.hypervisor(row.hypervisor) as hypervisor:
            return hypervisor.describe(row.ref)
    values = dict(row.spec)
    values["disks"] = tuple(DiskSpec(**disk) for disk in values.get("disks", ()))
    values["nics"] = tuple(NicSpec(**nic) for nic in values.get("nics", ()))
    return VmSpec(**values)


def _look_up(context: Context, target: str) -> tuple[VmRow, JournalReader, RecoveryPoint]:
    from recovery.points import find, split_target

    if "@" not in target:
        hint = f"Write {target}@latest, or another point; `lastwrite points {target}` shows them."
        raise UsageError(f"{target!r} names no point", hint=hint)
    name, point = split_target(target)
    row = context.catalog.vm(name)
    reader = context.reader(row)
    return row, reader, find(reader, point)


def _stoppable(emit: Emit, text: str) -> Any:
    def report(done: int, total: int) -> None:
        emit.check()
        emit.progress(text, done, total)

    return report


def _recovered(point: RecoveryPoint) -> RecoveredPoint:
    return RecoveredPoint(
        lsn=point.lsn,
        wall=point.wall,
        when=utc(point.wall),
        consistency=point.consistency,
        timeline=point.timeline,
        description=point.description,
    )
