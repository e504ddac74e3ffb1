"""The demo's report: one self-contained HTML page."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

import jinja2

from lab.demo.story import Facts, clock

WIDTH = 960  # of the timeline, in pixels of the drawing
MARGIN = 20


@dataclass(frozen=True)
class Mark:
    """One event on the drawn timeline; `row` keeps labels of close neighbours apart."""

    x: float
    row: int
    when: str
    text: str
    kind: str
    anchor: str


def write(facts: Facts, out: Path) -> Path:
    """Write `report.html` into `out` and return its path."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    marks = timeline(sorted(facts.events))
    page = environment.get_template("report.html.j2").render(
        facts=facts,
        clock=clock,
        marks=marks,
        width=WIDTH,
        height=60 + 18 * (max((mark.row for mark in marks), default=0) + 1),
        commits=[_place(commit.after, facts) for commit in facts.commits if _inside(commit.after, facts)],
        damaged_png=_data_url(out / "damaged.png"),
        recovered_png=_data_url(out / "recovered.png"),
    )
    path = out / "report.html"
    path.write_text(page)
    return path


def timeline(events: list[tuple[int, str, str]]) -> list[Mark]:
    """Place events (ns, text, kind), sorted by time, on a line of WIDTH; labels never overlap."""
    if not events:
        return []
    marks: list[Mark] = []
    free_from: list[float] = []  # per row of labels: where it is free again
    for wall, text, kind in events:
        x = _scale(wall, events[0][0], events[-1][0])
        needs = 7.0 * (len(text) + 11)
        start = max(0.0, x - needs) if x + needs > WIDTH else x
        row = next((i for i, free in enumerate(free_from) if free <= start), len(free_from))
        if row == len(free_from):
            free_from.append(0)
        free_from[row] = start + needs
        marks.append(Mark(x, row, clock(wall)[:8], text, kind, "end" if start < x else "start"))
    return marks


def _scale(wall: int, first: int, last: int) -> float:
    return MARGIN + (WIDTH - 2 * MARGIN) * (wall - first) / max(1, last - first)


def _inside(wall: int, facts: Facts) -> bool:
    walls = [event[0] for event in facts.events]
    return bool(walls) and min(walls) <= wall <= max(walls)


def _place(wall: int, facts: Facts) -> float:
    walls = [event[0] for event in facts.events]
    return _scale(wall, min(walls), max(walls))


def _data_url(png: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(png.read_bytes()).decode()
