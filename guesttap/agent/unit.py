"""The systemd unit of the agent."""

from __future__ import annotations

from pathlib import Path

NAME = "lastwrite-agent.service"
PATH = Path("/etc/systemd/system") / NAME
EXIT_DORMANT = 77
"""The agent's exit status when the appliance wants nothing from it: systemd leaves it ended until the next boot."""

_TEXT = """\
[Unit]
Description=Lastwrite data tap
Wants=network-online.target
After=network-online.target local-fs.target
StartLimitIntervalSec=0

[Service]
ExecStart={python} {program} run --config {config}
Restart=always
RestartSec=1
# Dormant; wrong configuration, token refused, machine unfit: asking again would bring nothing.
RestartPreventExitStatus={dormant} 2 6 7
SuccessExitStatus={dormant}
# The tap stays in the kernel and goes on capturing; a thaw watchdog outlives the agent.
KillMode=process
TimeoutStopSec=15
WatchdogSec=120
NotifyAccess=main
LimitMEMLOCK=infinity
OOMScoreAdjust=-900
Nice=-10

[Install]
WantedBy=multi-user.target
"""


def text(program: Path, config: Path, python: str = "/usr/bin/python3") -> str:
    """Return the unit that runs the zipapp `program`."""
    return _TEXT.format(python=python, program=program, config=config, dormant=EXIT_DORMANT)
