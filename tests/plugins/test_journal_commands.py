"""`lastwrite journal ...` as a person at a shell uses it: no server, no catalog, a folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from journal.scan import SegmentScan
from journal.writer import JournalWriter
from plugins.cli.help import statuses_of
from plugins.cli.main import find, run
from plugins.cli.progress import Pace
from tests.journal.tap import Tap
from tests.journal.test_damage import DISK, flip

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folder = tmp_path / "web01"
    with JournalWriter.create(folder, "web01", segment_bytes=60_000) as writer:
        tap = Tap(writer, {0: DISK, 1: DISK})
        tap.protect()
        for number in range(12):
            tap.mono += 10**9
            tap.write(0, number % 4 * 8, bytes([number + 65]) * 4096)
        tap.cut("bookmark", "before-upgrade")
        tap.write(1, 0, b"u" * 512)
        writer.fork(9, "drill")
    return folder


def ask(capsys: Capture, *words: object) -> tuple[int, str, str]:
    """Status, stdout and stderr of one command line; the status stands in the command's help."""
    line = [str(word) for word in words]
    capsys.readouterr()
    status = run(line)
    printed = capsys.readouterr()
    assert status in [known for known, _ in statuses_of(find(line))]
    return status, printed.out, printed.err


def answer(capsys: Capture, *words: object) -> Any:
    status, out, _ = ask(capsys, *words, "--json")
    assert status in (0, 5)
    return json.loads(out)


def segments(folder: Path) -> list[Path]:
    return sorted((folder / "timelines/0001").glob("*.seg"))


def frames(path: Path) -> list[tuple[int, int]]:
    """(offset, end) of the frames with data of a segment."""
    scan = SegmentScan(path, int(path.stem))
    scan.extend()
    rows = scan.frames.array()
    return [(int(r["offset"]), int(r["data"] + r["data_bytes"])) for r in rows if r["data_bytes"]]


def hurt_data(path: Path) -> None:
    flip(path, frames(path)[-1][1] - 1)


def test_info_is_worth_reading(journal: Path, capsys: Capture) -> None:
    status, out, _ = ask(capsys, "journal", "info", journal)
    assert status == 0
    lines = out.splitlines()
    assert any(line.split() == ["VM", "web01"] for line in lines)
    history = next(line for line in lines if line.startswith("History "))
    assert "2023-11-14T22:13:20.001Z to 2023-11-14T22:13:32" in history and "(12.0 s)" in history
    assert any(line.startswith("Writing") and ("direct" in line or "buffered" in line) for line in lines)
    assert any("Damage" in line and "none known" in line for line in lines)
    assert "  └ 2 drill, forked at LSN 9" in out
    assert any(line.split()[:1] == ["exact"] and "14" in line.split() for line in lines)
    assert any(line.split()[:1] == ["before-upgrade"] for line in lines)
    assert any(line.split()[:2] == ["0", "vda"] for line in lines)
    assert "1700000000" not in out  # nobody can read nanoseconds
    told = answer(capsys, "journal", "info", journal)
    assert (
        told["timelines"][0]["first_time"] > 10**18 and told["timelines"][0]["ranges"][1]["kind"] == "exact"
    )


def test_info_tells_what_is_lost(journal: Path, capsys: Capture) -> None:
    (journal / "JOURNAL").unlink()
    segments(journal)[2].unlink()
    status, out, _ = ask(capsys, "journal", "info", journal)
    assert status == 0 and "Lost: the file JOURNAL is missing" in out and "damaged" in out
    assert "timelines/0001/" in out and "is missing or cut short" in out


def test_check_names_the_damage_and_ends_with_5(journal: Path, capsys: Capture) -> None:
    assert ask(capsys, "journal", "check", journal)[0] == 0
    hurt_data(segments(journal)[1])
    status, out, _ = ask(capsys, "journal", "check", journal)
    assert status == 5 and "the data does not match its checksum" in out and segments(journal)[1].name in out
    told = answer(capsys, "journal", "check", journal)
    assert not told["ok"] and len(told["damaged"]) == 1
    (journal / "JOURNAL").write_text(json.dumps({"format": 99}))
    status, _, err = ask(capsys, "journal", "check", journal)
    assert status == 7 and "99" in err
    assert ask(capsys, "journal", "check", journal.parent)[0] == 3


