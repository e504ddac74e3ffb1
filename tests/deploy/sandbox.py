"""A guest in a folder: real /bin/sh, python3 and files under a root of its own, an imitated systemctl and agent.

Paths of the guest are rewritten to lie under the root. It shows what the scripts do, not what systemd, a
kernel or a hypervisor's channel does.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from hypervisors.base import ExecResult, Progress, VmSpec
from hypervisors.errors import GuestFileError
from hypervisors.memory import MemoryHypervisor

PLACES = ("/usr/local", "/etc/", "/var/lib", "/run/", "/sys/")
SYSTEMCTL = """#!/bin/sh
echo "$@" >> ROOT/systemctl.log
case "$1" in
is-active) [ ! -e ROOT/agent-fails ] ;;
status) echo "agent failed to start" ;;
esac
"""
AGENT = b"""
import json, os, shutil, sys
if sys.argv[1] == "probe":
    problems = []
    if os.path.exists("ROOT/kernel-unfit"):
        problems = [{"code": "bpf", "what": "no ring buffer", "remedy": "Allow bpf(2)."}]
    print(json.dumps({"problems": problems, "ok": not problems}))
else:
    open("ROOT/removed", "w").write(sys.argv[1])
"""


class SandboxHypervisor(MemoryHypervisor):
    """The memory hypervisor with one VM, `web01`, whose guest is the folder `root`."""

    def __init__(self, root: Path) -> None:
        super().__init__("test")
        self.root = root
        self.programs = root / "bin"
        self.argv: list[list[str]] = []
        self.refused: Exception | None = None
        self.refused_path = ""
        for place in ("usr/local/lib", "etc/systemd/system", "var/lib", "run/systemd/system", "bin"):
            (root / place).mkdir(parents=True)
        (root / "sys/kernel/btf").mkdir(parents=True)
        (root / "sys/kernel/btf/vmlinux").write_bytes(b"btf")
        self.add_program("systemctl", SYSTEMCTL.replace("ROOT", str(root)))
        self.add_program("sleep", "#!/bin/sh\n")
        self.connect()
        self.vm = self.create_vm(VmSpec("web01", 1 << 30, 1))
        self.start(self.vm.id)

    def add_program(self, name: str, text: str) -> None:
        """Give the guest a command."""
        path = self.programs / name
        path.write_text(text)
        path.chmod(0o755)

    def inside(self, text: str) -> str:
        """Return a text with the guest's paths moved under the root."""
        for place in PLACES:
            text = text.replace(place, str(self.root) + place)
        return text

    def tree(self) -> dict[str, tuple[int, bytes]]:
        """Return every path in the guest with its mode and content."""
        found = {}
        for path in sorted(self.root.rglob("*")):
            if path.name not in ("systemctl.log", "removed"):
                data = path.read_bytes() if path.is_file() else b""
                found[str(path.relative_to(self.root))] = (path.stat().st_mode, data)
        return found

    def services(self) -> list[str]:
        """Return what systemctl was asked, in order."""
        log = self.root / "systemctl.log"
        return log.read_text().splitlines() if log.exists() else []

    def guest_exec(
        self, vm_id: str, argv: Sequence[str], stdin: bytes = b"", timeout: float = 30.0
    ) -> ExecResult:
        """Run it for real, under the root."""
        if self.refused is not None:
            raise self.refused
        self.argv.append(list(argv))
        moved = [self.inside(word) if number else word for number, word in enumerate(argv)]
        path = f"{self.programs}:{os.environ['PATH']}"
        script = self.inside(stdin.decode()).encode()
        done = subprocess.run(
            moved, input=script, capture_output=True, timeout=timeout, env={"PATH": path}, check=False
        )
        return ExecResult(done.returncode, done.stdout, done.stderr)

    def guest_write(
        self, vm_id: str, path: str, data: bytes, mode: int, progress: Progress | None = None
    ) -> None:
        """Write under the root."""
        if self.refused_path and path.endswith(self.refused_path):
            raise GuestFileError(f"{path}: no space left")
        target = Path(self.inside(path))
        target.write_bytes(data.replace(b"ROOT", str(self.root).encode()))
        target.chmod(mode)
        if progress:
            progress(len(data), len(data))
