"""`lastwrite retention show|set|run|hold|release|prune`: the history that is kept, with or without a running server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plugins.cli.options import Config, Json, State

if TYPE_CHECKING:
    from rich.console import Console

    from journal.retention.holding import Held
    from journal.retention.run import Promise, Report
    from journal.retention.shorten import Foreseen
    from plugins.retention import Journal, Shown

EXAMPLES = {
    "show": (
        "lastwrite retention show web01",
        "lastwrite retention show /var/lib/lastwrite/journals/web01 --json",
    ),
    "set": (
        "lastwrite retention set web01 --every-write 3d --tiers '1m:1w, 1h:8w, 1d:2y' --floor 2d",
        "lastwrite retention set web01 --default",
    ),
    "run": ("lastwrite retention run web01 --dry-run", "lastwrite retention run web01"),
    "hold": ("lastwrite retention hold web01@2026-11-22T10:00:00Z --reason 'case 4711' --until 90d",),
    "release": (
        "lastwrite retention release web01 2f0c6f2e-5d0c-4f5e-9a3c-0c4c2b8f6f11",
        "lastwrite retention release web01 2f0c",
    ),
    "prune": ("lastwrite retention prune web01 3",),
}

Target = Annotated[
    str, typer.Argument(metavar="VM|DIR", help="A protected VM, or the folder of a journal (it has a slash).")
]
PointTarget = Annotated[
    str, typer.Argument(metavar="VM@POINT", help="The VM (or DIR) and the point; `lastwrite points VM`.")
]
EveryWrite = Annotated[
    str | None, typer.Option(metavar="AGE", help="Every write is a point up to this age: 36h, 3d.")
]
Tiers = Annotated[
    str | None, typer.Option(metavar="STEP:AGE,...", help="Then one cut in each step, up to an age.")
]
Floor = Annotated[
    str | None, typer.Option(metavar="AGE", help="Never given up for want of space up to this age.")
]
WhenFull = Annotated[
    str | None, typer.Option(metavar="thin|stop", help="When space runs short: shorten history, or stop.")
]
Reserve = Annotated[
    str | None, typer.Option(metavar="SIZE|SHARE", help="What stays free of the file system: 20GiB, 5%.")
]
Default = Annotated[bool, typer.Option("--default", help="Back to the appliance's default promise.")]
Force = Annotated[bool, typer.Option("--force", help="Also when the guaranteed floor becomes shorter.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
Vouch = Annotated[bool, typer.Option("--force", help="Also when the clock is far ahead of what is known.")]
Reason = Annotated[str, typer.Option(metavar="TEXT", help="Why the point must be kept.")]
Until = Annotated[
    str | None, typer.Option(metavar="AGE", help="For so long; without it until it is released.")
]
PinId = Annotated[str, typer.Argument(metavar="PIN", help="The id of the pin, or how it begins.")]
Number = Annotated[int, typer.Argument(metavar="TIMELINE", help="Its number; `lastwrite journal info DIR`.")]


def show(target: Target, json: Json = False, config: Config = None, state: State = None) -> None:
    """Show what is promised of a journal's history, and the forecast."""
    from journal.retention.missing import explained
    from plugins.retention import shown

    with explained():
        _print(shown(_journal(target, config, state)), json)


def set(
    target: Target,
    every_write: EveryWrite = None,
    tiers: Tiers = None,
    floor: Floor = None,
    when_full: WhenFull = None,
    reserve: Reserve = None,
    default: Default = False,
    force: Force = False,
    json: Json = False,
    config: Config = None,
    state: State = None,
) -> None:
    """Change the promise of one journal; what is not named stays as it is.

    A promise for more does not bring back what is gone. One for less gives history up at the next run, within
    minutes when a server runs. A shorter floor needs --force.
    """
    from journal.retention.errors import BadPolicy
    from journal.retention.missing import explained
    from journal.retention.policy import require_unit
    from plugins.retention import changed, promise, shown

    words = {
        "every_write": every_write,
        "tiers": tiers,
        "floor": floor,
        "when_full": when_full,
        "reserve": reserve,
    }
    with explained():
        journal = _journal(target, config, state)
        if default and any(word is not None for word in words.values()):
            raise BadPolicy(
                "--default takes the whole promise of the appliance, and the other options change parts of it",
                hint="Use --default by itself, then `lastwrite retention set` again with what is to differ.",
            )
        require_unit("--reserve", reserve)
        promise(journal, None if default else changed(journal, words), force=force)
        _print(shown(journal), json)


