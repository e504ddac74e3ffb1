"""What a person means by a point, looked up in a journal alone: no server, no catalog."""

from __future__ import annotations

from journal.errors import NotRecoverable
from journal.history import Cut, History
from journal.offline.instants import instant_ago, parse_ago, tell
from journal.reader import JournalReader, Lineage
from journal.times import Instant
from lastwrite.errors import NotFoundError, UsageError
from lastwrite.instant import format_time, looks_like_time, parse_time
from lastwrite.names import nearest_hint

FORMS = (
    "A point is written latest, 2026-11-22T10:00:05Z (a time; UTC without a zone), -10m (ago; also s, h, d), "
    "4711 or lsn:4711 (a record), cut:12, before-upgrade or app:before-upgrade (a bookmark)."
)


class BadPointText(UsageError):
    """The text is no way to write a point for a journal that is read directly."""

    code = "bad-point-text"
    hint = FORMS


class NoSuchPoint(NotFoundError):
    """The journal holds no such cut, bookmark or instant."""

    code = "no-such-point"
    hint = "`lastwrite journal info DIR` lists what the journal can give back."


class NamedTwice(UsageError):
    """Several points of the journal carry this name."""

    code = "named-twice"
    hint = "Name the one that is meant by its cut or LSN."


def choose(reader: JournalReader, text: str, timeline: int) -> int:
    """Return the LSN that `text` means. Whether it can be recovered to is not looked at, but for times and `latest`.

    Raises BadPointText, NoSuchPoint, NamedTwice, NotRecoverable (a time that lies in a gap), NoSuchTimeline.
    """
    lineage = reader.lineage(timeline)
    digits = text.removeprefix("lsn:")
    if text == "latest":
        return _latest(lineage)
    if digits.isascii() and digits.isdigit():
        return _number(digits)
    if text.startswith("cut:"):
        return _cut(reader, text, timeline)
    if looks_like_time(text):
        return _time(lineage, text)
    if text.startswith(("-", "\N{MINUS SIGN}")):
        return _ago(lineage, text)
    return _named(reader, text, timeline)


def _time(lineage: Lineage, text: str) -> int:
    try:
        wall = parse_time(text)
    except ValueError as error:
        raise BadPointText(str(error)) from error
    return _instant(lineage, text, lineage.times.lsn_at(wall))


def _ago(lineage: Lineage, text: str) -> int:
    text = text.replace("\N{MINUS SIGN}", "-")
    ago = parse_ago(text)
    if ago is None:
        raise BadPointText(f"{text!r}: a time ago is written -90s, -10m, -2h or -1d")
    instant, wall = instant_ago(lineage, ago)
    return _instant(lineage, f"{text} ({format_time(wall)})", instant)


def _number(digits: str) -> int:
    if len(digits) > 19:
        raise BadPointText(f"{digits} is larger than any LSN")
    return int(digits)


def _latest(lineage: Lineage) -> int:
    latest = lineage.history.latest()
    if latest is None:
        raise NoSuchPoint(
            "no point of this journal is whole", hint="Try --best-effort with an LSN or a time."
        )
    return latest


def _cut(reader: JournalReader, text: str, timeline: int) -> int:
    digits = text.removeprefix("cut:")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 20):
        raise BadPointText(f"{text!r}: after cut: comes a number")
    cuts = [cut for cut in reader.cuts(timeline) if cut.number]
    found = next((cut for cut in cuts if cut.number == int(digits)), None)
    if found is None:
        near = sorted(cuts, key=lambda cut: abs(cut.number - int(digits)))[:2]
        named = " and ".join(f"{_spell(cut)} ({format_time(cut.wall)})" for cut in near)
        hint = f"The nearest are {named}. {FORMS}" if near else f"It holds none at all. {FORMS}"
        raise NoSuchPoint(f"the journal holds no cut {digits}", hint=hint)
    return found.lsn


def _named(reader: JournalReader, text: str, timeline: int) -> int:
    name = text.removeprefix("app:")
    cuts = reader.cuts(timeline)
    found = [cut for cut in cuts if cut.label == name]
    if not found:
        labels = {cut.label for cut in cuts if cut.label}
        hint = f"{nearest_hint(name, labels, 'It has no bookmarks.')} {FORMS}"
        raise NoSuchPoint(f"no bookmark of the journal is named {name[:80]!r}", hint=hint)
    if len({cut.lsn for cut in found}) > 1:
        choice = ", ".join(f"{_spell(cut)} ({format_time(cut.wall)})" for cut in found)
        raise NamedTwice(f"{len(found)} points are named {name[:80]!r}", hint=f"Name one of them: {choice}.")
    return found[0].lsn


def _spell(cut: Cut) -> str:
    return f"cut:{cut.number}" if cut.number else f"lsn:{cut.lsn}"


def _instant(lineage: Lineage, text: str, instant: Instant) -> int:
    """Return the LSN of an instant. Raises NotRecoverable when the state at that time is not known."""
    reason = instant.reason if not instant.covered else _unsynced(lineage.history, instant)
    if not reason:
        return instant.lsn
    history, lsn = lineage.history, instant.lsn
    before, after = (lsn if history.is_point(lsn) else history.before(lsn)), history.after(lsn)
    near = f"nearest before: {tell(lineage, before)}, nearest after: {tell(lineage, after)}"
    raise NotRecoverable(f"the state at {text} is not known: {reason} ({near})", before=before, after=after)


def _unsynced(history: History, instant: Instant) -> str:
    """Return why the state at an instant is not known although records of that time are there, or ""."""
    ends = [cut.mono for cut in history.cuts if cut.epoch == instant.epoch and cut.kind == "sync-end"]
    if ends and instant.mono >= min(ends):
        return ""
    if any(damage.low_epoch <= instant.epoch <= damage.high_epoch for damage in history.damage):
        return ""  # whether the sync had ended may be lost: the point itself is refused with that reason
    return f"the sync of epoch {instant.epoch} had not ended"
