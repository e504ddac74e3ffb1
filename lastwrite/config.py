"""The configuration: one TOML file, every key also settable by environment, all of it optional.

Owns the keys, their types, defaults and descriptions (docs/configuration.md is generated from them) and
where the file is found. An environment variable LASTWRITE_SECTION__KEY wins over the file.
"""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict

from lastwrite.address import parse_address
from lastwrite.durations import parse_duration, parse_share
from lastwrite.errors import UsageError
from lastwrite.logs import HIDDEN, SECRET_WORDS

DEFAULT_FILE = Path("/etc/lastwrite/lastwrite.toml")
FILE_VARIABLE = "LASTWRITE_CONFIG"
MAX_SOCKET_PATH = 107  # sockaddr_un.sun_path without its final zero
LONGEST_SOCKET = "control.sock"
OURS_ALONE = 0o077
"""The umask of every process of the server."""

Values = dict[str, Any]


class ConfigError(UsageError):
    """The configuration cannot be used; the message names each key, why, and the value it has."""

    code = "config"
    hint = "Correct it and run `lastwrite config check`; docs/configuration.md lists every key."


def _address(text: str) -> str:
    parse_address(text)
    return text


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("must be an absolute path")
    if len(os.fsencode(path / LONGEST_SOCKET)) > MAX_SOCKET_PATH:
        room = MAX_SOCKET_PATH - len(LONGEST_SOCKET) - 1
        raise ValueError(f"must have at most {room} bytes, because sockets are made in it")
    return path


def _sqlite(url: str) -> str:
    if url and not url.startswith("sqlite:////"):
        raise ValueError("must be sqlite:/// and an absolute path (no other database is supported yet)")
    return url


