"""Looking into a recovered image: the file system's own check, and the database in it.

The image is never written: the file system's journal is replayed in a copy-on-write overlay.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.errors import LabCommandError
from lab.paths import GUEST_FILES
from lab.run import run

PARTITION_OFFSET = 1 << 20  # the image's one partition begins here
DATABASE = "var/lib/lwdemo/rows.db"
FILES = "srv/files"
TIME_LIMIT_S = 120


@dataclass(frozen=True)
class Inspection:
    """What an image holds: `fsck` is "clean" or what e2fsck said; the other two as the guest's scripts print."""

    fsck: str
    database: dict[str, Any]
    files: dict[str, Any]


def inspect(raw_image: Path, *, scratch: Path | None = None) -> Inspection:
    """Check a raw image of a lab guest: its journal recovery, file system, database and files."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        copy = Path(folder) / "copy.raw"
        run(["cp", "--sparse=always", "--reflink=auto", raw_image, copy], timeout_s=TIME_LIMIT_S)
        with _partition(copy) as device:
            with _mounted(device, Path(folder) / "tree"):
                pass  # mounting replays the file system's journal, as a boot would
            fsck = _fsck(device)
            with _mounted(device, Path(folder) / "tree") as tree:
                database = _script("check.py", tree / DATABASE)
                files = _script("files.py", "verify", tree / FILES) if (tree / FILES).is_dir() else {}
    return Inspection(fsck, database, files)


@contextlib.contextmanager
def _partition(image: Path) -> Iterator[str]:
    size = image.stat().st_size - PARTITION_OFFSET
    argv: list[str | Path] = [
        "losetup",
        "-f",
        "--show",
        "-o",
        str(PARTITION_OFFSET),
        "--sizelimit",
        str(size),
        image,
    ]
    device = run(argv, timeout_s=TIME_LIMIT_S).strip()
    try:
        yield device
    finally:
        run(["losetup", "-d", device], timeout_s=TIME_LIMIT_S)


@contextlib.contextmanager
def _mounted(device: str, tree: Path) -> Iterator[Path]:
    tree.mkdir(exist_ok=True)
    run(["mount", device, tree], timeout_s=TIME_LIMIT_S)
    try:
        yield tree
    finally:
        run(["umount", tree], timeout_s=TIME_LIMIT_S)


def _fsck(device: str) -> str:
    try:
        run(["e2fsck", "-f", "-n", device], timeout_s=TIME_LIMIT_S)
    except LabCommandError as error:
        return error.message
    return "clean"


def _script(name: str, *arguments: str | Path) -> dict[str, Any]:
    # The scripts' exit status says "something is wrong", which the caller reads from what they print.
    shell = 'script=$1; shift; "$@" || test $? = 1'
    out = run(
        ["sh", "-c", shell, "sh", name, sys.executable, GUEST_FILES / name, *arguments],
        timeout_s=TIME_LIMIT_S,
    )
    found: dict[str, Any] = json.loads(out)
    return found
