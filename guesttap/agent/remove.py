"""Taking the agent out: afterwards the machine is as it was before it was deployed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from guesttap.agent import unit
from guesttap.agent.settings import CONFIG_PATH, PROGRAM_PATH, Settings, parse
from guesttap.bpf.pins import Pins


def remove(settings: Settings | None, config: Path) -> list[str]:
    """Stop the service, detach the tap, delete every file of the agent; return in words what was done.

    What is not there any more is not an error. Service and program belong to the agent that `CONFIG_PATH`
    configures; one with another configuration is just detached, and its own files deleted.
    """
    deployed = config == CONFIG_PATH
    if settings is None and deployed:
        settings = parse(
            {"appliance": "none:1", "vm": "none", "ca": "none"}
        )  # all paths as deployment has them
    done = _remove_service() if deployed else []
    done += _remove_state(settings) if settings is not None else []
    for path in (config, PROGRAM_PATH) if deployed else (config,):
        if path.exists():
            path.unlink()
            _remove_if_empty(path.parent)
            done.append(f"{path} deleted")
    return done


def _remove_service() -> list[str]:
    if not unit.PATH.exists():
        return []
    _systemctl("disable", "--now", unit.NAME)
    unit.PATH.unlink()
    _systemctl("daemon-reload")
    return [f"service {unit.NAME} stopped and removed"]


def _remove_state(settings: Settings) -> list[str]:
    pins = Pins(settings.pin_dir)
    done = ["tap detached"] if pins.is_ready() else []
    pins.remove()
    for folder in (settings.state_dir, settings.run_dir):
        if folder.exists():
            shutil.rmtree(str(folder))
            done.append(f"{folder} deleted")
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