def test_rescue_refuses_then_does_what_it_can(journal: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "good"
    status, shown, _ = ask(capsys, "journal", "rescue", journal, "before-upgrade", out)
    assert status == 0 and "Every byte is that of the point." in shown
    assert (out / "vda.raw").read_bytes()[:4096] == b"I" * 4096 and (out / "vdb.raw").stat().st_size == DISK
    assert ask(capsys, "journal", "rescue", journal, "latest", out)[0] == 6  # it exists
    hurt = next(path for path in segments(journal) if b"I" * 4096 in path.read_bytes())
    flip(hurt, hurt.read_bytes().index(b"I" * 4096))
    status, _, err = ask(capsys, "journal", "rescue", journal, "latest", tmp_path / "b.raw", "--disk", "vda")
    assert status == 6 and "nearest good points: lsn:" in err and "--best-effort" in err
    assert not (tmp_path / "b.raw").exists()
    words = ("journal", "rescue", journal, "latest", tmp_path / "b.raw", "--disk", "vda", "--best-effort")
    status, shown, _ = ask(capsys, *words)
    assert status == 5 and "b.raw.damage.json list which" in shown
    listed = json.loads((tmp_path / "b.raw.damage.json").read_text())
    assert [(bad["offset"], bad["length"], bad["content"]) for bad in listed["damaged"]] == [
        (0, 4096, "zeros")
    ]
    assert ask(capsys, "journal", "rescue", journal, "nonsense", tmp_path / "c")[0] == 3
    assert ask(capsys, "journal", "rescue", journal, "cut:x", tmp_path / "c")[0] == 2
    assert ask(capsys, "journal", "rescue", journal, "latest", "/nowhere/at/all.raw")[0] == 4


def test_diff_counts_what_differs(journal: Path, capsys: Capture) -> None:
    told = answer(capsys, "journal", "diff", journal, "before-upgrade", "latest")
    assert [(d["name"], d["blocks"], d["bytes"]) for d in told["disks"]] == [("vda", 0, 0), ("vdb", 1, 4096)]
    told = answer(capsys, "journal", "diff", journal, "2/latest", "latest", "--disk", "vda")
    assert [(d["blocks"], len(d["extents"])) for d in told["disks"]] == [(4, 1)]
    status, out, _ = ask(capsys, "journal", "diff", journal, "before-upgrade", "2/9")
    assert status == 0 and "timeline 2, LSN 9" in out and "BLOCKS" in out
    assert ask(capsys, "journal", "diff", journal, "2/", "latest")[0] == 2
    assert ask(capsys, "journal", "diff", journal, "7/latest", "latest")[0] == 3
    assert ask(capsys, "journal", "diff", journal, "999", "latest")[0] == 6
    assert ask(capsys, "journal", "diff", journal, "9", "latest", "--disk", "sda")[0] == 3


def test_reindex_makes_the_caches_anew(journal: Path, capsys: Capture) -> None:
    told = answer(capsys, "journal", "reindex", journal)
    made = sorted((journal / "timelines/0001").glob("*.idx"))
    assert told["indexes"] == len(made) == len(segments(journal)) - 1
    kept = {path: path.read_bytes() for path in made}
    made[0].write_bytes(b"wrong")
    told = answer(capsys, "journal", "reindex", journal)
    assert told["deleted"] == len(made) and {path: path.read_bytes() for path in made} == kept
    hurt = segments(journal)[0]
    flip(hurt, frames(hurt)[0][0] + 20)
    assert answer(capsys, "journal", "reindex", journal)["left"] == [str(hurt)]


def test_ctrl_c_leaves_a_check_that_goes_on(journal: Path, tmp_path: Path) -> None:
    """A real process, a real signal: it comes while the tenth block is read, however slow or quick the machine is."""
    code = (
        "import itertools, os, signal, sys\n"
        "real, reads = os.pread, itertools.count(1)\n"
        "def interrupted(fd, n, at):\n"
        "    if next(reads) == 10: os.kill(os.getpid(), signal.SIGINT)\n"
        "    return real(fd, n, at)\n"
        "import journal.offline.check\n"
        "journal.offline.check.os = type(os)('os'); journal.offline.check.os.__dict__.update(os.__dict__)\n"
        "journal.offline.check.os.pread = interrupted\n"
        "from plugins.cli.main import run\n"
        "sys.exit(run(sys.argv[1:]))\n"
    )
    words = ("journal", "check", str(journal))
    environment = os.environ | {"XDG_STATE_HOME": str(tmp_path / "state")}
    stopped = subprocess.run([sys.executable, "-c", code, *words], env=environment,
                             capture_output=True, text=True, timeout=60)  # fmt: skip
    assert stopped.returncode == 130, stopped.stdout
    assert "Stopped at " in stopped.stderr and "goes on from there" in stopped.stderr
    (kept,) = (tmp_path / "state/lastwrite").iterdir()
    done = subprocess.run([sys.executable, "-m", "plugins.cli.main", *words, "--json"], env=environment,
                          capture_output=True, text=True, timeout=60, check=True)  # fmt: skip
    assert json.loads(done.stdout)["ok"] and not kept.exists()


def test_the_pace_counts_from_where_it_was_first_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    pace = Pace()
    assert pace.of("Reading", 500 << 20, 1000 << 20, "bytes") == ""  # read by the check before
    now[0] += 2
    assert pace.of("Reading", 600 << 20, 1000 << 20, "bytes") == ", 50.0 MiB/s, 8.0 s left"
    assert Pace(left=False).of("Reading", 1, 2, "bytes") == "" and pace.of("Steps", 1, 2, "items") == ""
