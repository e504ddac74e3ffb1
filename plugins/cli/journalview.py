"""What `lastwrite journal ...` prints for people, from what it prints for programs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.text import Text

from lastwrite.text import duration, size, utc
from plugins.cli.output import BAD, DIM, GOOD, WARN, fields, say, table

MOST_ROWS = 40
Report = dict[str, Any]
_STYLES = {"exact": GOOD, "cuts": GOOD, "approximate": WARN, "syncing": WARN, "gap": BAD, "damaged": BAD}


def show_info(report: Report, out: Console) -> None:
    """Print what a journal holds."""
    out.print(fields(_summary(report)))
    _sentences(report["lost"], "Lost", out, BAD)
    _sentences(report["assumed"], "Assumed", out, WARN)
    if len(report["timelines"]) > 1:
        say("\nTimelines", out, "bold")
        for depth, line in _tree(report["timelines"]):
            say(f"{'  ' * depth}{'└ ' if depth else ''}{_timeline(line)}", out)
    for line in report["timelines"]:
        title = (
            f"History of timeline {line['number']} ({line['name']})"
            if len(report["timelines"]) > 1
            else "History"
        )
        _history(line, title, out)
    main = report["timelines"][0]
    _disks(main["disks"], out)
    _bookmarks(report["timelines"], out)
    _damage(report, report["damage"], out)


def _summary(report: Report) -> list[tuple[str, str | Text]]:
    lines = report["timelines"]
    main = lines[0]
    segments = sum(line["segments"] for line in lines)
    nets = sum(line["net_segments"] for line in lines)
    files = _count(segments, "segment") + (f" and {_count(nets, 'net segment')}" if nets else "")
    direct = {True: "direct, past the page cache", False: "buffered, through the page cache", None: "-"}
    newest = f"LSN {main['latest']}" if main["latest"] is not None else "none yet"
    return [
        ("VM", report["name"]),
        ("Journal", f"{report['journal']}, format {report['format']}, made {report['created']}"),
        ("Folder", report["folder"]),
        ("Size", f"{size(report['bytes'])} in {files}"),
        ("Writing", direct[report["direct_io"]]),
        ("History", _from_to(main["first_time"], main["last_time"])),
        ("Points", f"{main['points']:,} on timeline 1; the newest is {newest}"),
        ("Damage", _known_damage(report)),
    ]  # fmt: skip


def _known_damage(report: Report) -> Text:
    """Return what is known of damage: a look at the metadata and the heads of the frames proves nothing of the data."""
    damage = report["damage"] or report["lost"]
    found = f"{len(damage)} found, see below" if damage else "no damage in the metadata and heads"
    unread = "data was not read, `lastwrite journal check` does"
    return Text(f"{found}; {unread}", style=BAD if damage else "")


def _count(number: int, what: str, many: str = "") -> str:
    return f"{number:,} {what if number == 1 else many or what + 's'}"


def _from_to(first: int | None, last: int | None) -> str:
    if first is None or last is None:
        return "nothing yet"
    return f"{utc(first)} to {utc(last)} ({duration((last - first) / 1e9)})"


def _tree(lines: list[Report], parent: int | None = None, depth: int = 0) -> Iterable[tuple[int, Report]]:
    for line in lines:
        if line["parent"] == parent:
            yield depth, line
            yield from _tree(lines, line["number"], depth + 1)


def _timeline(line: Report) -> str:
    forked = f", forked at LSN {line['fork_lsn']}" if line["parent"] is not None else ""
    newest = "no point yet" if line["latest"] is None else f"newest point LSN {line['latest']}"
    return f"{line['number']} {line['name']}{forked}, {newest}"


def _history(line: Report, title: str, out: Console) -> None:
    """Print the honest timeline; of a fork only what is its own."""
    rows = [row for row in line["ranges"] if line["parent"] is None or row["last_lsn"] > line["fork_lsn"]]
    if not rows:
        return
    say(f"\n{title}", out, "bold")
    if len(rows) > MOST_ROWS:
        say(f"The newest {MOST_ROWS} of {len(rows)} stretches; --json has all of them.", out, DIM)
    headings = ("WHAT", "FROM", "TO", "LASTS", "LSN", "POINTS", "REMARK")
    out.print(table(headings, [_stretch(row) for row in rows[-MOST_ROWS:]], right=("LASTS", "POINTS")))


def _stretch(row: Report) -> tuple[str | Text, ...]:
    first, last = row["first_wall"], row["last_wall"]
    lasts = "-" if first is None or last is None else duration(max(last - first, 0) / 1e9)
    lsns = f"{row['first_lsn']}-{row['last_lsn']}" if row["last_lsn"] >= row["first_lsn"] else "-"
    points = f"{row['points']:,}" if row["points"] else "-"
    what = Text(row["kind"], style=_STYLES[row["kind"]])
    end = "now" if last is None and row["kind"] == "gap" else utc(last)
    return (what, utc(first), end, lasts, lsns, points, row["reason"])


def _disks(disks: list[Report], out: Console) -> None:
    if disks:
        say("\nDisks", out, "bold")
        rows = [(str(d["disk"]), d["name"], size(d["bytes"]), d["serial"] or "-") for d in disks]
        out.print(table(("DISK", "NAME", "SIZE", "SERIAL"), rows, right=("SIZE",)))


def _bookmarks(lines: list[Report], out: Console) -> None:
    named = {(cut["lsn"], cut["label"], cut["number"]): cut for line in lines for cut in line["bookmarks"]}
    if not named:
        return
    cuts = sorted(named.values(), key=lambda cut: (cut["wall"], cut["lsn"]))
    say("\nNamed points", out, "bold")
    if len(cuts) > MOST_ROWS:
        say(f"The newest {MOST_ROWS} of {len(cuts)}; --json has all of them.", out, DIM)
    rows = [
        (cut["label"], utc(cut["wall"]), str(cut["lsn"]), cut["consistency"], cut["kind"])
        for cut in cuts[-MOST_ROWS:]
    ]
    out.print(table(("NAME", "TIME", "LSN", "CONSISTENCY", "KIND"), rows, right=("LSN",)))


def _damage(report: Report, damage: list[Report], out: Console) -> None:
    if not damage:
        return
    say("\nDamage", out, "bold")
    rows = [(_where(report.get("folder"), bad), _lsns(bad), bad["reason"]) for bad in damage[:MOST_ROWS]]
    out.print(table(("WHERE", "LSN", "WHAT"), rows))
    if len(damage) > MOST_ROWS:
        say(f"{len(damage) - MOST_ROWS} more; --json has all of them.", out, DIM)


def _where(folder: str | None, bad: Report) -> str:
    path = str(bad["path"])
    short = path.removeprefix(f"{folder}/") if folder else path
    return f"{short}, byte {bad['offset']}" if bad["offset"] else short


def _lsns(bad: Report) -> str:
    first, last = bad["first_lsn"], bad["next_lsn"] - 1
    if last < first:
        return "-"
    return str(first) if first == last else f"{first}-{last}"


def _sentences(lines: list[str], title: str, out: Console, style: str) -> None:
    for line in lines:
        out.print(Text.assemble((f"{title}: ", style), line))


def show_check(report: Report, out: Console) -> None:
    """Print what a check found."""
    nets = f" and {_count(report['net_segments'], 'net segment')}" if report["net_segments"] else ""
    counts = f"{_count(report['frames'], 'frame')} with {_count(report['records'], 'record')}"
    say(f"{report['name']} ({report['journal']})", out, "bold")
    say(f"{size(report['bytes'])} in {_count(report['segments'], 'segment')}{nets}: {counts}.", out)
    if report["resumed_bytes"]:
        say(f"{size(report['resumed_bytes'])} of that were read before the check was interrupted.", out, DIM)
    for remark in report["remarks"]:
        say(f"{remark[0].upper()}{remark[1:]}.", out, DIM)
    for cache in report["caches"]:
        used = "readers would believe it" if cache["believed"] else "readers ignore it"
        say(
            f"Wrong cache: {cache['path']}: {cache['reason']} ({used}). No data is lost: delete it.",
            out,
            WARN,
        )
    _damage(report, report["damaged"], out)
    if report["damaged"]:
        say(f"\n{_verdict(len(report['damaged']), report['damaged_metadata'])}", out, BAD)
    elif report["ok"]:
        say("Nothing is damaged.", out, GOOD)


def _verdict(damaged: int, metadata: int) -> str:
    """Return what is damaged in all, and what that means for whoever wants something back."""
    if damaged == metadata:
        what = f"{_count(metadata, 'thing')} damaged in JOURNAL and meta.log, nothing in the segments"
        return f"{what}: every point that they hold can be had with `lastwrite journal rescue`."
    others = f", {metadata} of them in JOURNAL and meta.log alone" if metadata else ""
    what = f"{_count(damaged, 'thing')} damaged{others}"
    return f"{what}. Points that do not need them can still be had: `lastwrite journal rescue`."


def show_rescue(report: Report, out: Console) -> None:
    """Print what a rescue wrote."""
    when = f", {utc(report['wall'])}" if report["wall"] is not None else ""
    say(f"{report['name']} at LSN {report['lsn']}{when}, timeline {report['timeline']}", out, "bold")
    _sentences(report["lost"], "Lost", out, WARN)
    _sentences(report["assumed"], "Assumed", out, WARN)
    rows = [_image(disk) for disk in report["disks"]]
    out.print(
        table(("DISK", "IMAGE", "SIZE", "DATA", "ZEROS", "MAY BE OLD"), rows, right=("SIZE", "DATA", "ZEROS"))
    )
    lists = [disk["damage_list"] for disk in report["disks"] if disk["damage_list"]]
    if report["exact"]:
        say("Every byte is that of the point.", out, GOOD)
    else:
        say(f"Not every byte is that of the point; {' and '.join(lists)} list which.", out, BAD)
    if report["damaged_after"]:
        _damaged_after(report["damaged_after"], out)


def _damaged_after(bad: Report, out: Console) -> None:
    """Print what of the history behind the point is damaged, and so not in the images."""
    if bad["reasons"]:
        first, last = bad["first_lsn"], max(bad["first_lsn"], bad["last_lsn"])
        since = f", after {utc(bad['first_wall'])}" if bad["first_wall"] is not None else ""
        until = f", up to {utc(bad['last_wall'])}" if bad["last_wall"] is not None else ""
        say(f"There is newer history, and it is damaged: LSN {first} to {last}{since}{until}.", out, BAD)
        _sentences(bad["reasons"], "Damaged", out, BAD)
        if bad["whole_from"] is not None:
            say(f"From LSN {bad['whole_from']} on it is whole again.", out)
        else:
            say("What can be had of it: --best-effort, with latest or with a point in there.", out)
    if bad["torn_bytes"]:
        say(f"The last {size(bad['torn_bytes'])} of the newest segment are no whole frame: one that was being written "
            "and never acknowledged, or the last one, damaged.", out, WARN)  # fmt: skip


def _image(disk: Report) -> tuple[str, ...]:
    sums = {"zeros": 0, "may be old": 0}
    for bad in disk["damaged"]:
        sums[bad["content"]] += bad["length"]
    zeros, old = (size(sums[kind]) if sums[kind] else "-" for kind in ("zeros", "may be old"))
    return (disk["disk"], disk["path"], size(disk["bytes"]), size(disk["data_bytes"]), zeros, old)


def show_diff(report: Report, out: Console) -> None:
    """Print how much differs between two points."""
    points = (report["first"], report["second"])
    a, b = (f"{point['text']} (timeline {point['timeline']}, LSN {point['lsn']})" for point in points)
    say(f"{report['name']}: {a} and {b}", out, "bold")
    rows = [
        (disk["name"], size(disk["first_bytes"]), size(disk["second_bytes"]), size(disk["bytes"]),
         f"{disk['blocks']:,}", f"{len(disk['extents']):,}")
        for disk in report["disks"]
    ]  # fmt: skip
    headings = ("DISK", "SIZE AT A", "SIZE AT B", "DIFFERENT", "BLOCKS", "EXTENTS")
    out.print(table(headings, rows, right=headings[1:]))


def show_reindex(report: Report, out: Console) -> None:
    """Print which caches were made."""
    made = f"{_count(report['indexes'], 'index', 'indexes')} and {_count(report['maps'], 'net map')}"
    say(f"{report['name']}: {report['deleted']} caches deleted, {made} written.", out)
    for path in report["left"]:
        say(f"{path} got no index: it is damaged, or a folder stands in the index's place.", out, WARN)
    for path in report["folders"]:
        say(
            f"{path} is a folder, no cache: it was left as it is. Move it away, then make the caches anew.",
            out,
            WARN,
        )
