"""The errors of retention, each with what to do about it."""

from __future__ import annotations

from lastwrite.errors import IntegrityError, RefusedError, UnavailableError, UsageError


class BadPolicy(UsageError):
    """A promise makes no sense."""

    code = "bad-retention"
    hint = "docs/retention.md says what a promise consists of; `lastwrite retention set --help` has examples."


class FloorLowered(RefusedError):
    """The guaranteed floor would become shorter."""

    code = "retention-floor"
    hint = "Add --force when history may really be given up: it cannot be brought back."


class ThinnedAway(RefusedError):
    """A point is to be kept that thinning has given up: `details` has `before` and `after`, the nearest kept ones."""

    code = "point-thinned"
    hint = "Name one of the nearest kept points: what was thinned away does not come back."


class ReadOnlyJournal(UnavailableError):
    """Something is to be changed in a journal that may not be written here."""

    code = "journal-read-only"
    hint = (
        "Nothing was changed. Do it where the journal may be written: on its appliance, as the user that owns it;"
        " `lastwrite retention show` and `lastwrite retention run --dry-run` only read."
    )


class JournalNotReadable(UnavailableError):
    """A journal may not be read by this user."""

    code = "journal-not-readable"
    hint = "Run it as the user that owns the journal: it holds all that the VM wrote, and is for its owner alone."


class TimelineInUse(RefusedError):
    """A timeline is to be given up that something needs."""

    code = "timeline-in-use"
    hint = "Release what is named first; `lastwrite retention show VM` lists pins, holds and timelines."


class ClockDoubted(RefusedError):
    """The appliance's clock is far ahead of everything that is known of a journal."""

    code = "clock-doubted"
    hint = (
        "Nothing was given up. Set the clock; when it is right, `lastwrite retention run VM --force` says so, or wait: "
        "a time that lasts for a day is believed."
    )


class TimelineElsewhere(RefusedError):
    """The files of a timeline are behind a symbolic link."""

    code = "timeline-elsewhere"
    hint = "Move the folder to where the link is, then try again: nothing outside of the journal is deleted."


class UpkeepBusy(UnavailableError):
    """Another process looks after the journal at this moment."""

    code = "upkeep-busy"
    hint = "One at a time: the server does it in the background. Try again in a minute."


class NotThinned(RefusedError):
    """What was to be thinned has changed meanwhile: a point in it is needed, or files are gone."""

    code = "not-thinned"
    hint = "Nothing was changed. The next run looks again."


class NetSegmentBad(IntegrityError):
    """A net segment did not read back as it was written."""

    code = "net-segment-bad"
    hint = "Nothing was changed. Look at the file system and the disk of the journal."


class NoRoomToThin(UnavailableError):
    """A net segment does not fit beside the files that it is to replace."""

    code = "no-room-to-thin"
    hint = "Make space on the journal's file system; what retention could free needs room first."