def _no_truth_value(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


HostPort = Annotated[str, AfterValidator(_address)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Listener(_Section):
    """A section with `listen` and `advertise`; the second is the first unless it is given."""

    @model_validator(mode="before")
    @classmethod
    def _advertise_what_is_listened_on(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("advertise"):
            return data
        rest = {key: value for key, value in data.items() if key != "advertise"}
        try:
            return {**rest, "advertise": _address(data["listen"])}
        except (KeyError, AttributeError, ValueError):
            return rest  # no listen, or one that its own check will name


class ApplianceSettings(_Section):
    """Where this appliance keeps what it holds."""

    state_dir: Annotated[Path, AfterValidator(_absolute)] = Field(
        default=Path("/var/lib/lastwrite"),
        description="Directory of the journals, the catalog, the keys and sockets.",
    )
    catalog_url: Annotated[str, AfterValidator(_sqlite)] = Field(
        default="",
        description="Database of the catalog as an URL; empty: `catalog.db` in the state directory.",
    )


class TapSettings(_Listener):
    """What the taps in the guests are told, and where they connect to."""

    listen: HostPort = Field(
        default="127.0.0.1:7810", description="Address on which change streams are accepted."
    )
    advertise: HostPort = Field(
        default="127.0.0.1:7810",
        description="The same address as guests reach it; when not set: `tap.listen`.",
    )
    ring_mib: Annotated[int, BeforeValidator(_no_truth_value)] = Field(
        default=64, ge=1, le=4096, description="Memory for the ring in a guest's kernel, MiB; a power of two."
    )

    @model_validator(mode="after")
    def _ring_is_a_power_of_two(self) -> TapSettings:
        if self.ring_mib & (self.ring_mib - 1):
            raise ValueError("ring_mib must be a power of two")
        return self


class NbdSettings(_Listener):
    """Where views are served as network block devices."""

    listen: HostPort = Field(default="127.0.0.1:10809", description="Address on which views are served.")
    advertise: HostPort = Field(
        default="127.0.0.1:10809",
        description="The same address as hypervisors reach it; when not set: `nbd.listen`.",
    )


def _duration(text: str) -> str:
    parse_duration(text)
    return text


def _share(text: str) -> str:
    parse_share(text, 0)
    return text


def _tiers(text: str) -> str:
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        step, colon, reach = part.partition(":")
        if not colon or not parse_duration(step) or not parse_duration(reach):
            raise ValueError(f"{part!r} is no tier: write STEP:AGE, such as 1h:30d")
    return text


Duration = Annotated[str, AfterValidator(_duration)]


class RetentionSettings(_Section):
    """Which history is promised where a journal has no promise of its own (docs/retention.md)."""

    every_write: Duration = Field(
        default="1d", description="Every write is a recovery point up to this age, such as `36h`."
    )
    tiers: Annotated[str, AfterValidator(_tiers)] = Field(
        default="1m:3d, 1h:30d, 1d:1y",
        description="Then one cut in each STEP is kept up to an AGE: `STEP:AGE, ...`, both growing.",
    )
    floor: Duration = Field(
        default="1d", description="History of this age is never given up for want of space."
    )
    when_full: str = Field(
        default="thin", pattern="^(thin|stop)$",
        description="When space runs short: `thin` (give up the oldest history, down to the floor) or `stop`.",
    )  # fmt: skip
    reserve: Annotated[str, AfterValidator(_share)] = Field(
        default="5%",
        description="What stays free of the journals' file system: a share, at most 20 GiB, or a size.",
    )
    every_minutes: Annotated[int, BeforeValidator(_no_truth_value)] = Field(
        default=10, ge=1, le=1440, description="Minutes between two looks at every journal."
    )


class LogSettings(_Section):
    """How the processes of the server write their logs."""

    level: str = Field(
        default="info", pattern="^(debug|info|warning|error)$", description="debug, info, warning or error."
    )
    json_lines: bool | None = Field(
        default=None,
        description="JSON lines (true) or text (false); when not set: text on a terminal, else JSON.",
    )


class Settings(BaseSettings):
    """All settings, checked. Make it with `load`."""

    model_config = SettingsConfigDict(
        env_prefix="LASTWRITE_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    appliance: ApplianceSettings = Field(default_factory=ApplianceSettings)
    tap: TapSettings = Field(default_factory=TapSettings)
    nbd: NbdSettings = Field(default_factory=NbdSettings)
    retention: RetentionSettings = Field(default_factory=RetentionSettings)
    log: LogSettings = Field(default_factory=LogSettings)

    @classmethod
    def load(cls, path: Path | None = None, *, state_dir: Path | None = None) -> Settings:
        """Read `path`, or else $LASTWRITE_CONFIG, or else the default file when there is one.

        `state_dir` (of the command line) wins over everything. Raises ConfigError.
        """
        file = find_file(path)
        values = _read(file) if file else {}
        try:
            values = _merged(values, EnvSettingsSource(cls)())
            if state_dir is not None:
                values = _merged(values, {"appliance": {"state_dir": state_dir.absolute()}})
            return cls(**values)
        except ValidationError as error:
            raise _config_error(error, file) from None
        except ValueError as error:  # an environment variable that holds no JSON for a section
            raise ConfigError(f"the environment: {error}") from None

    @property
    def state_dir(self) -> Path:
        """Directory of everything that the appliance holds."""
        return self.appliance.state_dir

    @property
    def journals_dir(self) -> Path:
        """Directory with one folder per journal."""
        return self.state_dir / "journals"

    @property
    def catalog_url(self) -> str:
        """Database URL of the catalog."""
        return self.appliance.catalog_url or f"sqlite:///{self.state_dir / 'catalog.db'}"

    @property
    def control_socket(self) -> Path:
        """Unix socket of the control process (REST)."""
        return self.state_dir / LONGEST_SOCKET

    @property
    def ingest_socket(self) -> Path:
        """Unix socket of the ingest process."""
        return self.state_dir / "ingest.sock"

    @property
    def pki_dir(self) -> Path:
        """Directory of the appliance's certificate authority."""
        return self.state_dir / "pki"


def find_file(path: Path | None = None) -> Path | None:
    """Return the configuration file that counts, or None. One that was asked for must exist (ConfigError)."""
    wanted = path or (Path(os.environ[FILE_VARIABLE]) if os.environ.get(FILE_VARIABLE) else None)
    if wanted is None:
        return DEFAULT_FILE if DEFAULT_FILE.is_file() else None
    if not wanted.is_file():
        asked_by = "--config" if path else FILE_VARIABLE
        what = "not a file" if wanted.exists() else "no such file"
        raise ConfigError(
            f"{wanted}: {what} ({asked_by} names it)", hint="Correct the path or make the file."
        )
    return wanted.absolute()


def _read(file: Path) -> Values:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not TOML: {error}") from None


def _merged(low: Values, high: Values) -> Values:
    result = dict(low)
    for key, value in high.items():
        old = result.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        result[key] = _merged(old, value) if both else value  # type: ignore[arg-type]
    return result


def _config_error(error: ValidationError, file: Path | None) -> ConfigError:
    problems = [_problem(dict(detail)) for detail in error.errors()]
    where = f"{file}: " if file else ""
    return ConfigError(where + "; ".join(problems), problems=problems)


def _problem(detail: Values) -> str:
    key = ".".join(str(part) for part in detail["loc"])
    why = str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        why = "no such key"
    if detail["type"] == "value_error" and isinstance(detail["input"], dict):
        return f"{key}: {why}"
    value = str(detail["input"]) if isinstance(detail["input"], Path) else detail["input"]
    return f"{key}: {why} (got {_shown(key, value)})"


def _shown(key: str, value: Any) -> str:
    """Return a value for a message, without what is a secret in it."""
    if any(word in key.lower() for word in SECRET_WORDS):
        return HIDDEN
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name!r}: {_shown(str(name), inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_shown(key, inner) for inner in value) + "]"
    # Who logs in stands before the last @ of an URL, options such as `password=` after the question mark.
    hidden = re.sub(r"(?<=://).*@", f"{HIDDEN}@", repr(value), flags=re.DOTALL)
    return re.sub(r"(://[^?]*\?)[^'\"]*", rf"\1{HIDDEN}", hidden)
