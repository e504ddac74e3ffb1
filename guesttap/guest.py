"""Whether a guest can carry the agent, found out from outside with small scripts; nothing in it is changed.

Scripts go to the standard input of `/bin/sh -s` or `python3 -`, never onto a command line. What the kernel can
do is the agent's own knowledge: `agent.pyz probe` says it once it is there (guesttap/deploy.py).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from hypervisors.base import ExecResult, Hypervisor
from hypervisors.errors import (
    GuestAgentFailedError,
    GuestAgentRefusedError,
    GuestAgentSilentError,
    NoGuestAgentChannelError,
    NotCapableError,
    VmNotRunningError,
)
from lastwrite.errors import LastwriteError, UnavailableError

MINIMUM_PYTHON = (3, 8)
MINIMUM_KERNEL = (5, 10)
MINIMUM_FREE_KIB = 64 << 10
EXEC_SECONDS = 60.0


class GuestAnswerError(UnavailableError):
    """A script that was run in a guest gave no usable answer."""

    code = "guest-answer"
    hint = "Try again; if it stays, run the named command in the guest and look at what it prints."


class Problem(NamedTuple):
    """One thing that keeps the agent out of a guest: a stable name, what it is, and what to do."""

    code: str
    what: str
    remedy: str


@dataclass(frozen=True)
class ProbeReport:
    """What was found out about a guest. `facts`: kernel, machine, python (tuple), free_kib, and others."""

    problems: tuple[Problem, ...]
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether the agent can be deployed, as far as is known."""
        return not self.problems


_SHELL = """\
say() { printf '%s=%s\\n' "$1" "$2"; }
say system "$(uname -s)"
say kernel "$(uname -r)"
say machine "$(uname -m)"
say uid "$(id -u)"
say python "$(command -v python3)"
[ -d /run/systemd/system ] && say systemd yes
[ -r /sys/kernel/btf/vmlinux ] && say btf yes
[ -r /sys/kernel/security/lockdown ] && say lockdown "$(cat /sys/kernel/security/lockdown)"
for place in /usr/local /etc /var/lib; do
    say "free:$place" "$(df -Pk "$place" 2>/dev/null | awk 'NR == 2 { print $4 }')"
done
exit 0
"""

_PYTHON = """\
import json, platform, sys
facts = {"version": list(sys.version_info[:2]), "implementation": platform.python_implementation()}
facts["libc"] = platform.libc_ver()[0]
for name in ("ctypes", "ssl", "zlib", "json"):
    try:
        __import__(name)
        facts[name] = True
    except Exception:
        facts[name] = False
print(json.dumps(facts))
"""

_NO_AGENT = Problem(
    "no-guest-agent",
    "the guest agent does not answer",
    "Install and start qemu-guest-agent in the guest, and give the VM its channel "
    "(org.qemu.guest_agent.0); a guest that has just booted needs a moment.",
)
_REACHING: tuple[tuple[type[LastwriteError], Problem], ...] = (
    (NoGuestAgentChannelError, _NO_AGENT),
    (GuestAgentSilentError, _NO_AGENT),
    (
        GuestAgentRefusedError,
        Problem(
            "guest-exec-disabled",
            "the guest agent does not run commands",
            "Allow guest-exec and guest-file-* in the guest: /etc/sysconfig/qemu-ga (RHEL) or "
            "block-rpcs in /etc/qemu/qemu-ga.conf; restart qemu-guest-agent.",
        ),
    ),
    (
        NotCapableError,
        Problem(
            "no-guest-exec",
            "this hypervisor cannot run commands in a guest",
            "Use a hypervisor adapter with guest execution, or another tap.",
        ),
    ),
    (VmNotRunningError, Problem("vm-not-running", "the VM does not run", "Start the VM.")),
    (
        GuestAgentFailedError,
        Problem("not-linux", "the guest has no /bin/sh", "The bpf tap is for Linux guests: use another tap."),
    ),
)


