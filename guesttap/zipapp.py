"""Packs the agent as one file that runs in a guest with nothing but Python 3.8 (docs/protocol.md's other end).

Runs on the appliance. The zip holds an exact list of our modules, msgpack in pure Python, and xxhash with its
extension for one or more interpreters; zip files cannot load extensions, so the archive's first lines unpack
the fitting one. The same input gives the same bytes.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import re
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from lastwrite.errors import UnavailableError

ROOT = Path(__file__).resolve().parent.parent
SHEBANG = b"#!/usr/bin/env python3\n"
_EPOCH = (1980, 1, 1, 0, 0, 0)
_FILES = (
    "lastwrite/__init__.py", "lastwrite/errors.py",
    "journal/__init__.py", "journal/frame.py",
    "guesttap/__init__.py", "guesttap/protocol.py", "guesttap/channel.py",
)  # fmt: skip
_FOLDERS = ("guesttap/agent", "guesttap/bpf")
_MSGPACK = ("__init__.py", "exceptions.py", "ext.py", "fallback.py")
_XXHASH = ("__init__.py", "version.py")

_MAIN = '''\
"""Start of the zipapp: unpack the compiled module for this interpreter, then run the agent."""

import importlib.machinery
import os
import sys
import tempfile
import zipfile

BUILD = "{build}"
STATE = os.environ.get("LASTWRITE_AGENT_LIB", "/var/lib/lastwrite-agent")


def unpack(archive, names, folder):
    if os.path.isdir(folder):
        status = os.lstat(folder)
        return status.st_uid == os.geteuid() and not status.st_mode & 0o022
    os.makedirs(os.path.dirname(folder), mode=0o700, exist_ok=True)
    draft = tempfile.mkdtemp(dir=os.path.dirname(folder))
    os.mkdir(os.path.join(draft, "xxhash"))
    for name in names:
        with open(os.path.join(draft, "xxhash", os.path.basename(name)), "wb") as out:
            out.write(archive.read(name))
    try:
        os.rename(draft, folder)
    except OSError:
        if not os.path.isdir(folder):
            raise
    return True


def prepare():
    with zipfile.ZipFile(sys.argv[0]) as archive:
        every = [name for name in archive.namelist() if name.startswith("native/xxhash/")]
        # The first suffix names version and platform; the others fit anything.
        fitting = [name for name in every if name.endswith(importlib.machinery.EXTENSION_SUFFIXES[0])]
        if not fitting:
            sys.exit("This agent was built for other versions of Python (this is %d.%d). Deploy it again."
                     % sys.version_info[:2])
        names = [name for name in every if name.endswith(".py")] + fitting
        private = os.path.join(tempfile.gettempdir(), "lastwrite-agent-%d" % os.geteuid())
        for base in (STATE, private):
            try:
                folder = os.path.join(base, "lib-" + BUILD)
                if unpack(archive, names, folder):
                    sys.path.insert(0, folder)
                    return
            except OSError as error:
                problem = error
        sys.exit("There is no place to unpack a module to: %s" % problem)


if sys.version_info < (3, 8):
    sys.exit("The agent needs Python 3.8 or newer; this is %d.%d." % sys.version_info[:2])
prepare()

from guesttap.agent.main import run  # noqa: E402

sys.exit(run())
'''


class ZipappError(UnavailableError):
    """The agent could not be packed."""

    code = "agent-not-packed"
    hint = "The wheel of xxhash for the guest's Python must be in the cache folder, or a package index be reachable."


def default_tags() -> tuple[str, ...]:
    """Return the tag of this appliance's own interpreter, such as cp311."""
    return (f"cp{sys.version_info.major}{sys.version_info.minor}",)


def build(target: Path, tags: Sequence[str] = (), cache: Path | None = None) -> Path:
    """Write the agent to `target` and return it; a file that is right already is left alone.

    `tags`: interpreters of the guests (cp38, cp311, ...), default the appliance's own; x86_64 and glibc. What
    this Python does not have itself is fetched into `cache` (default: a folder beside `target`). Raises ZipappError.
    """
    cache = cache or target.parent / "agent-wheels"
    native = [item for tag in tags or default_tags() for item in _native(tag, cache)]
    content = pack(dict(_modules()) | dict(native))
    if not (target.exists() and target.read_bytes() == content):
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(target.name + ".new")
        draft.write_bytes(content)
        draft.chmod(0o755)
        draft.replace(target)
    return target


def pack(files: dict[str, bytes]) -> bytes:
    """Return the zipapp of these files (name in the archive -> content), plus its first lines."""
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    files = files | {"__main__.py": _MAIN.replace("{build}", digest.hexdigest()[:16]).encode()}
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)
    return SHEBANG + out.getvalue()


def own_modules() -> list[str]:
    """Return the names of our modules that are packed, as paths in the repository."""
    folders = [path for folder in _FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    return [*_FILES, *(str(path.relative_to(ROOT)) for path in folders)]


def _modules() -> Iterator[tuple[str, bytes]]:
    for name in own_modules():
        yield name, (ROOT / name).read_bytes()
    for name in _MSGPACK:
        yield f"msgpack/{name}", _installed("msgpack", f"msgpack/{name}").read_bytes()


def _installed(distribution: str, name: str) -> Path:
    path = Path(str(importlib.metadata.distribution(distribution).locate_file(name)))
    if not path.is_file():
        raise ZipappError(f"{distribution} is not installed as files: {path} is missing")
    return path


def _native(tag: str, cache: Path) -> Iterable[tuple[str, bytes]]:
    """Return the files of xxhash for one interpreter."""
    if not re.fullmatch(r"cp3\d{1,2}", tag):
        raise ZipappError(f"{tag!r} is no tag of an interpreter, such as cp311")
    if tag in default_tags() and sysconfig.get_platform() == "linux-x86_64":
        suffix = sysconfig.get_config_var("EXT_SUFFIX")
        names = [*_XXHASH, f"_xxhash{suffix}"]
        return [
            (f"native/xxhash/{name}", _installed("xxhash", f"xxhash/{name}").read_bytes()) for name in names
        ]
    return _from_wheel(_wheel(tag, cache))


def _wheel(tag: str, cache: Path) -> Path:
    """Return the wheel of xxhash for `tag`, from the cache or fetched into it."""
    version = importlib.metadata.version("xxhash")
    pattern = f"xxhash-{version}-{tag}-*manylinux*x86_64*.whl"
    found = sorted(cache.glob(pattern))
    if not found:
        _fetch(f"xxhash=={version}", tag, cache)
        found = sorted(cache.glob(pattern))
    if not found:
        raise ZipappError(f"there is no wheel of xxhash {version} for {tag} in {cache}")
    return found[0]


def _fetch(requirement: str, tag: str, cache: Path) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        argv = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        argv += ["--implementation", "cp", "--python-version", tag[2] + "." + tag[3:], "--abi", tag]
        argv += ["--platform", "manylinux2014_x86_64", "--platform", "manylinux_2_17_x86_64"]
        done = subprocess.run(
            [*argv, "--dest", folder, requirement], capture_output=True, text=True, timeout=300
        )
        if done.returncode:
            raise ZipappError(f"{requirement} for {tag} could not be fetched: {done.stderr.strip()[-300:]}")
        for path in Path(folder).glob("*.whl"):
            path.replace(cache / path.name)


def _from_wheel(path: Path) -> Iterable[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as wheel:
        names = [n for n in wheel.namelist() if n in {f"xxhash/{x}" for x in _XXHASH} or n.endswith(".so")]
        return [(f"native/{name}", wheel.read(name)) for name in names]
