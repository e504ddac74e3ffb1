"""Putting the agent into a guest and taking it out again, through the hypervisor's own channel.

Either the guest runs the new agent afterwards, or it is as it was before, an agent that it had included.
The one-time token travels in the configuration file alone, never on a command line.
"""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from guesttap import guest
from guesttap.agent import unit
from guesttap.agent.settings import CONFIG_PATH, PROGRAM_PATH, RUN_DIR, STATE_DIR
from guesttap.guest import GuestAnswerError, ProbeReport, Problem
from hypervisors.base import Hypervisor
from lastwrite.config import Settings
from lastwrite.errors import LastwriteError, UnavailableError, UnsupportedError

__all__ = ["DeployFailedError", "GuestUnsuitableError", "ProbeReport", "Problem", "deploy", "probe", "remove"]

Progress = Callable[[int, int, str], None]
"""Called with (steps done in hundredths, steps in all in hundredths, what is being done)."""

CONFIG_MODE = 0o600
SYSTEMD_SECONDS = 90.0
_FILES = (PROGRAM_PATH, CONFIG_PATH, unit.PATH)
_KEPT = ".lastwrite-before"


class GuestUnsuitableError(UnsupportedError):
    """The agent cannot run in this guest; `details` has the problems."""

    code = "guest-unsuitable"
    hint = "Each problem names its remedy. Do it, then protect the VM again."


class DeployFailedError(UnavailableError):
    """The agent could not be put into a guest, or taken out."""

    code = "deploy-failed"
    hint = "The guest was left as it was. The message has the words of the command that failed."


def probe(hv: Hypervisor, vm_id: str) -> ProbeReport:
    """Return what keeps the agent out of a guest; the guest is as before afterwards."""
    report = guest.probe_guest(hv, vm_id)
    if not report.ok:
        return report
    place = f"{RUN_DIR}-probe.pyz"
    try:
        hv.guest_write(vm_id, place, _program(report), 0o600)
        return ProbeReport(_kernel_problems(hv, vm_id, place), report.facts)
    finally:
        guest.shell(hv, vm_id, f"rm -f {place}")


