"""How guests run on this machine: with hardware virtualisation where it really works, else emulated.

/dev/kvm may exist and still not boot a stock kernel (nested virtualisation), so the guest's own kernel is
booted with it once, and only a user space that speaks within the limit counts. The verdict is cached per
kernel, boot and guest image, so it is asked once.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from lab.image import Image, ensure
from lab.paths import cache_dir
from lab.run import Report, locked, say

PROBE_TIMEOUT_S = 20
# Emulated, "max" against "qemu64", in a Debian 12 guest of 2 vCPUs under QEMU 7.2 (`openssl speed`, two runs
# each on a shared machine of 2 cores, so good to a quarter or so): boot to agent 16 s against 13-15 s;
# AES-256-GCM 33-41 against 18-21 MB/s; ChaCha20-Poly1305 44-60 against 128-173 MB/s; SHA-256 43-60 against
# 69-80 MB/s; ECDH and RSA alike. The agent takes ChaCha20 where the processor has no AES: "qemu64".
EMULATED_CPU = "qemu64"
USER_SPACE_SAYS = "Loading, please wait"  # the first words of the initrd's /init


@dataclass(frozen=True)
class Accelerator:
    """What guests run on: `kind` is libvirt's domain type ("kvm" or "qemu"), `cpu` the model's name."""

    kind: str
    cpu: str
    why: str

    @property
    def name(self) -> str:
        """What people call it: "KVM" or "QEMU emulation"."""
        return "KVM" if self.is_hardware else "QEMU emulation"

    @property
    def is_hardware(self) -> bool:
        """Whether the processor itself runs the guests."""
        return self.kind == "kvm"


def choose(image: Image | None = None, report: Report = say) -> Accelerator:
    """Return the accelerator that works on this machine; the first call may take PROBE_TIMEOUT_S seconds.

    `image` is the guest image whose kernel is asked (default: the present one, built if it is missing).
    """
    image = image or ensure(report)
    verdict = cache_dir() / f"accel-{_key(image)}.json"
    if not verdict.exists():
        with locked(cache_dir() / "accel.lock", timeout_s=3 * PROBE_TIMEOUT_S, report=report):
            if not verdict.exists():
                found = _probe(image, report)
                report(f"guests run on {found.kind} ({found.cpu}): {found.why}")
                whole = verdict.with_suffix(".new")
                whole.write_text(json.dumps(asdict(found)))
                whole.rename(verdict)
    return Accelerator(**json.loads(verdict.read_text()))


def _probe(image: Image, report: Report) -> Accelerator:
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return Accelerator("qemu", EMULATED_CPU, "/dev/kvm is missing or closed to us")
    report(f"asking whether hardware virtualisation works (at most {PROBE_TIMEOUT_S} s)")
    seconds = kvm_boots(image, timeout_s=PROBE_TIMEOUT_S)
    if seconds is None:
        return Accelerator("qemu", EMULATED_CPU, "/dev/kvm exists, but a stock kernel does not boot with it")
    return Accelerator("kvm", "host-passthrough", f"a kernel reached user space in {seconds:.1f} s")


def kvm_boots(image: Image, *, timeout_s: float) -> float | None:
    """Boot the guest's kernel with KVM; the seconds until its user space speaks, None if it does not."""
    with tempfile.TemporaryDirectory() as folder:
        console = Path(folder) / "console"
        console.touch()
        argv = [
            "qemu-system-x86_64",
            "-accel",
            "kvm",
            "-cpu",
            "host",
            "-machine",
            "q35",
            "-smp",
            "2",
            "-m",
            "512",
        ]
        argv += ["-nodefaults", "-display", "none", "-no-reboot", "-serial", f"file:{console}"]
        argv += [
            "-kernel",
            str(image.kernel),
            "-initrd",
            str(image.initrd),
            "-append",
            "console=ttyS0 panic=-1",
        ]
        quiet = subprocess.DEVNULL
        with subprocess.Popen(argv, stdin=quiet, stdout=quiet, stderr=quiet) as machine:
            try:
                return _seconds_until_spoken(machine, console, timeout_s)
            finally:
                machine.kill()


def _seconds_until_spoken(machine: subprocess.Popen[bytes], console: Path, timeout_s: float) -> float | None:
    began = time.monotonic()
    while (passed := time.monotonic() - began) < timeout_s:
        if USER_SPACE_SAYS in console.read_text(errors="replace"):
            return passed
        if machine.poll() is not None:
            return None
        time.sleep(0.1)
    return None


def _key(image: Image) -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return hashlib.sha256(
        f"{platform.release()} {boot} {image.folder.name} {EMULATED_CPU}".encode()
    ).hexdigest()[:16]
