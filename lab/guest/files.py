#!/usr/bin/python3
"""The lab's plain files: twenty texts with a manifest of their checksums, to be damaged and had back.

files.py write [DIR]       create the files and DIR/MANIFEST.sha256 (sha256sum's own form)
files.py overwrite [DIR]   overwrite every text in place, as ransomware does; the manifest stays
files.py verify [DIR]      print {"ok": 20, "changed": [], "missing": []}; exit status 1 unless all are ok
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

COUNT = 20
MANIFEST = "MANIFEST.sha256"


def write(folder: Path) -> None:
    """Create the texts and their manifest in `folder`; the same content each time."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = []
    for number in range(1, COUNT + 1):
        name = f"letter-{number:02}.txt"
        lines = (
            f"Letter {number}, line {line}: every write is kept.\n" for line in range(1, 40 + 10 * number)
        )
        content = "".join(lines).encode()
        (folder / name).write_bytes(content)
        manifest.append(f"{hashlib.sha256(content).hexdigest()}  {name}\n")
    (folder / MANIFEST).write_text("".join(manifest), encoding="ascii")


def overwrite(folder: Path) -> None:
    """Replace the content of every listed text by noise of the same length, on stable storage."""
    for _digest, path in _listed(folder):
        with open(path, "r+b") as file:
            file.write(os.urandom(os.fstat(file.fileno()).st_size))
            file.flush()
            os.fsync(file.fileno())


def verify(folder: Path) -> dict[str, Any]:
    """Compare every listed text with the manifest; {"ok": count, "changed": names, "missing": names}."""
    found: dict[str, Any] = {"ok": 0, "changed": [], "missing": []}
    for digest, path in _listed(folder):
        if not path.is_file():
            found["missing"].append(path.name)
        elif hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            found["changed"].append(path.name)
        else:
            found["ok"] += 1
    return found


def _listed(folder: Path) -> Iterator[tuple[str, Path]]:
    for line in (folder / MANIFEST).read_text(encoding="ascii").splitlines():
        digest, name = line.split("  ", 1)
        yield digest, folder / name


def main() -> int:
    """Do what the command line asks."""
    parser = argparse.ArgumentParser(description="Write, damage or verify the lab's plain files.")
    parser.add_argument("action", choices=("write", "overwrite", "verify"))
    parser.add_argument("folder", type=Path, nargs="?", default=Path("/srv/files"))
    wanted = parser.parse_args()
    if wanted.action == "verify":
        found = verify(wanted.folder)
        print(json.dumps(found))
        return 0 if found["ok"] == COUNT else 1
    (write if wanted.action == "write" else overwrite)(wanted.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
