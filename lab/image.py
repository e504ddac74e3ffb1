"""The guest's disk image: Debian 12 with a real kernel and boot loader, built once and cached.

Two stages, each cached under the hash of what it is made from: `rootfs-KEY.tar` by the list of packages
(slow, from the Debian archive) and `image-KEY/` by that and the files of lab/guest (quick). A stage is made
in a work folder and renamed into place when whole, so an interrupted build leaves nothing that looks done.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from lab.errors import LabUnsupportedError
from lab.paths import GUEST_FILES, cache_dir
from lab.run import Report, isolated, locked, run, say

SUITE = "bookworm"
SIZE_MIB = 1536
PACKAGES = (
    "linux-image-cloud-amd64",
    "initramfs-tools",
    "systemd-sysv",
    "udev",
    "kmod",
    "dbus",  # logind needs it, and logind is who obeys the power button
    "python3",
    "qemu-guest-agent",
    "lvm2",
    "dmsetup",
    "e2fsprogs",
    "sqlite3",
    "zstd",
    "iproute2",
    "procps",
    "ca-certificates",
)
LEFT_OUT = ("/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/doc/*")
# A small initrd is read and unpacked quickly by the boot loader under emulation; it holds what a recovered
# disk may find itself on: virtio, SCSI, SATA and Xen.
INITRD_MODULES = ("virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod", "ahci", "xen_blkfront")
TAR_TIMEOUT_S = 600
ASSEMBLE_TIMEOUT_S = 180
FORGET_AFTER_S = 30 * 86400


@dataclass(frozen=True)
class Image:
    """One built image: a folder with the raw base disk (never to be written), kernel and initrd."""

    folder: Path

    @property
    def base(self) -> Path:
        """The sparse raw disk of SIZE_MIB; copy it, do not boot it."""
        return self.folder / "base.raw"

    @property
    def kernel(self) -> Path:
        """The guest's kernel, for a boot without the loader."""
        return self.folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        """The initrd of that kernel."""
        return self.folder / "initrd.img"


def ensure(report: Report = say) -> Image:
    """Return the image of the present recipe, building what is missing; safe to call from many processes.

    Raises LabCommandError when a tool fails, LabBusyError when another build holds the cache for too long.
    """
    image = Image(cache_dir() / f"image-{_image_key()}")
    if image.folder.is_dir():
        os.utime(image.folder)  # `_forget_unused` goes by it
        return image
    if os.geteuid() != 0:
        raise LabUnsupportedError("building the guest image needs root (it mounts a loop device)")
    with locked(
        cache_dir() / "image.lock", timeout_s=TAR_TIMEOUT_S + ASSEMBLE_TIMEOUT_S, report=report
    ) as lock:
        if not image.folder.is_dir():
            work = _fresh_work_folder()
            _assemble(_ensure_tar(work, lock, report), image, work, lock, report)
            shutil.rmtree(work)
            _forget_unused()
    return image


def copy_disk(image: Image, target: Path, *, disk_format: str = "raw") -> None:
    """Make a guest's own disk from `image` at `target`: "raw" (sparse) or "qcow2" (no backing file)."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if disk_format == "raw":
        run(["cp", "--sparse=always", "--reflink=auto", image.base, target], timeout_s=120)
    else:
        run(["qemu-img", "convert", "-W", "-O", disk_format, image.base, target], timeout_s=120)


def _ensure_tar(work: Path, lock: int, report: Report) -> Path:
    tar = cache_dir() / f"rootfs-{_tar_key()}.tar"
    if not tar.exists():
        began = time.monotonic()
        report(f"fetching Debian {SUITE} and the guest's packages (about a minute, cached from then on)")
        run(
            isolated(_mmdebstrap(work / tar.name)),
            timeout_s=TAR_TIMEOUT_S,
            env={"TMPDIR": str(work)},
            keep_open=[lock],
        )
        (work / tar.name).rename(tar)
        report(f"root file system ready: {tar.stat().st_size >> 20} MiB in {time.monotonic() - began:.0f} s")
    return tar


def _assemble(tar: Path, image: Image, work: Path, lock: int, report: Report) -> None:
    began = time.monotonic()
    report("assembling the guest's disk")
    script = Path(__file__).parent / "assemble.sh"
    argv: list[str | Path] = ["sh", script, tar, GUEST_FILES, work / "image", str(SIZE_MIB)]
    run(isolated(argv), timeout_s=ASSEMBLE_TIMEOUT_S, keep_open=[lock])
    (work / "image" / "root").rmdir()
    (work / "image").rename(image.folder)
    used = image.base.stat().st_blocks * 512 >> 20
    report(f"guest image ready in {time.monotonic() - began:.0f} s: {used} of {SIZE_MIB} MiB: {image.folder}")


def _fresh_work_folder() -> Path:
    """Return an empty work folder; what an interrupted build left in it is removed (we hold the lock)."""
    work = cache_dir() / "work"
    if work.exists():
        shutil.rmtree(work)
    work.mkdir()
    return work


def _forget_unused() -> None:
    """Delete images and tars of other recipes that nobody has asked for in FORGET_AFTER_S seconds."""
    for old in (*cache_dir().glob("image-*/"), *cache_dir().glob("rootfs-*.tar")):
        if time.time() - old.stat().st_mtime > FORGET_AFTER_S:
            shutil.rmtree(old) if old.is_dir() else old.unlink()


def _mmdebstrap(tar: Path) -> list[str | Path]:
    modules = "\\n".join(INITRD_MODULES)
    argv: list[str | Path] = ["mmdebstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}"]
    argv += ['--aptopt=APT::Install-Recommends "false"', '--aptopt=Acquire::Languages "none"']
    argv += [f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT]
    argv += ["--dpkgopt=path-include=/usr/share/doc/*/copyright"]
    argv += [f'--essential-hook=mkdir -p "$1/usr/share/initramfs-tools/{d}"' for d in ("conf.d", "modules.d")]
    argv += ['--essential-hook=echo MODULES=list >"$1/usr/share/initramfs-tools/conf.d/lab"']
    argv += [f'--essential-hook=printf "{modules}\\n" >"$1/usr/share/initramfs-tools/modules.d/lab"']
    # The archive is mmdebstrap's own default for the suite; LASTWRITE_MIRROR names another one.
    return [*argv, SUITE, tar, *filter(None, [os.environ.get("LASTWRITE_MIRROR")])]


def _tar_key() -> str:
    return _hash([" ".join(str(word) for word in _mmdebstrap(Path("rootfs.tar"))).encode()])


def _image_key() -> str:
    parts = [
        _tar_key().encode(),
        str(SIZE_MIB).encode(),
        (Path(__file__).parent / "assemble.sh").read_bytes(),
    ]
    for file in sorted(p for p in GUEST_FILES.iterdir() if p.is_file()):
        parts += [file.name.encode(), file.read_bytes()]
    return _hash(parts)


def _hash(parts: list[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(b"%d:" % len(part) + part)
    return digest.hexdigest()[:16]
