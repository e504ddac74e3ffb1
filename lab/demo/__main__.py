"""`python -m lab.demo`: the whole job on this machine, told as it goes."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path

from rich.console import Console

from lab import accel
from lab.demo import report, stage
from lab.demo.story import DemoError, Facts, Story
from lastwrite.errors import LastwriteError


def main() -> int:
    """Play the demo and write its report; exit status 0 when every promise came true."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("demo-out"), help="where the report goes (default: demo-out)"
    )
    parser.add_argument(
        "--keep", action="store_true", help="leave hosts, guests and the server's folder for a look"
    )
    wanted = parser.parse_args()
    console = Console()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    wanted.out.mkdir(exist_ok=True)
    began = time.monotonic()
    try:
        console.rule("[bold]The stage: two libvirt hosts and a Debian guest", align="left")
        with stage.built(wanted.keep) as built:
            staged = time.monotonic() - began
            facts = _play(built, wanted.out, console)
            facts.seconds = {"The stage: hosts and guest": staged, **facts.seconds}
    except (DemoError, LastwriteError) as error:
        console.print(f"[bold red]The demo failed:[/] {error}", highlight=False)
        return 1
    except KeyboardInterrupt:
        console.print("interrupted: everything that the demo started has been ended")
        return 130
    facts.seconds["all of it"] = time.monotonic() - began
    page = report.write(facts, wanted.out)
    console.print(f"\nDone in {facts.seconds['all of it']:.0f} s. The report: [bold]{page}")
    return 0


def _play(built: stage.Stage, out: Path, console: Console) -> Facts:
    story = Story(built, out, console)
    story.facts.accelerator = accel.choose().name
    return story.play()


if __name__ == "__main__":
    sys.exit(main())
