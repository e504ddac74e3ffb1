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
from journal.retention.looks import believe, require_likely
from journal.retention.policy import LONGEST, Policy, Tier, parse_tiers
from journal.retention.run import Promise, promise_of, retain, set_promise
from journal.space import room
from journal.upkeep import clean, upkeep_lock
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

    def to_dict(self) -> dict[str, Any]:
        """Return it for programs."""
        return {
            "journal": str(self.folder),
            "promise": self.promise.policy.to_meta()
            | {"own": self.promise.own, "reserve": self.promise.reserve},
            "forecast": asdict(self.forecast),
            "pins": [asdict(pin) for pin in self.pins],
            "oldest": self.oldest,
            "newest": self.newest,
        }


def locate(target: str, config: Path | None, state: Path | None) -> Journal:
    """Return the journal of a protected VM, or the one in a folder. Raises NotAJournal, ConfigError, UnknownVmError."""
    settings = Settings.load(config, state_dir=state)
    folder = Path(target)
    if "/" not in target and not (folder / layout.IDENTITY).is_file():
        folder = _of_vm(settings, target)
    layout.read_identity(folder)
    return Journal(folder, default_policy(settings.retention), reserve_bytes(settings.retention, folder))


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


def run_now(journal: Journal, *, dry_run: bool, force: bool = False) -> dict[str, Any]:
    """Bring a journal to its promise, or say what that would do. Raises UpkeepBusy; ClockDoubted without `force`."""
    reader = JournalReader(journal.folder)
    wanted = promise_of(reader, journal.default, journal.default_reserve)
    now = time.time_ns()
    if dry_run:
        if not force:
            require_likely(reader, now, record=False)
        report = retain(journal.folder, wanted, now, dry_run=True)
    else:
        with upkeep_lock(journal.folder):
            problems = clean(journal.folder)
            if force:
                believe(journal.folder, now)
            else:
                require_likely(reader, now)
            report = retain(journal.folder, wanted, now)
            report.left[:0] = problems
    planned = [
        {"timeline": line, "first_lsn": job.first_lsn, "next_lsn": job.next_lsn, "files": job.last - job.first,
         "bytes": job.bytes, "points": len(job.ends)}
        for line, job in report.planned
    ]  # fmt: skip
    done = [
        {"timeline": line, "first_lsn": job.first_lsn, "next_lsn": job.next_lsn, "files": job.files,
         "bytes": job.bytes_before, "bytes_after": job.bytes_after}
        for line, job in report.done
    ]  # fmt: skip
    return {"journal": str(journal.folder), "planned": planned, "done": done, "left": report.left,
            "freed": report.freed, "short": report.short}  # fmt: skip


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
