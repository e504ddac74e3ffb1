"""Upkeep, forks and pruning die at each of their fail points, while a tap streams; what is promised must be kept."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import IO, Any

from journal import pins
from journal.offline.check import check
from journal.reader import JournalReader
from lastwrite.catalog import VmRow
from tests.torture import verify
from tests.torture.kills import points_in
from tests.torture.receivers import Receivers, until
from tests.torture.tap import TortureTap

SOURCES = ("thin", "netfile", "timelines", "run", "collect")
UPKEEP_POINTS_ELSEWHERE = ("meta-half", "meta-written", "meta-synced")
ROUNDS_PER_JOURNAL = 9

WORKER = """
import ctypes, json, os, sys, time
from pathlib import Path
from journal.errors import JournalBusy
from journal.retention.policy import Policy, Tier
from journal.retention.timelines import prune_timeline
from journal.upkeep import upkeep
from journal.writer import JournalWriter
from lastwrite import failpoints
def opened(folder):  # as soon as the receiver has closed it, whose tap went away
    for _ in range(300):
        try:
            return JournalWriter.open(folder)
        except JournalBusy:
            time.sleep(0.1)
    return JournalWriter.open(folder)
def work(order):
    folder = Path(order["folder"])
    if order["do"] == "upkeep":
        tiers = tuple(Tier(*tier) for tier in order["tiers"])
        done = upkeep(folder, order["now"], default=Policy(every_write=0, tiers=tiers, floor=0), vouched=True)
        assert not done.problems, done.problems
        print(json.dumps(len(done.retention.done)), flush=True)
    elif order["do"] == "fork":
        with opened(folder) as writer:
            print(json.dumps(writer.fork(order["lsn"], order["name"])), flush=True)
    else:
        prune_timeline(folder, order["timeline"])
        print(json.dumps(True), flush=True)
ctypes.CDLL(None).prctl(1, 9)  # SIGKILL when the parent is gone
for line in sys.stdin:
    order = json.loads(line)
    pid = os.fork()
    if pid == 0:
        failpoints.arm(order["points"])
        work(order)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    print(json.dumps({"status": status}), flush=True)
