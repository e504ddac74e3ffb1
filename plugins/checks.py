"""What `lastwrite doctor` looks at: this machine, this installation, the configuration and the server."""

from __future__ import annotations

import os
import re
import shutil
import stat
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from lastwrite.config import OURS_ALONE, ConfigError, Settings, find_file
from lastwrite.errors import LastwriteError
from lastwrite.text import size
from plugins.models import Check, DoctorReport, Health

OUR_NAMES = ("lastwrite", "journal", "hypervisors", "guesttap", "recovery", "failover", "plugins")
OLDEST_PYTHON = (3, 11)
LEAST_FREE = 10 << 30
TOOLS = {
    "qemu-img": "Install qemu-utils (Debian) or qemu-img (Red Hat): it checks and converts recovered images.",
    "nbdinfo": "Install libnbd-bin (Debian) or libnbd (Red Hat): it looks into views.",
    "nbdcopy": "Install libnbd-bin (Debian) or libnbd (Red Hat): it copies views.",
}


def run(config: Path | None, state: Path | None) -> DoctorReport:
    """Make all checks. Nothing is changed, and nothing is raised for what is found."""
    checks = [_python(), *_packages(), _names(), *_tools()]
    try:
        settings = Settings.load(config, state_dir=state)
    except ConfigError as error:
        checks.append(Check(name="configuration", ok=False, found=error.message, remedy=error.hint))
    else:
        checks.append(
            Check(name="configuration", ok=True, found=str(find_file(config) or "defaults"), remedy="")
        )
        checks += [*_state_dir(settings.state_dir), _server(settings)]
    return DoctorReport(ok=all(check.ok for check in checks), checks=checks)


def _python() -> Check:
    found = ".".join(map(str, sys.version_info[:3]))
    wanted = ".".join(map(str, OLDEST_PYTHON))
    good = sys.version_info[:2] >= OLDEST_PYTHON
    return Check(name="python", ok=good, found=found, remedy=f"Use Python {wanted} or later.")


def _packages() -> Iterator[Check]:
    """Compare the distributions that are installed with those that ours asks for."""
    try:
        wanted = metadata.requires("lastwrite") or []
    except metadata.PackageNotFoundError:
        yield Check(name="package lastwrite", ok=False, found="not installed", remedy="pip install lastwrite")
        return
    wanted = [text for text in wanted if "extra ==" not in text]
    bad = [problem for text in wanted if (problem := _package_problem(text))]
    found = "; ".join(bad) or f"{len(wanted)} as they should be"
    yield Check(name="packages", ok=not bad, found=found, remedy="pip install --upgrade lastwrite")


def _package_problem(requirement: str) -> str | None:
    name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        return f"{name} is missing"
    for operator, bound in re.findall(r"(>=|<)\s*([0-9][0-9.]*)", requirement):
        older = _numbers(found) < _numbers(bound)
        if older == (operator == ">="):
            return f"{name} is {found}, wanted {requirement[len(name) :].strip()}"
    return None


def _numbers(version: str) -> list[int]:
    numbers = [int(part) for part in re.findall(r"\d+", version.split("+")[0])][:4]
    return numbers + [0] * (4 - len(numbers))


def foreign_owners() -> dict[str, list[str]]:
    """Return, for each of our top-level names, the other distributions that bring a package of that name."""
    owners = metadata.packages_distributions()
    found = {
        name: sorted({owner for owner in owners.get(name, []) if owner != "lastwrite"}) for name in OUR_NAMES
    }
    return {name: others for name, others in found.items() if others}


def _names() -> Check:
    foreign = foreign_owners()
    found = "; ".join(f"{name} comes from {', '.join(others)} too" for name, others in foreign.items())
    remedy = "Uninstall the other distribution, or install Lastwrite into a virtual environment of its own."
    return Check(name="package names", ok=not foreign, found=found or "all ours", remedy=remedy)


def _tools() -> Iterator[Check]:
    for tool, remedy in TOOLS.items():
        where = shutil.which(tool)
        yield Check(name=tool, ok=where is not None, found=where or "not found", remedy=remedy)


def _state_dir(path: Path) -> Iterator[Check]:
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    writable = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    remedy = "Run as a user who may write there, or choose another with appliance.state_dir or --state."
    found = (
        f"{path} {'is writable' if there == path else 'can be made'}"
        if writable
        else f"{there} is not writable"
    )
    yield Check(name="state directory", ok=writable, found=found, remedy=remedy)
    if there == path:
        mode = stat.S_IMODE(there.stat().st_mode)
        remedy = f"chmod 0700 {path}: it holds what VMs have written."
        private = not mode & OURS_ALONE
        yield Check(name="state directory's rights", ok=private, found=f"mode {mode:04o}", remedy=remedy)
    free = shutil.disk_usage(there).free
    remedy = f"Make room: journals grow with every write. {size(LEAST_FREE)} is the least that is sensible."
    yield Check(name="free space", ok=free >= LEAST_FREE, found=f"{size(free)} at {there}", remedy=remedy)


def _server(settings: Settings) -> Check:
    from plugins.client import ControlClient

    try:
        with ControlClient(settings.control_socket) as client:
            health = client.ask(Health, "GET", "/v1/health")
    except LastwriteError as error:
        return Check(name="server", ok=False, found=error.message, remedy=error.hint)
    return Check(name="server", ok=True, found=f"version {health.version}, process {health.pid}", remedy="")
