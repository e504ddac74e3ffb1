"""What a run has done, or would do, as the rows of a table and its total."""

from __future__ import annotations

from collections.abc import Iterator

from journal.retention.plan import Job
from journal.retention.run import Report
from journal.retention.shorten import Foreseen
from journal.retention.thin import Done
from lastwrite.text import size, utc

Rows = list[tuple[str, ...]]


def run_rows(report: Report, seen: Foreseen | None) -> tuple[tuple[str, ...], Rows, str]:
    """Return headings, rows and a sentence with the total; `seen` of a dry run, else None."""
    rows: Rows = []
    before = after = 0
    for timeline, job, count, now, then in _jobs(report, seen):
        times = (utc(job.oldest or None), utc(job.newest or None))
        lsns = f"{job.first_lsn} to {job.next_lsn - 1}"
        rows.append((str(timeline), *times, lsns, count, size(now), size(then), size(now - then)))
        before, after = before + now, after + then
    headings = ("Timeline", "From", "To", "LSNs", "Points" if seen else "Files", "Size", "Then", "Freed")
    would = "The run would free about" if seen else "Freed"
    becomes = "would become" if seen else "became"
    return headings, rows, f"{would} {size(before - after)}: {size(before)} {becomes} {size(after)}."


def _jobs(report: Report, seen: Foreseen | None) -> Iterator[tuple[int, Job | Done, str, int, int]]:
    """Yield timeline, LSNs and times, points or files, bytes before and after."""
    for look in seen.looks if seen else ():
        yield (
            look.timeline,
            look.job,
            f"{look.points} -> {look.points_after}",
            look.job.bytes,
            look.bytes_after,
        )
    for timeline, done in report.done:
        yield timeline, done, str(done.files), done.bytes_before, done.bytes_after
