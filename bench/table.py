"""Figures as a table for people."""

from __future__ import annotations

from rich import box
from rich.table import Table

from bench.measure import Figure


def table_of(figures: list[Figure]) -> Table:
    """Return the table: value, peer, ratio, floor, target, and whether they are reached."""
    table = Table(
        box=box.SIMPLE_HEAD, title=f"{figures[0].benchmark}, medians of {len(figures[0].samples)} rounds"
    )
    for column in ("case", "value", "peer", "peer's value", "ratio", "floor", "target", "reached"):
        table.add_column(
            column, no_wrap=True, justify="left" if column in ("case", "peer", "reached") else "right"
        )
    for figure in figures:
        table.add_row(*_row(figure))
    return table


def _row(figure: Figure) -> list[str]:
    case = figure.case
    sign = "<= " if case.lower_is_better and not case.bounds_ratio else ">= "
    factor = "x" if case.bounds_ratio else ""
    return [
        case.name,
        f"{number(figure.value)} {case.unit}",
        case.peer or "-",
        "-" if figure.peer_value is None else number(figure.peer_value),
        "-" if figure.ratio is None else f"{number(figure.ratio)}x",
        "-" if case.floor is None else f"{sign}{number(case.floor)}{factor}",
        "-" if case.target is None else f"{sign}{number(case.target)}{factor}",
        _reached(figure),
    ]


def _reached(figure: Figure) -> str:
    if figure.meets(figure.case.floor) is False:
        return "below the floor"
    target = figure.meets(figure.case.target)
    return "-" if target is None else "yes" if target else "no"


def number(value: float) -> str:
    """Return a value with three or four digits that count."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
