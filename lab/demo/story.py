"""The story, act by act. Each act does one real thing, tells it, and leaves its figures in `Facts`."""

from __future__ import annotations

import datetime as dt
import json
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from guesttap.agent.unit import EXIT_DORMANT
from lab.demo.stage import COPY, VM, Stage
from lab.guests import Guest
from lab.inspect import Inspection, inspect
from lab.run import run, wait_until
from lab.truth import Commit, Verdict, judge, parse_commits

CHECK = ["/usr/bin/python3", "/usr/local/lib/lwdemo/check.py"]
FILES = ["/usr/bin/python3", "/usr/local/lib/lwdemo/files.py"]
APPSHOT = "before-upgrade"
DORMANT = str(EXIT_DORMANT)
SHOW = """{
    printf '\\033c%s  %s\\n\\n$ uptime\\n' "$(hostname)" "$(date -u '+%F %T UTC')"; uptime
    printf '\\n$ sqlite3 rows.db "SELECT count(*), max(n) FROM rows"\\n'
    sqlite3 -cmd '.timeout 5000' /var/lib/lwdemo/rows.db 'SELECT count(*), max(n) FROM rows' 2>&1
    printf '\\n$ sha256sum -c MANIFEST.sha256\\n'; cd /srv/files; sha256sum -c MANIFEST.sha256 2>/dev/null | tail -n 12
} >/dev/tty1; sleep 1"""


class DemoError(Exception):
    """Something that the demo promises did not come true."""


@dataclass
class Facts:
    """What was measured and seen, for the report. Times are ns of the guest's wall clock, durations seconds."""

    seconds: dict[str, float] = field(default_factory=dict)
    events: list[tuple[int, str, str]] = field(default_factory=list)
    commits: list[Commit] = field(default_factory=list)
    instant: int = 0
    damaged: dict[str, Any] = field(default_factory=dict)
    recovered: Verdict | None = None
    recovered_files: dict[str, Any] = field(default_factory=dict)
    instant_image: Inspection | None = None
    appshot: dict[str, Any] = field(default_factory=dict)
    appshot_image: Inspection | None = None
    appshot_rows: Verdict | None = None
    rpo_ms: list[float] = field(default_factory=list)
    status: dict[str, Any] = field(default_factory=dict)
    recovery: dict[str, Any] = field(default_factory=dict)
    accelerator: str = ""


