"""The agent's configuration (agent.json), which deployment writes and the agent only reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, NamedTuple

from guesttap.agent.errors import AgentConfigError, AgentStateError
from guesttap.agent.files import Json, read_json

CONFIG_PATH = Path("/etc/lastwrite/agent.json")
HOOKS_DIR = Path("/etc/lastwrite/consistency.d")
STATE_DIR = Path("/var/lib/lastwrite-agent")
RUN_DIR = Path("/run/lastwrite-agent")
PIN_DIR = "/sys/fs/bpf/lastwrite"
PROGRAM_PATH = Path("/usr/local/lib/lastwrite/agent.pyz")
DEFAULT_RING_BYTES = 64 << 20
DEFAULT_PORT = 7810


class Settings(NamedTuple):
    """Where the appliance is, which VM this is, what to tap, and where the agent keeps its things."""

    appliance: tuple[str, int]
    vm: str
    ca: str
    token: str | None
    disks: tuple[str, ...]  # ("auto",) or paths and names
    ring_bytes: int
    state_dir: Path
    run_dir: Path
    pin_dir: str
    hooks_dir: Path
    instance: str | None  # None: ask the hardware

    @property
    def taps_all_disks(self) -> bool:
        """Whether every disk of the machine is meant."""
        return self.disks == ("auto",)


def load(path: Path = CONFIG_PATH) -> Settings:
    """Return the settings in the JSON file `path`. Raises AgentConfigError, which names the key."""
    try:
        found = read_json(path)
    except AgentStateError as error:
        raise AgentConfigError(error.message) from error
    if found is None:
        raise AgentConfigError(f"{path} does not exist")
    return parse(found, str(path))


def parse(found: Json, name: str = "agent.json") -> Settings:
    """Return the settings in a decoded JSON object. Raises AgentConfigError."""
    get = _Getter(found, name)
    disks = get("disks", ["auto"], _is_names)
    return Settings(
        appliance=_address(get("appliance", None, _is_text), name),
        vm=get("vm", None, _is_text),
        ca=get("ca", None, _is_text),
        token=get("token", "", _is_string) or None,
        disks=tuple(_disk_path(disk) for disk in disks),
        ring_bytes=get("ring_bytes", DEFAULT_RING_BYTES, _is_ring_size),
        state_dir=Path(get("state_dir", str(STATE_DIR), _is_text)),
        run_dir=Path(get("run_dir", str(RUN_DIR), _is_text)),
        pin_dir=get("pin_dir", PIN_DIR, _is_text),
        hooks_dir=Path(get("hooks_dir", str(HOOKS_DIR), _is_text)),
        instance=get("instance", "", _is_string).lower() or None,
    )


class _Getter:
    def __init__(self, found: Json, name: str) -> None:
        self._found = found
        self._name = name

    def __call__(self, key: str, default: Any, fits: Callable[[Any], bool]) -> Any:
        value = self._found.get(key, default)
        if value is None:
            raise AgentConfigError(f"{self._name}: {key}: is missing")
        if not fits(value):
            shown = "a secret" if key == "token" else repr(value)[:80]
            raise AgentConfigError(f"{self._name}: {key}: has no usable value (got {shown})")
        return value


def _address(text: str, name: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or port.endswith("]"):
        host, port = text, str(DEFAULT_PORT)
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise AgentConfigError(f"{name}: appliance: is no host:port (got {text!r})")
    return host.strip("[]"), int(port)


def _disk_path(name: str) -> str:
    return name if name == "auto" or name.startswith("/") else "/dev/" + name


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _is_string(value: object) -> bool:
    return isinstance(value, str)


def _is_names(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_text(item) for item in value)


def _is_ring_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 4096 <= value <= 1 << 30
