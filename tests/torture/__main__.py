"""`python -m tests.torture [--seed N] [--kills N] [--short]`: try to break the journal; exit status 1 if it broke."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
import time
import traceback
from pathlib import Path

from tests.torture import places, trials


def main() -> int:
    """Run everything; print the seed first and a line about each kind of trial."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 32), help="repeat a run's choices")
    parser.add_argument("--kills", type=int, help="how many receivers to kill")
    parser.add_argument("--short", action="store_true", help="the form that `make test` runs")
    parser.add_argument(
        "--only", default="", help="only the kinds whose names begin like this: plain, kernel"
    )
    options = parser.parse_args()
    plan = trials.SHORT if options.short else trials.LONG
    plan = plan._replace(kills=options.kills or plan.kills)
    print(f"seed {options.seed}   (again: python -m tests.torture --seed {options.seed})", flush=True)
    for name in places.remove_leftovers():
        print(f"removed what a killed run left: {name}", flush=True)
    begin = time.monotonic()
    broken = 0
    with places.workplace(_fast_base()) as folder:
        for trial in _chosen(options.only, plan):
            try:
                print(trial.run(folder, options.seed).line(), flush=True)
            except Exception:
                print(f"{trial.kind}: BROKEN", flush=True)
                traceback.print_exc(file=sys.stdout)
                _print_logs(folder)
                broken += 1
    print(f"{'BROKEN' if broken else 'nothing broke'}: seed {options.seed}, {time.monotonic() - begin:.0f} s")
    return 1 if broken else 0


def _chosen(only: str, plan: trials.Plan) -> list[trials.Trial]:
    chosen = [trial for trial in trials.plain_trials(plan) if only in ("", "plain", trial.kind)]
    kernel = [trial for trial in trials.kernel_trials(plan) if only in ("", "kernel", trial.kind)]
    missing = trials.lacks() if kernel else []
    if missing and os.environ.get("CI"):
        raise SystemExit(f"the trials that need the kernel cannot run here: {'; '.join(missing)}")
    if missing:
        print(f"NOT RUN: power loss, full file systems: {'; '.join(missing)}", flush=True)
        return chosen
    return chosen + kernel


def _print_logs(folder: Path) -> None:
    """Print the ends of the logs of what was running."""
    for log in sorted(folder.rglob("*.log")):
        if log.name != "meta.log":
            print(f"--- the end of {log.name} of {log.parent.name}")
            print("\n".join(log.read_text(errors="replace").splitlines()[-25:]), flush=True)


def _fast_base() -> Path | None:
    """Return a folder in memory when it has room: the trials are about order and loss, not about a disk's speed."""
    shared = Path("/dev/shm")
    free = os.statvfs(shared).f_bavail * os.statvfs(shared).f_frsize if shared.is_dir() else 0
    return shared if free > 2 << 30 else None


if __name__ == "__main__":
    sys.exit(main())
