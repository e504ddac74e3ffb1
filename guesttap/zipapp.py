"""Packs the agent as one file that runs in a guest, where nothing can be installed or fetched.

The file is a zip that Python runs (see the standard library's `zipapp`): our own modules, msgpack in its pure
Python form, and for each interpreter tag the extension module of xxhash, which cannot be imported from a zip
and is unpacked by the start-up code. The same content always gives the same bytes.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import platform
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from guesttap.zipapp_start import START
from lastwrite.errors import UnavailableError

ROOT = Path(__file__).resolve().parents[1]
OWN = (
    "lastwrite/__init__.py",
    "lastwrite/errors.py",
    "journal/__init__.py",
    "journal/frame.py",
    "guesttap/__init__.py",
    "guesttap/protocol.py",
    "guesttap/channel.py",
)
OWN_FOLDERS = ("guesttap/agent", "guesttap/bpf")
MSGPACK = ("__init__.py", "exceptions.py", "ext.py", "fallback.py")
SHEBANG = b"#!/usr/bin/env python3\n"
DOWNLOAD_TIMEOUT_S = 300
_EPOCH = (1980, 1, 1, 0, 0, 0)


class WheelMissingError(UnavailableError):
    """The xxhash extension for a guest's interpreter could not be had."""

    code = "wheel-missing"
    hint = (
        "The appliance needs its package index once per Python version of its guests; afterwards the wheel is cached. "
        "Or put it into the cache's folder `wheels` by hand."
    )


def own_modules() -> list[str]:
    """Return the paths of our own modules that an agent consists of, relative to the project's root."""
    found = {str(path.relative_to(ROOT)) for folder in OWN_FOLDERS for path in (ROOT / folder).glob("*.py")}
    return sorted(found | set(OWN))


def build(target: Path, tags: Sequence[str] = ()) -> Path:
    """Write the agent to `target` for these interpreter tags ("cp311"; default: this interpreter's).

    Raises WheelMissingError. The file appears whole or not at all.
    """
    entries: dict[str, bytes] = {name: (ROOT / name).read_bytes() for name in own_modules()}
    msgpack = _package_folder("msgpack")
    entries |= {f"msgpack/{name}": (msgpack / name).read_bytes() for name in MSGPACK}
    for tag in sorted(set(tags) or {own_tag()}):
        entries |= {f"native/{tag}/{name}": data for name, data in _xxhash(tag).items()}
    entries["__main__.py"] = START.encode()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
        file.write(SHEBANG + _zip(entries))
    built = Path(file.name)
    built.chmod(0o644)
    return built.rename(target)


def own_tag() -> str:
    """Return the tag of the interpreter that runs this."""
    return f"cp{sys.version_info.major}{sys.version_info.minor}"


def _zip(entries: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(entries):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.external_attr = 0o644 << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, entries[name])
    return packed.getvalue()


def _package_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.origin is not None  # a dependency of ours: it is installed
    return Path(spec.origin).parent


def _xxhash(tag: str) -> dict[str, bytes]:
    """Return the files of xxhash for a tag, and DIGEST, which names the folder that they are unpacked to."""
    files = _installed_xxhash() if tag == own_tag() else _wheel_xxhash(tag)
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(name.encode() + b"\0" + files[name])
    return files | {"DIGEST": digest.hexdigest()[:16].encode()}


def _installed_xxhash() -> dict[str, bytes]:
    folder = _package_folder("xxhash")
    paths = [path for path in folder.iterdir() if path.suffix in (".py", ".so")]
    return {f"xxhash/{path.name}": path.read_bytes() for path in paths}


def _wheel_xxhash(tag: str) -> dict[str, bytes]:
    with zipfile.ZipFile(_wheel(tag)) as wheel:
        names = [n for n in wheel.namelist() if n.startswith("xxhash/") and n.endswith((".py", ".so"))]
        return {name: wheel.read(name) for name in names}


def _wheel(tag: str) -> Path:
    folder = Path(os.environ.get("LASTWRITE_CACHE", "/var/cache/lastwrite")) / "wheels"
    folder.mkdir(parents=True, exist_ok=True)
    release = version("xxhash")
    pattern = f"xxhash-{release}-{tag}-*manylinux*_{platform.machine()}*.whl"
    if not list(folder.glob(pattern)):
        _download(folder, tag, release)
    found = sorted(folder.glob(pattern))
    if not found:
        raise WheelMissingError(f"no wheel {pattern} came from the package index")
    return found[0]


def _download(folder: Path, tag: str, release: str) -> None:
    platform_tag = f"manylinux2014_{platform.machine()}"
    wanted = [
        "--only-binary=:all:",
        "--no-deps",
        "--python-version",
        f"{tag[2]}.{tag[3:]}",
        "--platform",
        platform_tag,
    ]
    argv = [sys.executable, "-m", "pip", "download", "-q", "-d", str(folder), *wanted, f"xxhash=={release}"]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise WheelMissingError(f"xxhash {release} for {tag}: the package index did not answer") from error
    if done.returncode:
        raise WheelMissingError(f"xxhash {release} for {tag}: {done.stderr.strip().splitlines()[-1:]}")