def probe_guest(hv: Hypervisor, vm_id: str) -> ProbeReport:
    """Return what keeps the agent out of this guest. Raises what the hypervisor raises for other reasons."""
    try:
        answer = hv.guest_exec(vm_id, ["/bin/sh", "-s"], _SHELL.encode(), EXEC_SECONDS)
    except tuple(kind for kind, _ in _REACHING) as error:
        problem = next(problem for kind, problem in _REACHING if isinstance(error, kind))
        return ProbeReport((problem._replace(what=f"{problem.what} ({error.message})"),))
    facts: dict[str, Any] = dict(_pairs(answer))
    if facts.get("system") != "Linux":
        what = f"the guest runs {facts.get('system') or 'no known system'}"
        return ProbeReport((Problem("not-linux", what, "Use the qemu or the poll tap."),), facts)
    problems = _system_problems(facts)
    if facts.get("python"):
        facts |= _python_facts(hv, vm_id)
        problems += _python_problems(facts)
    return ProbeReport(tuple(problems), facts)


def shell(hv: Hypervisor, vm_id: str, script: str, seconds: float = EXEC_SECONDS) -> ExecResult:
    """Run a script with the guest's /bin/sh; the script itself stays out of the process list."""
    return hv.guest_exec(vm_id, ["/bin/sh", "-s"], script.encode(), seconds)


def _pairs(answer: ExecResult) -> list[tuple[str, str]]:
    lines = answer.out.decode("utf-8", "replace").splitlines()
    return [(key, value.strip()) for key, equals, value in (line.partition("=") for line in lines) if equals]


def _python_facts(hv: Hypervisor, vm_id: str) -> dict[str, Any]:
    answer = hv.guest_exec(vm_id, ["python3", "-"], _PYTHON.encode(), EXEC_SECONDS)
    try:
        found = json.loads(answer.out)
        major, minor = (int(part) for part in found["version"])
    except (ValueError, KeyError, TypeError) as error:
        said = (answer.err or answer.out)[-300:].decode("utf-8", "replace")
        raise GuestAnswerError(f"python3 in the guest gave no answer (status {answer.rc}): {said}") from error
    return {f"python_{key}": found[key] for key in found} | {"python_version": (major, minor)}


def _system_problems(facts: dict[str, Any]) -> list[Problem]:
    found = []
    if facts.get("uid") != "0":
        found.append(
            Problem("not-root", f"commands run as user {facts.get('uid')}", "Run the guest agent as root.")
        )
    if not facts.get("python"):
        found.append(Problem("no-python", "the guest has no python3", "Install python3 in the guest."))
    if not facts.get("systemd"):
        found.append(Problem("no-systemd", "the guest does not run systemd", "Use another tap for this VM."))
    if not facts.get("btf"):
        remedy = "Boot a kernel built with CONFIG_DEBUG_INFO_BTF, or use another tap."
        found.append(Problem("no-btf", "the kernel does not describe its types (BTF)", remedy))
    if _version(str(facts.get("kernel", ""))) < MINIMUM_KERNEL:
        remedy = "Upgrade the kernel, or use another tap."
        found.append(Problem("kernel-too-old", f"Linux {facts.get('kernel')} is older than 5.10", remedy))
    if "[confidentiality]" in str(facts.get("lockdown", "")):
        remedy = "Boot with lockdown=integrity, or use another tap."
        found.append(Problem("lockdown", "the kernel is locked down (confidentiality)", remedy))
    return found + _space_problems(facts)


def _space_problems(facts: dict[str, Any]) -> list[Problem]:
    found = []
    for key, value in sorted(facts.items()):
        if key.startswith("free:") and str(value).isdigit() and int(value) < MINIMUM_FREE_KIB:
            place = key.partition(":")[2]
            remedy = f"Free at least {MINIMUM_FREE_KIB >> 10} MiB there."
            found.append(Problem("no-space", f"{place} has only {int(value) >> 10} MiB free", remedy))
    return found


def _python_problems(facts: dict[str, Any]) -> list[Problem]:
    found = []
    version = facts["python_version"]
    if version < MINIMUM_PYTHON:
        what = f"Python {version[0]}.{version[1]} is older than 3.8"
        found.append(Problem("python-too-old", what, "Install a newer python3, or use another tap."))
    missing = [name for name in ("ctypes", "ssl", "zlib", "json") if not facts.get(f"python_{name}")]
    if missing:
        what = f"python3 has no {', '.join(missing)}"
        found.append(
            Problem("python-incomplete", what, "Install the full python3 package (not python3-minimal).")
        )
    return found


def _version(release: str) -> tuple[int, ...]:
    parts = release.split("-")[0].split("+")[0].split(".")[:2]
    return tuple(int(part) for part in parts) if all(part.isdigit() for part in parts) else (0, 0)
