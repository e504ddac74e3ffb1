"""What figures are made of, what is printed, and what a smoke run does below a floor: with a made-up benchmark."""

from __future__ import annotations

import argparse
import io
import json
from typing import ClassVar

import pytest
from rich.console import Console

import bench.__main__ as command
from bench.errors import MissingPeer
from bench.measure import Benchmark, Case, Figure, Sample, require_program
from bench.progress import Progress
from bench.table import table_of


class Made(Benchmark):
    """Gives the samples that it was told, one row per round."""

    name = "made"
    summary = "made up"
    told: ClassVar[list[tuple[float, float]]] = []
    case = Case("speed", "MB/s", "other", 0.5, 1.0)
    opened = closed = 0

    @classmethod
    def cases(cls, options: argparse.Namespace) -> list[Case]:
        return [cls.case]

    def open(self) -> None:
        type(self).opened += 1
        assert not any(self.setup.folder.iterdir())

    def round(self) -> dict[str, Sample]:
        return {"speed": Sample(*self.told.pop(0))}

    def close(self) -> None:
        type(self).closed += 1


@pytest.fixture(autouse=True)
def made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "BENCHMARKS", {"made": f"{__name__}:Made"})
    monkeypatch.setattr(command, "load", lambda name: Made)
    Made.opened = Made.closed = 0


def figure(case: Case, *samples: tuple[float, float | None]) -> Figure:
    return Figure("made", case, tuple(Sample(*sample) for sample in samples))


def test_a_figure_is_the_median_of_its_rounds() -> None:
    found = figure(Case("c", "MB/s", "other", 0.5, 2.0), (1, 10), (30, 10), (20, 40))
    assert (found.value, found.peer_value) == (20, 10)
    assert found.ratio == 0.5, "of 0.1, 3 and 0.5: each round by itself"
    assert found.meets(found.case.floor) and not found.meets(found.case.target)


@pytest.mark.parametrize(
    ("case", "sample", "ratio", "floor", "target"),
    [
        (Case("c", "MB/s", "p", 0.5, 0.8), (60, 100), 0.6, True, False),
        (Case("c", "MB/s", "p", 0.5, 0.8), (40, 100), 0.4, False, False),
        (Case("c", "s", "p", 5, 10, lower_is_better=True), (2, 20), 10, True, True),
        (Case("c", "CPU-s", None, 0.6, 0.25, lower_is_better=True), (0.3, None), None, True, False),
        (Case("c", "writes/s", None, 150, 400), (400, None), None, True, True),
        (Case("c", "%", "p", 1, 0.5, lower_is_better=True, bounds_value=True), (0.6, 12), 20, True, False),
        (Case("c", "MB/s", "p"), (1, 2), 0.5, None, None),
    ],
)
def test_floor_and_target(
    case: Case,
    sample: tuple[float, float | None],
    ratio: float | None,
    floor: bool | None,
    target: bool | None,
) -> None:
    found = figure(case, sample)
    assert (found.ratio, found.meets(case.floor), found.meets(case.target)) == (ratio, floor, target)
    assert table_of([found]).row_count == 1


def test_json_is_one_object_per_measured_thing(capsys: pytest.CaptureFixture[str]) -> None:
    Made.told = [(50, 100), (70, 100), (60, 100)]
    assert command.main(["made", "--json", "--rounds", "3"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == {
        "name": "made",
        "case": "speed",
        "value": 60,
        "unit": "MB/s",
        "peer": "other",
        "peer_value": 100,
        "ratio": 0.6,
        "rounds": [
            {"value": 50, "peer_value": 100, "ratio": 0.5},
            {"value": 70, "peer_value": 100, "ratio": 0.7},
            {"value": 60, "peer_value": 100, "ratio": 0.6},
        ],
    }
    assert Made.opened == Made.closed == 1


def test_five_rounds_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    Made.told = [(50.0, 100.0)] * 5
    assert command.main(["made"]) == 0
    assert "medians of 5 rounds" in capsys.readouterr().out
    assert not Made.told


def test_a_smoke_run_measures_again_below_a_floor_and_succeeds_then(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Made.told = [(40.0, 100.0)] * 3 + [(60.0, 100.0)] * 3
    assert command.main(["made", "--smoke", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["ratio"] == 0.6


def test_a_smoke_run_fails_when_a_floor_is_missed_three_times(capsys: pytest.CaptureFixture[str]) -> None:
    Made.told = [(40.0, 100.0)] * 9
    assert command.main(["made", "--smoke"]) == 1
    assert "below the floor in 3 attempts: speed" in capsys.readouterr().err
    assert not Made.told and Made.closed == 3


def test_below_a_floor_only_a_smoke_run_fails() -> None:
    Made.told = [(40, 100)]
    assert command.main(["made", "--rounds", "1"]) == 0


def test_a_missing_peer_is_an_error_that_names_its_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(MissingPeer, match="fio is not installed") as caught:
        require_program("fio", "fio")
    assert caught.value.hint == "apt install fio"
    monkeypatch.setattr(Made, "open", lambda self: require_program("fio", "fio"))
    assert command.main(["made"]) == MissingPeer.exit_code
    assert "apt install fio" in capsys.readouterr().err
    assert Made.closed == 1


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_shows_what_is_being_done_and_a_file_holds_nothing_of_it(terminal: bool) -> None:
    shown = io.StringIO()
    with Progress("made", Console(file=shown, force_terminal=terminal, width=100)) as progress:
        progress.stage("preparing")
        progress.tell("writing it")
        progress.stage("round 1 of 2")
    wanted = ["made, preparing", "made, preparing: writing it", "made, round 1 of 2"]
    assert [words in shown.getvalue() for words in wanted] == [terminal] * 3
    assert terminal or not shown.getvalue()
