"""`ingest`: 4 KiB writes in frames over TCP, verified, appended, fdatasync before the acknowledgement."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import NamedTuple

from bench.appliance import Appliance, Used
from bench.errors import BenchFailed
from bench.fio import PEER, require_fio, write_rate
from bench.measure import Benchmark, Case, Sample, Setup
from bench.stream import PAYLOAD_BYTES, WRITES_PER_FRAME, Stream
from bench.taps import Identity, Taps
from bench.worker import Worker
from guesttap.authority import Authority
from journal.reader import JournalReader
from lastwrite.ids import new_id

GIB, MB = float(1 << 30), 1e6
STREAMS = 100
FRAMES, SMOKE_FRAMES = 256, 64
"""What one measurement sends in all: 1 GiB, in a smoke run 256 MiB."""
BASE_MB, CONNECTION_MB = 200, 8


class Run(NamedTuple):
    """One measurement: payload bytes per second, the receiver's CPU seconds per GiB, its peak in bytes."""

    rate: float
    cpu: float
    peak: int


class Ingest(Benchmark):
    """Three ways to ingest, each beside its peer."""

    name = "ingest"
    summary = "frames over TCP into journals, durable before they are acknowledged"

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        """Choose a part; without any of these everything is measured."""
        parser.add_argument("--plain", action="store_true", help="only the cases without TLS")
        parser.add_argument("--tls", action="store_true", help="only the cases with TLS")
        parser.add_argument("--streams", type=int, metavar="N", help="only N connections, against one")

    @classmethod
    def cases(cls, options: argparse.Namespace) -> list[Case]:
        """Return the cases of the parts that are asked for."""
        plain, tls, streams = _parts(options)
        found: list[Case] = []
        if plain:
            found += [
                Case("4k-plain", "MB/s", PEER, 0.5, 0.8),
                Case("4k-writes", "writes/s", None, 150_000, 400_000),
                Case("cpu-plain", "CPU-s/GiB", None, 0.6, 0.25, True),
                Case("memory", "MB", None, *_bound(1), True),
            ]
        if tls:
            found += [
                Case("4k-tls", "MB/s", PEER, 0.3, 0.5),
                Case("cpu-tls", "CPU-s/GiB", None, 1.5, 0.85, True),
            ]
        if streams:
            found += [
                Case(f"streams-{streams}", "MB/s", "one-stream", 0.6, 0.9),
                Case(f"memory-{streams}", "MB", None, *_bound(streams), True),
            ]
        return found

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._frames = SMOKE_FRAMES if setup.smoke else FRAMES
        self._workers: list[Worker] = []

    def open(self) -> None:
        """Start both processes; the taps build their frames."""
        require_fio()
        pki = self.setup.folder / "pki"
        authority = Authority(pki)
        path = self.setup.folder / "tap.pem"
        path.touch(mode=0o600)
        path.write_text("".join(authority.issue(new_id())))
        self._identity = Identity(authority.ca_pem, str(path))
        self._taps = self._worker(Worker(Taps, self._frames))
        self._appliance = self._worker(Worker(Appliance, pki))
        for worker in self._workers:
            worker.answer()

    def _worker(self, worker: Worker) -> Worker:
        self._workers.append(worker)
        return worker

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.close()

    def round(self) -> dict[str, Sample]:
        """Measure what is asked for, fio before and after each."""
        plain, tls, streams = _parts(self.setup.options)
        found: dict[str, Sample] = {}
        before = self._fio() if plain or tls else 0.0
        if tls:
            run, after = self._run(1, tls=True), self._fio()
            found["4k-tls"] = Sample(run.rate / MB, (before + after) / 2 / MB)
            found["cpu-tls"] = Sample(run.cpu)
            before = after
        one = self._run(1, tls=False) if plain or streams else None
        if one and plain:
            found["4k-plain"] = Sample(one.rate / MB, (before + self._fio()) / 2 / MB)
            found["4k-writes"] = Sample(one.rate / PAYLOAD_BYTES * WRITES_PER_FRAME)
            found["cpu-plain"] = Sample(one.cpu)
            found["memory"] = Sample(one.peak / MB)
        if one and streams:
            many = self._run(streams, tls=False)
            found[f"streams-{streams}"] = Sample(many.rate / MB, one.rate / MB)
            found[f"memory-{streams}"] = Sample(many.peak / MB)
        return found

    def _fio(self) -> float:
        return write_rate(self.setup.folder, self._frames << 22)

    def _run(self, streams: int, *, tls: bool) -> Run:
        """Send the frames once over `streams` connections, each a part of them (at least three frames)."""
        folder = self.setup.folder / "journals"
        count = self._frames if streams == 1 else max(3, 2 * self._frames // streams)
        port = self._appliance.call("listen")
        self._appliance.ask("serve", folder, streams, tls)
        self._taps.ask("connect", port, streams, self._identity if tls else None)
        self._appliance.answer()
        self._taps.answer()
        self._appliance.call("begin")
        seconds = float(self._taps.call("send", count))
        used: Used = self._appliance.call("end")
        self._taps.call("hang_up")
        self._appliance.call("close")
        _check(folder, streams, count)
        shutil.rmtree(folder)
        sent = streams * count * PAYLOAD_BYTES
        return Run(sent / seconds, used.cpu / (sent / GIB), used.peak)


def _parts(options: argparse.Namespace) -> tuple[bool, bool, int | None]:
    if options.plain or options.tls or options.streams:
        return options.plain, options.tls, options.streams
    return True, True, STREAMS


def _bound(connections: int) -> tuple[float, float]:
    bound = float(BASE_MB + CONNECTION_MB * connections)
    return bound, bound


def _check(folder: Path, streams: int, count: int) -> None:
    due = Stream([], []).next_lsn(count)
    for number in range(streams):
        found = JournalReader(folder / f"{number:03}").next_lsn
        if found != due:
            raise BenchFailed(f"the journal of stream {number} ends at LSN {found}, acknowledged was {due}")
