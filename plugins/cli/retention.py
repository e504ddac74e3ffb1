"""`lastwrite retention show|set|run|hold|release|prune`: the history that is kept, with or without a running server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from plugins.cli.options import Config, Json, State

if TYPE_CHECKING:
    from rich.console import Console

    from journal.retention.run import Promise
    from plugins.retention import Shown

EXAMPLES = {
    "show": (
        "lastwrite retention show web01",
        "lastwrite retention show /var/lib/lastwrite/journals/web01 --json",
    ),
    "set": (
        "lastwrite retention set web01 --every-write 3d --tiers '1m:1w, 1h:8w, 1d:2y' --floor 2d",
        "lastwrite retention set web01 --default",
    ),
    "run": ("lastwrite retention run web01 --dry-run",),
    "hold": ("lastwrite retention hold web01@2026-11-22T10:00:00Z --reason 'case 4711' --until 90d",),
    "release": ("lastwrite retention release web01 2f0c6f2e-5d0c-4f5e-9a3c-0c4c2b8f6f11",),
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
PinId = Annotated[str, typer.Argument(metavar="PIN", help="The id of the pin; `lastwrite retention show`.")]
Number = Annotated[int, typer.Argument(metavar="TIMELINE", help="Its number; `lastwrite journal info DIR`.")]


def show(target: Target, json: Json = False, config: Config = None, state: State = None) -> None:
    """Show what is promised of a journal's history, and the forecast."""
    from plugins.retention import locate, shown

    _print(shown(locate(target, config, state)), json)


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
    from plugins.retention import changed, locate, promise, shown

    journal = locate(target, config, state)
    words = {
        "every_write": every_write,
        "tiers": tiers,
        "floor": floor,
        "when_full": when_full,
        "reserve": reserve,
    }
    if default and any(word is not None for word in words.values()):
        from journal.retention.errors import BadPolicy

        raise BadPolicy(
            "--default takes the whole promise of the appliance, and the other options change parts of it",
            hint="Use --default by itself, then `lastwrite retention set` again with what is to differ.",
        )
    promise(journal, None if default else changed(journal, words), force=force)
    _print(shown(journal), json)


def run(
    target: Target,
    dry_run: DryRun = False,
    force: Vouch = False,
    json: Json = False,
    config: Config = None,
    state: State = None,
) -> None:
    """Bring a journal to what is promised now.

    A running server does this by itself, in the background.
    """
    from plugins.retention import locate, run_now

    _print_run(run_now(locate(target, config, state), dry_run=dry_run, force=force), dry_run, json)


def hold(
    target: PointTarget,
    reason: Reason,
    until: Until = None,
    json: Json = False,
    config: Config = None,
    state: State = None,
) -> None:
    """Keep a point whatever the promise says, until it is released."""
    from plugins.retention import hold_point

    pin = hold_point(target, reason, until, config, state)
    _say(pin, f"LSN {pin['lsn']} is kept: pin {pin['pin']}.", json)


def release(
    target: Target, pin: PinId, json: Json = False, config: Config = None, state: State = None
) -> None:
    """Give a pin up: the point goes when the promise says so."""
    from journal.pins import unpin
    from plugins.retention import locate

    unpin(locate(target, config, state).folder, pin)
    _say({"pin": pin, "released": True}, f"Pin {pin} is given up.", json)


def prune(
    target: Target, timeline: Number, json: Json = False, config: Config = None, state: State = None
) -> None:
    """Give up a whole timeline, such as that of a test.

    Its files are deleted. Refused for the main one, and while it is written or read, or anything begins on it or
    is pinned on it.
    """
    from journal.retention.timelines import prune_timeline
    from plugins.retention import locate

    prune_timeline(locate(target, config, state).folder, timeline)
    _say({"timeline": timeline, "pruned": True}, f"Timeline {timeline} is given up.", json)


def _say(fields: dict[str, Any], sentence: str, json: bool) -> None:
    from plugins.cli.output import console, say

    if json:
        import json as codec

        print(codec.dumps(fields, indent=2))
    else:
        say(sentence, console())


def _print(result: Shown, json: bool) -> None:
    from plugins.cli.output import console

    if json:
        import json as codec

        print(codec.dumps(result.to_dict(), indent=2))
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
        ("Journal", f"{size(forecast.journal_bytes)} (segments {size(forecast.segment_bytes)}, "
                    f"net segments {size(forecast.net_bytes)})"),
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
    if forecast.needs is None:
        say("The forecast begins when the journal has been written for a minute.", out, DIM)


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


def _print_run(result: dict[str, Any], dry_run: bool, json: bool) -> None:
    from lastwrite.text import size
    from plugins.cli.output import console, say, table

    if json:
        import json as codec

        print(codec.dumps(result, indent=2))
        return
    out = console()
    key = "planned" if dry_run else "done"
    rows = [
        (str(row["timeline"]), f"{row['first_lsn']} to {row['next_lsn'] - 1}", str(row["files"]),
         size(row["bytes"]), str(row["points"]) if dry_run else size(row["bytes_after"]))
        for row in result[key]
    ]  # fmt: skip
    last = "Points left" if dry_run else "Size now"
    if rows:
        out.print(
            table(
                ("Timeline", "LSNs", "Files", "Size", last), rows, right=("Timeline", "Files", "Size", last)
            )
        )
    elif not result["left"]:
        say("Nothing is due: the journal is as promised.", out)
    for sentence in result["left"]:
        say(f"Not done: {sentence}", out)
