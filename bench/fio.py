"""The peer of `ingest`: fio writes 4 MiB blocks one after the other, O_DIRECT, each followed by fdatasync."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from bench.errors import BenchFailed
from bench.measure import require_program

PEER = "fio-direct-fdatasync"
BLOCK_BYTES = 4 << 20


def require_fio() -> None:
    """Raise MissingPeer when there is no fio."""
    require_program("fio", "fio")


def write_rate(folder: Path, total_bytes: int) -> float:
    """Return the bytes per second at which fio writes a new file of `total_bytes` in `folder`."""
    path = folder / "fio.dat"
    job = [f"--filename={path}", f"--size={total_bytes}", "--rw=write", f"--bs={BLOCK_BYTES}"]
    how = ["--name=peer", "--ioengine=psync", "--direct=1", "--fdatasync=1", "--output-format=json"]
    try:
        ran = subprocess.run(["fio", *how, *job], capture_output=True, text=True, timeout=300)
    finally:
        path.unlink(missing_ok=True)
    if ran.returncode:
        raise BenchFailed(f"fio failed: {ran.stderr.strip()[:300]}")
    wrote = json.loads(ran.stdout)["jobs"][0]["write"]
    return float(wrote["io_bytes"]) / (float(wrote["runtime"]) / 1000)
