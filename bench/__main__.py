"""`python -m bench NAME [--json] [--rounds N] [--smoke]`: run one benchmark and print its figures."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from bench.measure import Benchmark, Figure, Setup, measure, missed
from bench.progress import Progress
from bench.table import table_of
from lastwrite.errors import LastwriteError

BENCHMARKS = {
    "ingest": "bench.ingest:Ingest",
    "overhead": "bench.overhead:Overhead",
    "resolve": "bench.resolve:Resolve",
    "scaling": "bench.scaling:Scaling",
}
ROUNDS, SMOKE_ROUNDS = 5, 3
WIDTH = 130
SMOKE_ATTEMPTS = 3
"""A floor is missed when a whole interleaved measurement misses it so often: the machine may be busy."""


def load(name: str) -> type[Benchmark]:
    """Return the class of a benchmark."""
    module, _, attribute = BENCHMARKS[name].partition(":")
    found: type[Benchmark] = getattr(importlib.import_module(module), attribute)
    return found


def parse(arguments: list[str]) -> tuple[type[Benchmark], argparse.Namespace]:
    """Return the benchmark that is asked for and the options, with its own ones among them."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    names = parser.add_subparsers(dest="name", metavar="NAME", required=True)
    for name in BENCHMARKS:
        if name in arguments or not set(arguments) & set(BENCHMARKS):
            kind = load(name)
            _add_options(names.add_parser(name, help=kind.summary, description=kind.summary), kind)
    options = parser.parse_args(arguments)
    return load(options.name), options


def _add_options(parser: argparse.ArgumentParser, kind: type[Benchmark]) -> None:
    parser.add_argument("--json", action="store_true", help="print one object per line and measured thing")
    parser.add_argument("--rounds", type=_count, help=f"interleaved rounds (default {ROUNDS})")
    parser.add_argument("--smoke", action="store_true", help="a short run that fails below the floors")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="on the disk to be measured")
    kind.add_options(parser)


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def run(kind: type[Benchmark], options: argparse.Namespace) -> list[Figure]:
    """Measure; in a smoke run again while a floor is missed. Return for each case the figure that counts."""
    rounds = options.rounds or (SMOKE_ROUNDS if options.smoke else ROUNDS)
    found: dict[str, Figure] = {}
    for _ in range(SMOKE_ATTEMPTS if options.smoke else 1):
        with (
            tempfile.TemporaryDirectory(prefix="lastwrite-bench-", dir=options.folder) as folder,
            Progress(kind.name) as progress,
        ):
            figures = measure(kind(Setup(options, Path(folder), options.smoke, progress)), rounds)
        below = {figure.case.name for figure in missed(list(found.values()))}
        found |= {f.case.name: f for f in figures if f.case.name not in found or f.case.name in below}
        if not missed(list(found.values())):
            break
    return list(found.values())


def main(arguments: list[str]) -> int:
    """Run; return the exit status: 1 when a smoke run missed a floor in every attempt."""
    try:
        kind, options = parse(arguments)
        figures = run(kind, options)
    except LastwriteError as error:
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
        return error.exit_code
    _show(figures, as_json=options.json)
    below = [figure.case.name for figure in missed(figures)]
    if options.smoke and below:
        print(f"below the floor in {SMOKE_ATTEMPTS} attempts: {', '.join(below)}", file=sys.stderr)
        return 1
    return 0


def _show(figures: list[Figure], *, as_json: bool) -> None:
    if not as_json:
        Console(width=max(WIDTH, Console().width)).print(table_of(figures))
        return
    for figure in figures:
        print(json.dumps(figure.as_dict()), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
