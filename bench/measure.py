"""What a benchmark is: its cases, its rounds, and how figures are made of them.

A *round* measures every case once, and its peer in the same round on the same disk, because the speed of a
shared disk swings more between minutes than any change of code moves it. A figure is the median of the rounds.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from bench.errors import MissingPeer
from bench.progress import Progress


@dataclass(frozen=True)
class Case:
    """One measured thing. `floor` and `target` are ratios when there is a peer, else values in `unit`.

    `floor`: what a smoke run asserts; `target`: what is to be reached. With `lower_is_better` a value may be
    at most so much; ratios are always "how many times better than the peer", so more is better. With
    `bounds_value` floor and target are values although there is a peer.
    """

    name: str
    unit: str
    peer: str | None = None
    floor: float | None = None
    target: float | None = None
    lower_is_better: bool = False
    bounds_value: bool = False

    @property
    def bounds_ratio(self) -> bool:
        """Whether floor and target are ratios."""
        return self.peer is not None and not self.bounds_value


class Sample(NamedTuple):
    """What one round found for one case."""

    value: float
    peer_value: float | None = None


@dataclass(frozen=True)
class Setup:
    """What a benchmark is run with: its options, an empty folder on the disk to measure, how much to do, and where it
    shows what it is doing."""

    options: argparse.Namespace
    folder: Path
    smoke: bool
    progress: Progress


class Benchmark(ABC):
    """A benchmark: `open` once, `round` as often as there are rounds, `close` always."""

    name: str
    summary: str

    @classmethod  # noqa: B027
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        """Add this benchmark's own options to the command line."""

    @classmethod
    @abstractmethod
    def cases(cls, options: argparse.Namespace) -> list[Case]:
        """Return what will be measured, in the order to show it."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup

    def open(self) -> None:  # noqa: B027
        """Prepare what all rounds share (also require_program for the peers). `close` follows, whatever happens."""

    @abstractmethod
    def round(self) -> dict[str, Sample]:
        """Measure every case and its peer once; return a sample for each case's name."""

    def close(self) -> None:  # noqa: B027
        """End what `open` began; the folder is deleted by the caller."""


@dataclass(frozen=True)
class Figure:
    """The result for one case: medians of its rounds."""

    benchmark: str
    case: Case
    samples: tuple[Sample, ...]

    @property
    def value(self) -> float:
        """Median of the values."""
        return statistics.median(sample.value for sample in self.samples)

    @property
    def peer_value(self) -> float | None:
        """Median of the peer's values, None without a peer."""
        values = [sample.peer_value for sample in self.samples if sample.peer_value is not None]
        return statistics.median(values) if values else None

    @property
    def ratio(self) -> float | None:
        """How many times better than the peer, None without a peer: the median of the rounds' ratios.

        A round's two values were taken in the same minute; those of different rounds are not comparable.
        """
        ratios = [ratio for sample in self.samples if (ratio := self._ratio(*sample)) is not None]
        return statistics.median(ratios) if ratios else None

    def _ratio(self, value: float, peer_value: float | None) -> float | None:
        if peer_value is None:
            return None
        better, worse = (peer_value, value) if self.case.lower_is_better else (value, peer_value)
        return better / worse if worse else None

    def meets(self, bound: float | None) -> bool | None:
        """Return whether the figure is at least as good as a floor or target; None when there is none."""
        if bound is None:
            return None
        if self.case.bounds_ratio:
            return self.ratio is not None and self.ratio >= bound
        return self.value <= bound if self.case.lower_is_better else self.value >= bound

    def as_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {
            "name": self.benchmark,
            "case": self.case.name,
            "value": self.value,
            "unit": self.case.unit,
            "peer": self.case.peer,
            "peer_value": self.peer_value,
            "ratio": self.ratio,
            "rounds": [
                {"value": s.value, "peer_value": s.peer_value, "ratio": self._ratio(*s)} for s in self.samples
            ],
        }


def measure(benchmark: Benchmark, rounds: int) -> list[Figure]:
    """Run a benchmark's rounds one after the other; return a figure for each of its cases."""
    cases = benchmark.cases(benchmark.setup.options)
    found = []
    try:
        benchmark.setup.progress.stage("preparing")
        benchmark.open()
        for number in range(rounds):
            benchmark.setup.progress.stage(f"round {number + 1} of {rounds}")
            found.append(benchmark.round())
    finally:
        benchmark.close()
    return [Figure(benchmark.name, case, tuple(samples[case.name] for samples in found)) for case in cases]


def missed(figures: Sequence[Figure]) -> list[Figure]:
    """Return the figures that are below their floor."""
    return [figure for figure in figures if figure.meets(figure.case.floor) is False]


def require_program(program: str, package: str) -> str:
    """Return the path of a peer's program. Raises MissingPeer, which names the Debian package."""
    path = shutil.which(program)
    if path is None:
        raise MissingPeer(
            f"{program} is not installed, so there is nothing to compare with", hint=f"apt install {package}"
        )
    return path
