"""The zipapp carries exactly what the agent imports, is the same each time, and runs alone."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from guesttap import zipapp

OURS = ("lastwrite", "journal", "guesttap", "hypervisors", "recovery", "failover", "plugins")
CARRIED = ("msgpack", "xxhash")


def imported(source: str) -> set[str]:
    """The modules that a source imports, also inside functions; of `from a import b` both a and a.b."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            found |= {node.module or ""} | {f"{node.module}.{name.name}" for name in node.names}
    return found


def module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def test_everything_that_packed_modules_import_is_packed() -> None:
    packed = {module_name(path): path for path in zipapp.own_modules()}
    for path in packed.values():
        for name in imported((zipapp.ROOT / path).read_text()):
            top = name.split(".")[0]
            if top in OURS:
                # `from a.b import c`: c may be a name within a.b.
                assert name in packed or name.rpartition(".")[0] in packed, f"{path} imports {name}"
            else:
                assert top in CARRIED or top in sys.stdlib_module_names, f"{path} imports {name}"


def test_every_packed_module_is_needed() -> None:
    packed = {module_name(path): path for path in zipapp.own_modules()}
    needed, queue = set(), ["guesttap.agent.main", "guesttap.agent.__main__"]
    while queue:
        name = queue.pop()
        if name in packed and name not in needed:
            needed.add(name)
            queue += imported((zipapp.ROOT / packed[name]).read_text())
            queue += [name.rsplit(".", count)[0] for count in range(1, name.count(".") + 1)]
    assert set(packed) == needed


@pytest.mark.parametrize("path", zipapp.own_modules())
def test_packed_modules_are_python_3_8(path: str) -> None:
    ast.parse((zipapp.ROOT / path).read_text(), feature_version=(3, 8))


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    one = zipapp.build(tmp_path / "one.pyz").read_bytes()
    assert zipapp.build(tmp_path / "two.pyz").read_bytes() == one
    before = (tmp_path / "one.pyz").stat().st_mtime_ns
    zipapp.build(tmp_path / "one.pyz")
    assert (tmp_path / "one.pyz").stat().st_mtime_ns == before


def test_it_runs_alone_with_the_checksums_of_its_own_copy_of_xxhash(tmp_path: Path) -> None:
    program = zipapp.build(tmp_path / "agent.pyz")
    environment = {"PATH": "/usr/bin:/bin", "LASTWRITE_AGENT_LIB": str(tmp_path / "lib")}
    argv = [sys.executable, "-I", "-S", "-W", "error", str(program)]
    done = subprocess.run(
        [*argv, "probe", "--json"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode in (0, 7), done.stderr
    assert isinstance(json.loads(done.stdout)["ok"], bool)
    with zipfile.ZipFile(program) as archive:
        natives = [name for name in archive.namelist() if name.startswith("native/")]
    assert len([name for name in natives if name.endswith(".so")]) == 1
    assert done.stderr == ""
    unpacked = {path.name for path in (tmp_path / "lib").glob("lib-*/xxhash/*")} - {"__pycache__"}
    assert unpacked == {Path(name).name for name in natives}


def test_a_wheel_in_the_cache_serves_a_guest_with_another_python(tmp_path: Path) -> None:
    version = importlib.metadata.version("xxhash")
    cache = tmp_path / "cache"
    cache.mkdir()
    wheel = cache / f"xxhash-{version}-cp39-cp39-manylinux2014_x86_64.manylinux_2_17_x86_64.whl"
    with zipfile.ZipFile(wheel, "w") as made:
        for name in ("__init__.py", "version.py", "_xxhash.cpython-39-x86_64-linux-gnu.so", "py.typed"):
            made.writestr(f"xxhash/{name}", name)
    program = zipapp.build(tmp_path / "agent.pyz", ("cp39",), cache)
    with zipfile.ZipFile(program) as archive:
        natives = sorted(name for name in archive.namelist() if name.startswith("native/"))
    assert natives == [
        "native/xxhash/__init__.py",
        "native/xxhash/_xxhash.cpython-39-x86_64-linux-gnu.so",
        "native/xxhash/version.py",
    ]
    # This interpreter finds nothing for itself in there, and says so.
    done = subprocess.run([sys.executable, str(program), "probe"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "other versions of Python" in done.stderr


def test_a_tag_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(zipapp.ZipappError, match="no tag"):
        zipapp.build(tmp_path / "agent.pyz", ("../evil",))
    assert not (tmp_path / "agent.pyz").exists()