def run(
    target: Target,
    dry_run: DryRun = False,
    force: Vouch = False,
    json: Json = False,
    config: Config = None,
    state: State = None,
) -> int:
    """Bring a journal to what is promised now.

    When less than the reserve is free, history is shortened as the promise says: step by step, the oldest first,
    never below the floor. A running server does all this by itself, in the background. After Ctrl-C what was done
    is listed, and the same command goes on.
    """
    import time

    from journal.reader import JournalReader
    from journal.retention.missing import explained
    from journal.retention.run import Report, promise_of
    from journal.upkeep import foresee_once, run_once

    report, seen, interrupted = Report(), None, False
    with explained():
        journal = _journal(target, config, state)
        promise = promise_of(JournalReader(journal.folder), journal.default, journal.default_reserve)
        said: dict[str, Any] = {"default": journal.default, "default_reserve": journal.default_reserve}
        try:
            if dry_run:
                seen = foresee_once(journal.folder, time.time_ns(), vouched=force, **said)
            else:
                run_once(journal.folder, time.time_ns(), vouched=force, report=report, **said)
        except KeyboardInterrupt:
            interrupted = True
    _print_run(journal.folder, promise, seen.report if seen else report, seen, interrupted, json)
    return 130 if interrupted else 0


def hold(
    target: PointTarget,
    reason: Reason,
    until: Until = None,
    json: Json = False,
    config: Config = None,
    state: State = None,
) -> None:
    """Keep a point whatever the promise says, until it is released.

    A time in thinned history has no state of its own any more: then the newest kept cut before it is kept, and the
    answer says so.
    """
    from journal.pins import Pin
    from journal.retention.missing import explained
    from journal.retention.told import pin_told
    from plugins.retention import hold_point

    with explained():
        _require_length(until)
        meant = _meant(target, config, state) if "@" in target else None
        named = f"{target.partition('@')[0]}@lsn:{meant.lsn}" if meant else target
        pin = Pin(**hold_point(named, reason, until, config, state))
    point = meant.told() if meant else {}
    lines = [f"LSN {pin.lsn} is kept: pin {pin.pin}.", *(meant.sentences() if meant else ())]
    _say(pin_told(pin) | {"point": point}, "\n".join(lines), json)


def release(
    target: Target, pin: PinId, json: Json = False, config: Config = None, state: State = None
) -> None:
    """Give a pin up: the point goes when the promise says so."""
    from journal.pins import named_pin, unpin
    from journal.retention.missing import explained

    with explained():
        folder = _journal(target, config, state).folder
        found = named_pin(folder, pin).pin
        unpin(folder, found)
    _say({"pin": found, "released": True}, f"Pin {found} is given up.", json)


def prune(
    target: Target, timeline: Number, json: Json = False, config: Config = None, state: State = None
) -> None:
    """Give up a whole timeline, such as that of a test.

    Its files are deleted. Refused for the main one, and while it is written or read, or anything begins on it or
    is pinned on it.
    """
    from journal.retention.missing import explained
    from journal.retention.timelines import prune_timeline

    with explained():
        prune_timeline(_journal(target, config, state).folder, timeline)
    _say({"timeline": timeline, "pruned": True}, f"Timeline {timeline} is given up.", json)


# -- what stands in the way -----------------------------------------------------------------------------


def _journal(target: str, config: Path | None, state: Path | None) -> Journal:
    """Return the journal that is meant. Raises what locate() does, with what to do about a missing one."""
    from journal.errors import NotAJournal
    from journal.retention.missing import missing_hint
    from plugins.retention import locate

    try:
        return locate(target, config, state)
    except NotAJournal as error:
        if error.hint != NotAJournal.hint:  # it has been said already
            raise
        folder = Path(error.message.removesuffix(" holds no journal"))  # a VM's is in the catalog
        known_vm = "/" not in target and not folder.is_dir()
        raise NotAJournal(error.message, hint=missing_hint(None if known_vm else folder)) from error


