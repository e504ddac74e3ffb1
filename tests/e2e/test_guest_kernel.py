"""The tap's own acceptance tests, run inside a guest: another kernel than this machine's."""

from __future__ import annotations

import importlib.util
import io
import platform
import tarfile
from pathlib import Path

import pytest

from lab.guests import Guest

pytestmark = [pytest.mark.guest, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("lastwrite/__init__.py", "lastwrite/errors.py", "guesttap/__init__.py", "guesttap/bpf")
TESTS = ("tests/__init__.py", "tests/needs.py", "tests/bpf")
RUNNER = ("pytest", "_pytest", "py", "pluggy", "iniconfig", "packaging", "pygments", "pytest_timeout")
FOLDER = "/run/tap-tests"
CHOSEN = "test_order.py test_prefix.py test_account.py"
LIMIT_S = 600


def packed() -> bytes:
    """Return an archive of the tap, its tests, and a test runner in pure Python."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for name in (*PARTS, *TESTS):
            archive.add(ROOT / name, name, filter=_without_caches)
        for name in RUNNER:
            spec = importlib.util.find_spec(name)
            assert spec is not None and spec.origin is not None
            place = Path(spec.origin)
            source = place.parent if place.name == "__init__.py" else place
            archive.add(source, source.name, filter=_without_caches)
    return made.getvalue()


def _without_caches(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "__pycache__" in entry.name else entry


def test_the_acceptance_tests_of_the_tap_pass_on_the_kernel_of_the_guest(running_guest: Guest) -> None:
    kernel = running_guest.check("uname -r").strip()
    assert kernel != platform.release(), "this is the kernel that the tests run on anyway"
    running_guest.check(f"mkdir -p {FOLDER}; modprobe loop; mount -o remount,size=600M /dev/shm || true")
    running_guest.write_file(f"{FOLDER}/tests.tar.gz", packed())
    running_guest.check(f"cd {FOLDER} && tar -xzf tests.tar.gz && rm tests.tar.gz", timeout_s=120)
    scaled = "LASTWRITE_TEST_LEAST_WRITES=1000 CI=true PYTHONDONTWRITEBYTECODE=1"
    options = "-q -rA --import-mode=importlib -p no:cacheprovider -p pytest_timeout --timeout=500"
    pytest_in_guest = f"{scaled} python3 -m pytest {options} {CHOSEN}"
    done = running_guest.exec(
        f"cd {FOLDER}/tests/bpf && PYTHONPATH={FOLDER} {pytest_in_guest}", timeout_s=LIMIT_S
    )
    running_guest.exec(f"rm -rf {FOLDER}")
    print(f"in the guest, Linux {kernel}:\n{done.out[-3000:]}")
    assert done.rc == 0, done.out[-6000:] + done.err[-2000:]
    assert " passed" in done.out
