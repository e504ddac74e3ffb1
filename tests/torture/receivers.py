"""Receivers that start in a moment, with fail points armed, and the appliance that they serve.

A zygote process has everything imported and forks one receiver for each order; what the fork runs is the whole
`python -m guesttap.receiver`. The only thing that is not as in production: segments are sealed when they are small.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

from lastwrite.catalog import VmRow
from tests.receiver.conftest import Appliance
from tests.torture.tap import TortureTap

SEGMENT_BYTES = 512 << 10

ZYGOTE = f"""
import ctypes, os, sys
from guesttap.receiver.__main__ import main
from journal.writer import JournalWriter
from lastwrite import failpoints
JournalWriter.open.__func__.__kwdefaults__["segment_bytes"] = {SEGMENT_BYTES}
END_WITH_PARENT = (1, 9)  # prctl: SIGKILL when the parent is gone
ctypes.CDLL(None).prctl(*END_WITH_PARENT)
for line in sys.stdin:
    config, points = line.rstrip("\\n").split("\\t")
    pid = os.fork()
    if pid == 0:
        ctypes.CDLL(None).prctl(*END_WITH_PARENT)
        failpoints.arm(points)
        sys.exit(main(["--config", config]))
    print(pid, flush=True)
    print(os.waitpid(pid, 0)[1], flush=True)
"""


class Receivers:
    """Starts and kills receivers of one appliance. One runs at a time."""

    def __init__(self, folder: Path) -> None:
        self.appliance = Appliance(folder)
        self._log = self.appliance.log.open("ab")
        command = [sys.executable, "-c", ZYGOTE]
        self._zygote = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            bufsize=0,  # ended() asks the pipe itself
        )
        self.pid = 0
        self._count = 0

    def start(self, points: str = "") -> bool:
        """Start a receiver with fail points armed; False when one of them ended it before it listened."""
        assert self._zygote.stdin is not None
        self._zygote.stdin.write(f"{self.appliance.config}\t{points}\n".encode())
        self._zygote.stdin.flush()
        self.pid = int(self._answers.readline())
        try:
            self.appliance.await_answer(lambda: not self.ended(0))
        except AssertionError:
            if not self.ended(0):
                raise
            return False
        return True

    @property
    def _answers(self) -> IO[bytes]:
        assert self._zygote.stdout is not None
        return self._zygote.stdout

    def ended(self, seconds: float) -> bool:
        """Return whether the receiver has ended, waiting so long for it."""
        return bool(select.select([self._answers], [], [], seconds)[0])

    def kill(self) -> bool:
        """End the receiver with SIGKILL, if a fail point has not done so; return whether one had."""
        by_itself = self.ended(0)
        if not by_itself:
            try:
                os.kill(self.pid, signal.SIGKILL)
            except ProcessLookupError:  # just now
                by_itself = True
        status = int(self._answers.readline())
        assert status == signal.SIGKILL, f"the receiver ended with {status}\n{self.appliance.log.read_text()}"
        self.pid = 0
        return by_itself

    def stop(self) -> None:
        """End the receiver as an administrator does, and see that it ends well."""
        os.kill(self.pid, signal.SIGTERM)
        assert self.ended(30), "the receiver does not end"
        assert int(self._answers.readline()) == 0, self.appliance.log.read_text()
        self.pid = 0

    def new_vm(self, journal: Path | None = None) -> VmRow:
        """Put a VM with an empty journal into the catalog."""
        self._count += 1
        return self.appliance.add_vm(f"vm-{self._count}", journal)

    def forget(self, vm: VmRow) -> None:
        """Delete a journal that is done with: a receiver that starts looks at each."""
        shutil.rmtree(vm.journal)

    def new_tap(self, vm: VmRow, seed: int) -> TortureTap:
        """Enrol a tap of a VM. A receiver must run."""
        double = self.appliance.new_tap(vm)
        return TortureTap(self.appliance.address, double.tls, seed, double.instance)

    def close(self) -> None:
        """End everything."""
        if self.pid:
            self.kill()
        assert self._zygote.stdin is not None
        self._zygote.stdin.close()
        self._zygote.wait(10)
        self._answers.close()
        self._log.close()
        self.appliance.close()


def until(seconds: float) -> float:
    """Return the time (time.monotonic()) so many seconds from now."""
    return time.monotonic() + seconds