def _require_length(until: str | None) -> None:
    """Refuse a date where a length of time is asked for, and say which length it is. Raises BadHold."""
    import time

    from lastwrite.durations import UNITS
    from lastwrite.instant import looks_like_time, parse_time
    from plugins.retention import BadHold

    if until is None or not looks_like_time(until.strip()):
        return
    hint = "Write a length of time from now, such as 36h, 90d or 2y"
    try:
        text = until.strip()
        days = -(-(parse_time(text if len(text) > 10 else f"{text}T00:00:00") - time.time_ns()) // UNITS["d"])
        hint += f": --until {days}d lasts to that day." if days > 0 else ". That day has passed."
    except ValueError:
        hint += "; without --until there is no end."
    raise BadHold(f"--until {until} is a date, and a length of time is asked for", hint=hint)


def _meant(target: str, config: Path | None, state: Path | None) -> Held:
    """Return the point that VM@POINT means. Raises ThinnedAway, and what points.find() does."""
    from journal.reader import JournalReader
    from journal.retention.holding import held_point, lost_cut, thinned_away
    from recovery import points
    from recovery.errors import PointInGap, PointNotFound

    name, point = points.split_target(target)
    reader = JournalReader(_journal(name, config, state).folder)
    try:
        found = points.find(reader, point)
    except (PointInGap, PointNotFound) as error:
        is_cut = point.form is points.Form.CUT
        lsn = lost_cut(reader, 1, point.number) if is_cut else point.number
        named = (is_cut or point.form is points.Form.LSN) and lsn is not None
        why = thinned_away(reader, 1, point.text, lsn or 0) if named else None
        if why is None:
            raise
        raise why from error
    timed = point.form in (points.Form.TIME, points.Form.AGO)
    asked = found.wall if timed else None
    return held_point(reader, found.timeline, found.lsn, found.consistency, found.cut, asked)


# -- what is printed ------------------------------------------------------------------------------------


def _say(fields: dict[str, Any], sentence: str, json: bool) -> None:
    from plugins.cli.output import console, say

    if json:
        import json as codec

        print(codec.dumps(fields, indent=2))
    else:
        say(sentence, console())


def _print(result: Shown, json: bool) -> None:
    from journal.retention.told import shown_told
    from plugins.cli.output import console

    if json:
        import json as codec

        ends = (result.oldest, result.newest)
        told = shown_told(str(result.folder), result.promise, result.forecast, result.pins, *ends)
        print(codec.dumps(told, indent=2))
    else:
        _render(result, console())


def _render(result: Shown, out: Console) -> None:
    from lastwrite.text import size, utc
    from plugins.cli.output import DIM, fields, say, table

    forecast = result.forecast
    out.print(fields([("Journal", str(result.folder)), *_promise_rows(result.promise)]))
    say("", out)
    rate = "not known yet" if forecast.write_rate is None else f"{size(int(forecast.write_rate))} a day"
    needs = "not known yet" if forecast.needs is None else size(forecast.needs)
    lasts = "as long as promised" if forecast.days_left is None else f"{forecast.days_left:.1f} days"
    out.print(fields([
        ("Oldest point", utc(result.oldest)), ("Newest point", utc(result.newest)),
        ("Journal", f"{size(forecast.journal_bytes)}, of them {forecast.segments} segments with "
                    f"{size(forecast.segment_bytes)}, {forecast.nets} net segments with {size(forecast.net_bytes)}"),
        ("Free", f"{size(forecast.free)} (reserve {size(forecast.reserve)})"),
        ("Comes in", rate), ("Promise needs", needs), ("Space lasts", lasts if forecast.needs else "not known yet"),
    ]))  # fmt: skip
    for sentence in forecast.shortens:
        say(sentence[0].upper() + sentence[1:] + ".", out)
    if result.pins:
        say("", out)
        rows = [
            (pin.pin, str(pin.timeline), str(pin.lsn), pin.reason, pin.holder, utc(pin.until))
            for pin in result.pins
        ]
        out.print(
            table(("Pin", "Timeline", "LSN", "Reason", "Holder", "Until"), rows, right=("Timeline", "LSN"))
        )
    say(f"Of the forecast: {forecast.assumes}.", out, DIM)


def _promise_rows(promise: Promise) -> list[tuple[str, str]]:
    from lastwrite.durations import duration_text
    from lastwrite.text import size
    from plugins.retention import tier_sentence

    policy = promise.policy
    full = (
        "the oldest history is given up, down to the floor" if policy.when_full == "thin" else "ingest stops"
    )
    return [
        ("Promise", "of its own" if promise.own else "the appliance's default"),
        ("Every write", f"up to {duration_text(policy.every_write)}"),
        *(("Then", tier_sentence(tier)) for tier in policy.tiers),
        ("Floor", duration_text(policy.floor)),
        ("When full", f"{full} (reserve {size(promise.reserve)})"),
    ]


def _print_run(
    folder: Path, promise: Promise, report: Report, seen: Foreseen | None, interrupted: bool, json: bool
) -> None:
    from journal.retention.shorten import space_sentences
    from journal.retention.stuck import stuck_sentences
    from journal.retention.told import run_told
    from plugins.cli.output import console, say

    if json:
        import json as codec

        looks = seen.looks if seen else None
        print(codec.dumps(run_told(str(folder), promise, report, looks, interrupted=interrupted), indent=2))
        return
    out = console()
    if not _print_jobs(report, seen, out) and not report.left and not interrupted:
        hindered = report.stuck or report.short
        say(
            "Nothing is due that can be done now."
            if hindered
            else "Nothing is due: the journal is as promised.",
            out,
        )
    for sentence in [*[f"Not done: {left}" for left in report.left], *stuck_sentences(report.stuck)]:
        say(f"{sentence[0].upper()}{sentence[1:].rstrip('.')}.", out)
    if interrupted:
        say("Interrupted. What is listed is done, and nothing is half done: run it again to go on.", out)
        return
    for sentence in space_sentences(folder, promise, report, freed=seen.freed if seen else 0):
        say(sentence, out)


def _print_jobs(report: Report, seen: Foreseen | None, out: Console) -> bool:
    """Print what was done, or would be, and its total; return whether that is anything."""
    from journal.retention.rows import run_rows
    from plugins.cli.output import say, table

    headings, rows, total = run_rows(report, seen)
    if rows:
        out.print(table(headings, rows, right=("Timeline", "Points", "Files", "Size", "Then", "Freed")))
        say(total, out)
    return bool(rows)