class Story:
    """Plays the acts on a stage."""

    def __init__(self, stage: Stage, out: Path, console: Console) -> None:
        self.stage, self.out, self.console = stage, out, console
        self.facts = Facts()

    def play(self) -> Facts:
        """Play every act in order; raises DemoError when a promise is broken."""
        acts: list[Callable[[], None]] = [
            self.workload,
            self.appliance,
            self.protect,
            self.appshot,
            self.damage,
            self.recover,
            self.verify,
            self.dormant,
            self.recover_appshot,
        ]
        for act in acts:
            self.console.rule(f"[bold]{title(act)}", align="left")
            with self.timed(title(act)):
                act()
        return self.facts

    def workload(self) -> None:
        """A database at work on host source."""
        agent = self.stage.guest.agent
        agent.check([*FILES, "write"])
        agent.check(["systemctl", "start", "lwdemo-db"])
        self.say(
            "web01 commits a row with a time and a checksum about five times a second, and keeps twenty letters."
        )

    def appliance(self) -> None:
        """The appliance, which is told about both hosts."""
        appliance = self.stage.appliance
        appliance.start()
        self.command("hypervisor", "add", "source", self.stage.source.uri)
        self.command("hypervisor", "add", "target", self.stage.target.uri)
        self.command("vm", "list")

    def protect(self) -> None:
        """web01 is protected while it runs: no reboot, no kernel module."""
        self.event("protect", "protect")
        self.command("protect", VM)
        self.event("Protected", "good")
        self.command("status")
        self.watch(5)

    def appshot(self) -> None:
        """An AppShot: quiesce, freeze, mark, thaw."""
        self.facts.appshot = self.stage.appliance.json("appshot", VM, APPSHOT)
        self.facts.events.append((int(self.facts.appshot["wall"]), f"AppShot {APPSHOT}", "good"))
        shot = self.facts.appshot
        frozen_ms = (shot["frozen"] or 0) / 1e6
        self.say(
            f"AppShot “{APPSHOT}”: consistency {shot['consistency']}, file systems frozen {frozen_ms:.0f} ms."
        )
        self.expect(shot["consistency"] == "app", "the AppShot is application-consistent", shot)
        self.watch(6)

    def damage(self) -> None:
        """The damage: somebody drops the table and overwrites the files."""
        agent = self.stage.guest.agent
        script = (
            "date +%s%N; sqlite3 -cmd '.timeout 5000' /var/lib/lwdemo/rows.db 'DROP TABLE rows' && "
            "python3 /usr/local/lib/lwdemo/files.py overwrite && sync"
        )
        self.facts.instant = int(agent.check(script).split()[0])
        self.event("DROP TABLE rows", "bad", self.facts.instant)
        self.facts.commits = parse_commits(agent.read_file("/run/lwdemo/commits").decode())
        self.facts.damaged = json.loads(agent.exec([*CHECK]).out) | {
            "files": json.loads(agent.exec([*FILES, "verify"]).out)
        }
        self.expect(self.facts.damaged["integrity"] != "ok", "the table is gone", self.facts.damaged)
        self.say(f"At {clock(self.facts.instant)} the table went. Now: {self.facts.damaged['integrity']};")
        self.say(f"{len(self.facts.damaged['files']['changed'])} of 20 letters are noise.")
        self.screenshot(self.stage.guest, "damaged.png")
        time.sleep(2)
        self.facts.status = self.stage.appliance.json("status", VM)

    def recover(self) -> None:
        """One command: the instant before, booted on host target."""
        began = time.monotonic()
        point = f"{VM}@{iso(self.facts.instant)}"
        self.command("recover", point, "--boot", "target", "--name", COPY, "--no-pull")
        self.facts.seconds["command to answering VM"] = time.monotonic() - began
        self.event("recovered copy answers", "good", time.time_ns())

    def verify(self) -> None:
        """Is everything there? The database's check, the files, the file system's check."""
        agent = self.stage.copy.agent
        found = json.loads(agent.exec([*CHECK]).out)
        self.facts.recovered = judge(found, self.facts.commits, self.facts.instant)
        self.facts.recovered_files = json.loads(agent.exec([*FILES, "verify"]).out)
        self.screenshot(self.stage.copy, "recovered.png")
        verdict = self.facts.recovered
        self.say(
            f"{verdict.found} rows of {verdict.expected} committed before the instant, {verdict.in_flight} in flight."
        )
        self.expect(
            verdict.good, "every row committed before the instant is there, and none from after", verdict
        )
        self.expect(
            self.facts.recovered_files["ok"] == 20,
            "all twenty letters are as they were",
            self.facts.recovered_files,
        )
        raw = self.stage.folder / "instant.raw"
        self.command("recover", f"{VM}@{iso(self.facts.instant)}", "--to", str(raw))
        self.facts.instant_image = inspect(raw, scratch=self.stage.folder)
        self.expect(
            self.facts.instant_image.fsck == "clean",
            "the file system's own check is clean",
            self.facts.instant_image,
        )

    def dormant(self) -> None:
        """The copy carries the tap too: it must stay dormant."""
        agent = self.stage.copy.agent
        ended = "systemctl show -p ExecMainStatus --value lastwrite-agent"
        wait_until(
            "the copy's agent ends", lambda: agent.exec(ended).out.strip() == DORMANT, timeout_s=90, every_s=1
        )
        self.expect(agent.exec("ls /sys/fs/bpf/lastwrite").rc != 0, "no tap is attached in the copy", "pins")
        now = self.stage.appliance.json("status", VM)
        self.say(f"The copy's tap is dormant; {VM} itself goes on: {one_vm(now)['state']}.")

    def recover_appshot(self) -> None:
        """The AppShot too, as a qcow2 file."""
        image = self.out / "web01-before-upgrade.qcow2"
        image.unlink(missing_ok=True)
        self.command("recover", f"{VM}@app:{APPSHOT}", "--to", str(image))
        run(["qemu-img", "check", image], timeout_s=60)
        raw = self.stage.folder / "appshot.raw"
        run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, raw], timeout_s=120)
        self.facts.appshot_image = found = inspect(raw, scratch=self.stage.folder)
        self.facts.appshot_rows = judge(found.database, self.facts.commits, int(self.facts.appshot["wall"]))
        self.expect(found.fsck == "clean", "the AppShot's file system is clean", found.fsck)
        self.expect(
            self.facts.appshot_rows.good,
            "the AppShot holds exactly the rows before it",
            self.facts.appshot_rows,
        )
        image.unlink()
        self.say("(The qcow2 file was only for the demo, and is deleted again.)")

    def watch(self, seconds: float) -> None:
        """Let the VM work, and note its RPO about twice a second."""
        with self.console.status(f"web01 works on for {seconds:.0f} s, its RPO is measured …"):
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                rpo = one_vm(self.stage.appliance.json("status", VM)).get("rpo_ms")
                if rpo is not None:
                    self.facts.rpo_ms.append(float(rpo))
                time.sleep(0.3)
        if self.facts.rpo_ms:
            self.say(
                f"RPO so far: at most {max(self.facts.rpo_ms):.0f} ms in {len(self.facts.rpo_ms)} measurements."
            )

    def command(self, *words: str) -> None:
        """Show a command as a user would type it, and run it."""
        self.console.print(Text(f"$ lastwrite {shlex.join(words)}", "bold cyan"), soft_wrap=True)
        self.stage.appliance.show(*words)

    def screenshot(self, guest: Guest, name: str) -> None:
        """Let a guest show what it holds on its console, and keep that as a PNG in the output folder."""
        guest.check(SHOW, timeout_s=60)
        (self.out / name).write_bytes(guest.screenshot())

    def say(self, text: str) -> None:
        """Tell something."""
        self.console.print(f"  {text}", highlight=False, soft_wrap=True)

    def expect(self, true: bool, promise: str, seen: object) -> None:
        """Check one promise, and show it."""
        if not true:
            raise DemoError(f"broken promise: {promise}; seen: {seen}")
        self.console.print(f"  [green]✔[/] {promise}", highlight=False, soft_wrap=True)

    def event(self, text: str, kind: str, wall: int | None = None) -> None:
        """Put an event on the timeline (wall: ns, guest's clock; now when not given)."""
        self.facts.events.append((wall or time.time_ns(), text, kind))

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Note how long a block takes."""
        began = time.monotonic()
        yield
        self.facts.seconds[name] = time.monotonic() - began


def title(act: Callable[[], None]) -> str:
    """Return an act's title: its first line."""
    return (act.__doc__ or "").splitlines()[0].rstrip(".")


def one_vm(status: Any) -> dict[str, Any]:
    """Return the one VM's entry of `lastwrite status --json`."""
    entry: dict[str, Any] = status["vms"][0]
    return entry


def iso(wall: int) -> str:
    """Return a wall time (ns) as `recover` takes it, to the microsecond."""
    moment = dt.datetime.fromtimestamp(wall // 10**9, dt.UTC).replace(microsecond=wall // 1000 % 10**6)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def clock(wall: int) -> str:
    """Return a wall time (ns) as a person reads it."""
    return iso(wall)[11:23] + " UTC"
