"""Looking after a journal in the background: left-overs of crashes, retention, indexes, net maps.

Writer and readers go on meanwhile. One process at a time per journal (`upkeep.lock`). A kill at any moment leaves a
good journal.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from journal import layout, metalog
from journal.index import netmap
from journal.index.indexfile import index_path
from journal.index.make import write_index
from journal.reader import JournalReader
from journal.retention.errors import UpkeepBusy
from journal.retention.looks import UPKEEP_LOCK, believe, require_likely
from journal.retention.netfile import NEW_SUFFIX
from journal.retention.policy import Policy
from journal.retention.run import Promise, Report, is_short, promise_of, retain, steps_of
from journal.retention.shorten import Foreseen, foresee, retain_in_space
from journal.retention.thin import delete_files, is_whole
from journal.retention.timelines import delete_pruned, left_over
from journal.scan import Owner, SegmentScan
from journal.storage import FILE_MODE, write_error
from lastwrite.errors import LastwriteError

_OLD_CACHE_SECONDS = 3600.0

GoOn = Callable[[], bool]


@dataclass
class Upkeep:
    """What was done for one journal; `problems`: what could not be, in sentences."""

    folder: Path
    retention: Report = field(default_factory=Report)
    indexed: int = 0
    problems: list[str] = field(default_factory=list)


@contextmanager
def upkeep_lock(folder: Path) -> Iterator[None]:
    """Be the only one who looks after a journal. Raises UpkeepBusy, JournalWriteFailed."""
    path = folder / UPKEEP_LOCK
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    except OSError as error:
        raise write_error(path, error) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise UpkeepBusy(f"{folder} is being looked after by another process") from None
    finally:
        os.close(fd)


def upkeep(
    folder: Path,
    now: int,
    *,
    default: Policy,
    default_reserve: int = 0,
    shortened: int = 0,
    vouched: bool = False,
    go_on: GoOn = lambda: True,
) -> Upkeep:
    """Do what is due for one journal at `now` (ns, appliance's clock).

    Where `now` is far ahead of all that is known of the journal, nothing is given up, unless it is `vouched` for.
    Raises NotAJournal, WrongFormat, UpkeepBusy, BadPolicy; what fails later is among the problems.
    """
    layout.read_identity(folder)
    done = Upkeep(folder)
    with upkeep_lock(folder):
        done.problems += clean(folder)
        reader = JournalReader(folder)
        promise = promise_of(reader, default, default_reserve)
        with _reported(done.problems, folder):
            if not vouched:
                require_likely(reader, now)
            done.retention = retain(folder, promise, now, shortened=shortened, go_on=go_on)
            done.problems += done.retention.left
        if not is_short(folder, promise):
            with _reported(done.problems, folder):
                done.indexed = _cache(folder, go_on)
    return done


def run_once(
    folder: Path,
    now: int,
    *,
    default: Policy,
    default_reserve: int = 0,
    vouched: bool = False,
    report: Report | None = None,
) -> Report:
    """Bring one journal to its promise at `now` (ns, appliance's clock), shortened as far as want of space asks for it.

    What was done is in `report` at any moment: also when this is interrupted. Raises NotAJournal, WrongFormat,
    UpkeepBusy, BadPolicy, ClockDoubted unless `now` is `vouched` for; NetSegmentBad, JournalWriteFailed.
    """
    report = Report() if report is None else report

    def promised() -> Promise:
        return promise_of(JournalReader(folder), default, default_reserve)

    with upkeep_lock(folder):
        problems = clean(folder)
        if vouched:
            believe(folder, now)
        else:
            require_likely(JournalReader(folder), now)
        retain_in_space(folder, promised, now, report)
        report.left[:0] = problems
    return report


def foresee_once(
    folder: Path, now: int, *, default: Policy, default_reserve: int = 0, vouched: bool = False
) -> Foreseen:
    """Return what run_once() would do; nothing is written. Raises ClockDoubted, BadPolicy, NotAJournal."""
    reader = JournalReader(folder)
    if not vouched:
        require_likely(reader, now, record=False)
    return foresee(folder, promise_of(reader, default, default_reserve), now)


@contextmanager
def _reported(problems: list[str], what: Path) -> Iterator[None]:
    """Put what fails into `problems`."""
    try:
        yield
    except LastwriteError as error:
        problems.append(error.message)
    except OSError as error:
        problems.append(f"{error.filename or what}: {error.strerror or error}")


def clean(folder: Path) -> list[str]:
    """Delete what crashes have left: unfinished net segments, replaced files, given-up timelines, orphaned caches.

    Returns what could not be deleted and why: that keeps nothing else from its turn.
    """
    problems: list[str] = []
    for number in left_over(folder):
        with _reported(problems, layout.timeline_folder(folder, number)):
            delete_pruned(folder, number)
    for line in metalog.timelines(metalog.read(folder / layout.META_LOG).records):
        home = layout.timeline_folder(folder, line.number)
        for new in home.glob(f"*{NEW_SUFFIX}"):
            with _reported(problems, new):
                new.unlink(missing_ok=True)
        with _reported(problems, home):
            _delete_replaced(folder, line.number)
        _delete_orphans(home, problems)
    return problems


def _delete_replaced(folder: Path, timeline: int) -> None:
    """Delete files that a net segment stands for, when that is whole and its data is as it was written."""
    every = layout.all_files(folder, timeline)
    counted = layout.without_left_overs(every)
    gone = [file for file in every if file not in counted]
    owner = Owner(layout.read_identity(folder).journal.bytes, timeline)
    for net in counted if gone else ():
        inside = [f.path for f in gone if net.next_lsn and net.first_lsn <= f.first_lsn < net.next_lsn]
        if inside:
            scan = SegmentScan(net.path, net.first_lsn, owner, net.next_lsn, cached=False)
            scan.extend()
            if is_whole(scan) and not scan.foreign:
                delete_files(inside)


def _delete_orphans(home: Path, problems: list[str]) -> None:
    """Delete indexes whose file is gone, and what processes that ended have left half written."""
    with contextlib.suppress(FileNotFoundError):
        for index in home.glob(f"*{index_path(Path('x')).suffix}"):
            if not any(index.with_suffix(end).exists() for end in (layout.SEGMENT_SUFFIX, layout.NET_SUFFIX)):
                with _reported(problems, index):
                    index.unlink(missing_ok=True)
        for half in home.glob("*.tmp"):
            if time.time() - half.stat().st_mtime > _OLD_CACHE_SECONDS:
                with _reported(problems, half):
                    half.unlink(missing_ok=True)


def _cache(folder: Path, go_on: GoOn) -> int:
    """Write the indexes and net maps that are missing; return how many indexes."""
    count = 0
    for line in metalog.timelines(metalog.read(folder / layout.META_LOG).records):
        for file in layout.files(folder, line.number):
            if not go_on():
                return count
            count += write_index(file.path)
        netmap.build(folder, line.number)
    return count


def upkeep_all(
    folders: Iterable[Path],
    now: Callable[[], int],
    *,
    default: Policy,
    reserve_of: Callable[[Path], int],
    go_on: GoOn = lambda: True,
    report: Callable[[Upkeep], None] = lambda done: None,
) -> None:
    """Look after journals, one at a time. When space is short, all are shortened step by step, none before the others.

    What concerns one journal is reported and keeps no other from its turn.
    """
    journals = list(folders)
    step = 0
    while journals and go_on():
        short = [
            f for f in journals if go_on() and _one(f, step, now(), default, reserve_of(f), go_on, report)
        ]
        step += 1
        journals = short


def _one(
    folder: Path,
    step: int,
    now: int,
    default: Policy,
    reserve: int,
    go_on: GoOn,
    report: Callable[[Upkeep], None],
) -> bool:
    """Look after one journal; return whether another step of its promise may be given up for want of space."""
    try:
        done = upkeep(folder, now, default=default, default_reserve=reserve, shortened=step, go_on=go_on)
        promise: Promise = promise_of(JournalReader(folder), default, reserve)
    except LastwriteError as error:
        report(Upkeep(folder, problems=[error.message]))
        return False
    except OSError as error:
        report(Upkeep(folder, problems=[f"{folder}: {error.strerror or error}"]))
        return False
    report(done)
    return is_short(folder, promise) and step < steps_of(promise.policy)