def deploy(
    hv: Hypervisor,
    vm_id: str,
    *,
    settings: Settings,
    authority_ca_pem: str,
    token: str,
    tap_id: str,
    disks: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> None:
    """Put the agent into the guest `vm_id` and start it; it enrols with `token` for the catalog's VM `tap_id`.

    `disks`: names such as "vda"; by default the agent takes every disk with a mounted file system.
    May be repeated. Raises GuestUnsuitableError, DeployFailedError and what the hypervisor raises; the
    guest is then as it was.
    """
    tell = progress or (lambda done, total, what: None)
    tell(0, 100, "looking at the guest")
    report = guest.probe_guest(hv, vm_id)
    _require(hv, vm_id, report.problems)
    config = _config(settings, authority_ca_pem, token, tap_id, disks)
    text = unit.text(PROGRAM_PATH, CONFIG_PATH, str(report.facts["python"]))
    program = _program(report)
    with _restored_on_failure(hv, vm_id):

        def share(done: int, total: int) -> None:
            tell(10 + 60 * done // max(1, total), 100, "copying the agent")

        hv.guest_write(vm_id, str(PROGRAM_PATH), program, 0o644, share)
        tell(70, 100, "asking the guest's kernel")
        _require(hv, vm_id, _kernel_problems(hv, vm_id, str(PROGRAM_PATH)))
        hv.guest_write(vm_id, str(CONFIG_PATH), config, CONFIG_MODE)
        hv.guest_write(vm_id, str(unit.PATH), text.encode(), 0o644)
        tell(80, 100, "starting the agent")
        _run(hv, vm_id, _START, "start the agent", SYSTEMD_SECONDS)
    _run(hv, vm_id, _script(_FORGET), "clean up")
    tell(100, 100, "done")


def remove(hv: Hypervisor, vm_id: str) -> None:
    """Take the agent and all of its files out of the guest. May be repeated. Raises DeployFailedError."""
    _run(hv, vm_id, _script(_REMOVE), "take the agent out", 2 * SYSTEMD_SECONDS)


def _config(settings: Settings, ca_pem: str, token: str, tap_id: str, disks: Sequence[str] | None) -> bytes:
    keys = {
        "appliance": settings.tap.advertise,
        "vm": tap_id,
        "ca": ca_pem,
        "token": token,
        "disks": list(disks or ["auto"]),
        "ring_bytes": settings.tap.ring_mib << 20,
    }
    return json.dumps(keys, indent=2).encode() + b"\n"


def _program(report: ProbeReport) -> bytes:
    """Return the zipapp for the guest's interpreter."""
    from guesttap import zipapp  # what it packs takes a moment to import

    major, minor = report.facts["python_version"]
    with tempfile.TemporaryDirectory() as folder:
        built = zipapp.build(Path(folder) / PROGRAM_PATH.name, tags=(f"cp{major}{minor}",))
        return Path(built).read_bytes()


def _kernel_problems(hv: Hypervisor, vm_id: str, program: str) -> tuple[Problem, ...]:
    answer = hv.guest_exec(vm_id, ["python3", program, "probe", "--json"], timeout=guest.EXEC_SECONDS)
    try:
        found: Any = json.loads(answer.out)
        return tuple(Problem(str(p["code"]), str(p["what"]), str(p["remedy"])) for p in found["problems"])
    except (ValueError, KeyError, TypeError) as error:
        said = (answer.err or answer.out)[-400:].decode("utf-8", "replace")
        raise GuestAnswerError(f"the agent's probe gave no answer (status {answer.rc}): {said}") from error


def _require(hv: Hypervisor, vm_id: str, problems: tuple[Problem, ...]) -> None:
    if problems:
        name = hv.get_vm(vm_id).name
        raise GuestUnsuitableError(
            f"the agent cannot run in {name}: " + "; ".join(problem.what for problem in problems),
            hint=" ".join(dict.fromkeys(problem.remedy for problem in problems)),
            problems=[problem._asdict() for problem in problems],
        )


@contextmanager
def _restored_on_failure(hv: Hypervisor, vm_id: str) -> Iterator[None]:
    """Keep what the guest has before the block, and put it back when the block fails."""
    try:
        _run(hv, vm_id, _script(_PREPARE), "prepare the guest")
        yield
    except BaseException as error:
        try:
            _run(hv, vm_id, _script(_RESTORE), "put the guest back", SYSTEMD_SECONDS)
        except LastwriteError as second:
            raise DeployFailedError(
                f"{error}; and the guest could not be put back as it was: {second.message}",
                hint="Once the guest answers again, take the agent out: `lastwrite unprotect VM`.",
            ) from error
        raise


def _run(hv: Hypervisor, vm_id: str, script: str, what: str, seconds: float = guest.EXEC_SECONDS) -> None:
    answer = guest.shell(hv, vm_id, script, seconds)
    if answer.rc:
        said = (answer.err or answer.out)[-600:].decode("utf-8", "replace").strip()
        raise DeployFailedError(f"could not {what} (status {answer.rc}): {said}")


def _script(body: str) -> str:
    names = {"program": PROGRAM_PATH, "config": CONFIG_PATH, "unit": unit.PATH, "state": STATE_DIR}
    names |= {"run": RUN_DIR, "hooks": CONFIG_PATH.parent}
    lines = [f"{name}={shlex.quote(str(path))}" for name, path in names.items()]
    lines += [f"service={unit.NAME}", f"kept={_KEPT}", 'files="$program $config $unit"']
    return "\n".join(["set -eu", *lines, body])


# Which of our folders were there is noted in the kept list, so that no empty one stays behind.
_PREPARE = """
[ -d "$state" ] || touch "$unit$kept-nostate"
for file in $files; do
    mkdir -p "$(dirname "$file")"
    if [ -e "$file" ]; then cp -p "$file" "$file$kept"; else rm -f "$file$kept"; fi
done
"""

_START = f"""
set -eu
systemctl daemon-reload
systemctl enable {unit.NAME} >/dev/null 2>&1 || systemctl enable {unit.NAME}
systemctl restart {unit.NAME}
sleep 1
systemctl is-active --quiet {unit.NAME} || {{
    systemctl status --no-pager --lines=15 {unit.NAME} >&2
    exit 1
}}
"""

_TIDY = """
rmdir "$(dirname "$program")" 2>/dev/null || true
rmdir "$hooks" 2>/dev/null || true
"""

_RESTORE = (
    """
if [ ! -e "$unit$kept" ]; then
    [ -e "$unit" ] && systemctl disable --now "$service" >/dev/null 2>&1 || true
    if [ -e "$unit$kept-nostate" ]; then
        [ -e "$program" ] && [ -e "$config" ] && python3 "$program" remove --json >/dev/null 2>&1 || true
        rm -rf "$state" "$run"
    fi
fi
for file in $files; do
    if [ -e "$file$kept" ]; then mv -f "$file$kept" "$file"; else rm -f "$file"; fi
done
rm -f "$unit$kept-nostate"
systemctl daemon-reload
if [ -e "$unit" ]; then systemctl restart "$service"; fi
"""
    + _TIDY
)

_FORGET = """
for file in $files; do rm -f "$file$kept"; done
rm -f "$unit$kept-nostate"
"""

_REMOVE = (
    """
if [ -e "$unit" ]; then systemctl disable --now "$service" >/dev/null 2>&1 || true; fi
if [ -e "$program" ]; then python3 "$program" remove --json; fi
for file in $files; do rm -f "$file" "$file$kept"; done
rm -f "$unit$kept-nostate"
rm -rf "$state" "$run"
systemctl daemon-reload
systemctl reset-failed "$service" >/dev/null 2>&1 || true
"""
    + _TIDY
)