"""


class Worker:
    """Does things to journals in processes that may die."""

    def __init__(self, log: IO[bytes]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )

    def do(self, points: str = "", **order: Any) -> Any:
        """Have something done; return its result, None when a fail point ended it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({**order, "points": points}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if not isinstance(answer, dict):
            status, result = json.loads(self._process.stdout.readline())["status"], answer
        else:
            status, result = answer["status"], None
        verify.require(status in (0, signal.SIGKILL), f"{order['do']} ended with {status}: see the log")
        return result if status == 0 else None

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()


class RetentionTrial:
    """Journals that grow, and are thinned by processes that die."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.chance = chance
        self.receivers = Receivers(folder)
        self.seen: Counter[str] = Counter()
        self._log = (folder / "worker.log").open("ab")
        self.worker = Worker(self._log)
        names = points_in(*(f"journal/retention/{name}.py" for name in SOURCES))
        self._points = [*(n for n in names if n != "timeline-pruned"), *UPKEEP_POINTS_ELSEWHERE]

    def run(self, rounds: int) -> None:
        """Let upkeep die so often."""
        try:
            self.receivers.start()
            for first in range(0, rounds, ROUNDS_PER_JOURNAL):
                self._one_journal(range(first, min(rounds, first + ROUNDS_PER_JOURNAL)))
        finally:
            self.receivers.close()
            self.worker.close()
            self._log.close()

    def _one_journal(self, rounds: range) -> None:
        vm = self.receivers.new_vm()
        folder = Path(vm.journal)
        tap = self.receivers.new_tap(vm, self.chance.getrandbits(32))
        needed: set[int] = set()
        for number in rounds:
            self._stream(tap, 250)
            needed.add(self._need(vm, folder, tap))
            self._die(folder, tap, self._points[number % len(self._points)], needed)
            self._thin(folder, tap, needed)
        tap.close()
        self._fork_and_prune(vm, folder, tap, needed)

    def _stream(self, tap: TortureTap, steps: int) -> None:
        if tap.channel is None:
            tap.hello()
            tap.follow()
        deadline = until(30)
        for _ in range(steps):
            tap.step()
        while tap.valid_from is None:
            verify.require(time.monotonic() < deadline, "the sync does not end")
            tap.step()
        tap.settle()

    def _need(self, vm: VmRow, folder: Path, tap: TortureTap) -> int:
        """Have a point kept: by a name or by a pin."""
        reader = JournalReader(folder)
        history = reader.lineage().history
        points = [p for p in verify.samples(self.chance, tap.truth, tap.acked_lsn, 6) if history.is_point(p)]
        lsn = self.chance.choice(points)
        if self.chance.random() < 0.5:
            pins.pin(folder, 1, lsn, reason="torture", holder="torture")
        else:
            self.receivers.appliance.client.bookmark(vm.id, lsn, f"at-{lsn}-{self.chance.getrandbits(30)}")
        return lsn

    def _order(self, folder: Path) -> dict[str, Any]:
        everything = {"tiers": [], "now": 1 << 62}
        some = {"tiers": [[200_000_000, 3600_000_000_000]], "now": time.time_ns()}
        return {"do": "upkeep", "folder": str(folder)} | self.chance.choice((everything, some))

    def _die(self, folder: Path, tap: TortureTap, name: str, needed: set[int]) -> None:
        spec = f"{name}:{self.chance.choice((1, 1, 2))}"
        died = self.worker.do(spec, **self._order(folder)) is None
        self.seen[f"killed at {name}" if died else "not killed"] += 1
        self._look(folder, tap, needed, f"after {spec}")

    def _thin(self, folder: Path, tap: TortureTap, needed: set[int]) -> None:
        self._stream(tap, 30)
        self.seen["net segments made"] += self.worker.do(**self._order(folder))
        tap.settle()
        self._look(folder, tap, needed, "after the next upkeep")

    def _look(self, folder: Path, tap: TortureTap, needed: set[int], when: str) -> None:
        try:
            reader = verify.opened(folder, tap.acked_lsn)
            history = reader.lineage().history
            for lsn in {tap.acked_lsn - 1, *needed}:
                verify.require(
                    history.is_point(lsn), f"needed, and no point any more: {history.refusal(lsn)}"
                )
            for lsn in {*needed, *verify.samples(self.chance, tap.truth, tap.acked_lsn, 4)}:
                if history.is_point(lsn):
                    verify.served(reader, tap.truth, lsn)
                    self.seen["points compared"] += 1
                else:
                    verify.require(
                        not history.thinned.allows(lsn), f"LSN {lsn} is refused and was not thinned"
                    )
            verify.require_clean(check(folder))
        except verify.Lost as lost:
            raise verify.Lost(f"{when}: {lost}") from lost

    def _fork_and_prune(self, vm: VmRow, folder: Path, tap: TortureTap, needed: set[int]) -> None:
        """The receiver lets the journal go; a fork and its end die half-way."""
        deadline = until(20)
        while self.receivers.appliance.status(vm)["connected"]:
            verify.require(time.monotonic() < deadline, "the session does not end")
            time.sleep(0.02)
        fork: dict[str, Any] = {"do": "fork", "folder": str(folder), "lsn": tap.acked_lsn - 1}
        for name in ("fork-folder", "meta-half", "meta-synced"):
            self.worker.do(name, **fork, name=f"dies at {name}")
            self.seen[f"killed at {name}"] += 1
            self._look(folder, tap, needed, f"after a fork that died at {name}")
        number = self.worker.do(**fork, name="lives")
        verify.served(JournalReader(folder), tap.truth, tap.acked_lsn - 1)
        self.worker.do("timeline-pruned", do="prune", folder=str(folder), timeline=number)
        self.seen["killed at timeline-pruned"] += 1
        self._look(folder, tap, needed, "after a prune that died")
        numbers = [line.number for line in JournalReader(folder).timelines()]
        verify.require(number not in numbers, f"timeline {number} was given up, and is there: {numbers}")
        self._thin(folder, tap, needed) if tap.channel else self.worker.do(**self._order(folder))
        verify.require(not (folder / f"timelines/{number:04d}").exists(), "its files stay for ever")
        self._look(folder, tap, needed, "after it was cleaned up")
        self.receivers.forget(vm)
