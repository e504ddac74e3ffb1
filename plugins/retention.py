"""What the retention commands do: finding the journal, the promise, a run, a pin. Needs no running server."""

from __future__ import annotations

import getpass
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from journal import layout, pins
from journal.errors import NotAJournal
from journal.pins import Pin
from journal.reader import JournalReader
from journal.retention.defaults import default_policy, reserve_bytes
from journal.retention.errors import BadPolicy
from journal.retention.forecast import Forecast, forecast
from journal.retention.policy import LONGEST, Policy, Tier, parse_tiers
from journal.retention.run import Promise, promise_of, set_promise
from journal.space import room
from lastwrite.config import Settings
from lastwrite.durations import UNITS, duration_text, parse_duration, parse_share
from lastwrite.errors import LastwriteError, UsageError
from lastwrite.text import size


class BadHold(UsageError):
    """What `retention hold` is to keep, or for how long, makes no sense."""

    code = "bad-hold"
    hint = "Name VM@POINT, and with --until a length of time from now such as 36h, 90d, 2y; without it there is no end."


@dataclass(frozen=True)
class Journal:
    """A journal's folder with the appliance's default promise for it."""

    folder: Path
    default: Policy
    default_reserve: int


@dataclass(frozen=True)
class Shown:
    """What `retention show` says. Times in ns of the source's wall clock."""

    folder: Path
    promise: Promise
    forecast: Forecast
    pins: list[Pin]
    oldest: int | None
    newest: int | None


def locate(target: str, config: Path | None, state: Path | None) -> Journal:
    """Return the journal of a protected VM, or the one in a folder. Raises NotAJournal, ConfigError, UnknownVmError."""
    settings = Settings.load(config, state_dir=state)
    folder = Path(target)
    if "/" not in target:
        folder = _of_name(settings, target)
    layout.read_identity(folder)
    return Journal(folder, default_policy(settings.retention), reserve_bytes(settings.retention, folder))


def _of_name(settings: Settings, name: str) -> Path:
    """Return the folder of a VM's journal, or a journal's folder of that name here; never one for the other."""
    here = Path(name)
    is_journal = (here / layout.IDENTITY).is_file()
    try:
        folder = _of_vm(settings, name)
    except LastwriteError:
        if is_journal:
            return here
        raise
    if is_journal and not (folder.exists() and here.samefile(folder)):
        raise UsageError(
            f"{name} is a VM, and here is also a folder {name} that holds a journal",
            hint=f"Write ./{name} for the folder. For the VM, go to another folder, or name its journal: {folder}",
        )
    return folder


def _of_vm(settings: Settings, name: str) -> Path:
    """Return the folder of a VM's journal, by the catalog, or by its name among the journals."""
    beside = settings.journals_dir / name
    if not settings.state_dir.is_dir():
        raise NotAJournal(
            f"there is no VM {name}: {settings.state_dir} is no state directory",
            hint="Name the folder of the journal (with a slash), or the server's directory with --state.",
        )
    from lastwrite.catalog import Catalog

    catalog = Catalog(settings.catalog_url)
    try:
        return Path(catalog.vm(name).journal)
    except LastwriteError:
        if (beside / layout.IDENTITY).is_file():
            return beside
        raise
    finally:
        catalog.close()


def shown(journal: Journal) -> Shown:
    """Return the promise, the forecast and the pins of a journal. Raises BadPolicy."""
    reader = JournalReader(journal.folder)
    now = time.time_ns()
    promise = promise_of(reader, journal.default, journal.default_reserve)
    history = reader.lineage().history
    ends = (history.after(-1), history.latest())
    walls = [None if lsn is None else reader.record_time(lsn) for lsn in ends]
    found = pins.pins(reader.meta.records, now)
    return Shown(journal.folder, promise, forecast(reader, promise, now), found, walls[0], walls[1])


def changed(journal: Journal, words: dict[str, str | None]) -> Policy:
    """Return the present promise with what `words` change in it. Raises BadPolicy.

    Where this version cannot read the present one, what is not named is as the default says.
    """
    try:
        reader = JournalReader(journal.folder)
        policy = promise_of(reader, journal.default, journal.default_reserve).policy
    except BadPolicy:
        policy = journal.default
    fields: dict[str, Any] = {}
    try:
        for name in ("every_write", "floor"):
            if (text := words[name]) is not None:
                fields[name] = parse_duration(text)
        if (text := words["reserve"]) is not None:
            fields["reserve_bytes"] = _reserve(journal.folder, text)
    except ValueError as error:
        raise BadPolicy(str(error)) from error
    if (text := words["tiers"]) is not None:
        fields["tiers"] = parse_tiers(text)
    if (text := words["when_full"]) is not None:
        fields["when_full"] = text
    if not fields:
        raise BadPolicy("nothing is to be changed", hint="Name at least one of the options, or --default.")
    return replace(policy, **fields)


def _reserve(folder: Path, text: str) -> int:
    total = room(folder).total
    wanted = parse_share(text, total)
    if wanted >= total:
        raise BadPolicy(
            f"the reserve of {text} does not fit: the file system of {folder} has {size(total)}",
            hint="Write less than the file system has, or a share of it, such as 5%.",
        )
    return wanted


def promise(journal: Journal, policy: Policy | None, *, force: bool) -> None:
    """Promise that from now on; None: the appliance's default. Raises FloorLowered."""
    set_promise(journal.folder, policy, journal.default, force=force)


def hold_point(
    target: str, reason: str, until: str | None, config: Path | None, state: Path | None
) -> dict[str, Any]:
    """Pin the point that `target` (VM@POINT or DIR@POINT) means; return the pin. Raises BadHold."""
    from recovery import points

    end = _end(until)
    name, point = points.split_target(target)
    if "@" not in target:
        raise BadHold(
            f"{target} names no point", hint=f"Write {target}@POINT, {target}@latest for what is newest now."
        )
    journal = locate(name, config, state)
    found = points.find(JournalReader(journal.folder), point)
    holder = getpass.getuser()
    return asdict(
        pins.pin(journal.folder, found.timeline, found.lsn, reason=reason, holder=holder, until_ns=end)
    )


def _end(until: str | None) -> int | None:
    """Return when a pin ends, in ns of the appliance's clock. Raises BadHold."""
    try:
        age = None if until is None else parse_duration(until)
    except ValueError as error:
        raise BadHold(str(error)) from error
    if age is None:
        return None
    if not 0 < age <= LONGEST:
        raise BadHold(
            f"--until {until} keeps nothing: it is more than 0 and at most {duration_text(LONGEST)}"
        )
    return time.time_ns() + age


def tier_sentence(tier: Tier) -> str:
    """Return a tier in words."""
    words = dict(zip("smhdwy", ("second", "minute", "an hour", "day", "week", "year"), strict=True))
    word = next((words[unit] for unit, ns in UNITS.items() if ns == tier.step), None)
    step = f"in {duration_text(tier.step)}" if word is None else word if " " in word else f"a {word}"
    return f"one point {step} up to {duration_text(tier.reach)}"
