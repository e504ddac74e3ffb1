"""Taking the agent out: afterwards the machine is as it was before it was deployed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from guesttap.agent import unit
from guesttap.agent.settings import PROGRAM_PATH, Settings
from guesttap.bpf.pins import Pins


def remove(
    settings: Settings, config: Path, *, unit_path: Path = unit.PATH, program: Path = PROGRAM_PATH
) -> list[str]:
    """Stop the service, detach the tap, delete every file of the agent; return in words what was done.

    What is not there any more is not an error.
    """
    done = []
    if unit_path.exists():
        _systemctl("disable", "--now", unit.NAME)
        unit_path.unlink()
        _systemctl("daemon-reload")
        done.append(f"service {unit.NAME} stopped and removed")
    pins = Pins(settings.pin_dir)
    if pins.is_ready():
        done.append("tap detached")
    pins.remove()
    for folder in (settings.state_dir, settings.run_dir):
        if folder.exists():
            shutil.rmtree(str(folder))
            done.append(f"{folder} deleted")
    for path in (config, program):
        if path.exists():
            path.unlink()
            _remove_if_empty(path.parent)
            done.append(f"{path} deleted")
    return done


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        pass  # the administrator's own hooks lie there


def _systemctl(*words: str) -> None:
    subprocess.run(
        ["systemctl", *words], check=False, timeout=60, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
