"""The table of the commands: which words lead to which function. Nothing is imported before it is chosen.

A new command is a new line here and a file beside this one; tests compare both with docs/commands.md.
"""

from __future__ import annotations

from typing import NamedTuple


class Command(NamedTuple):
    """`words` as they are typed; `module` and `function` that do it; the summary for the overview."""

    words: tuple[str, ...]
    module: str
    function: str
    summary: str

    @property
    def name(self) -> str:
        """The words with spaces between them."""
        return " ".join(self.words)


def _command(words: str, summary: str, function: str | None = None) -> Command:
    parts = tuple(words.split())
    return Command(parts, f"plugins.cli.{parts[0]}", function or parts[-1].replace("-", "_"), summary)


COMMANDS = (
    _command("serve", "Run the server: ingest, views and control, until it is told to end."),
    _command("hypervisor add", "Add a hypervisor by its address."),
    _command("hypervisor list", "List the hypervisors.", "list_all"),
    _command("hypervisor check", "Connect to a hypervisor and say what it can do."),
    _command("hypervisor remove", "Forget a hypervisor."),
    _command("vm list", "List the VMs on one hypervisor, or on all.", "list_vms"),
    _command("protect", "Protect a running VM: put a tap into it and copy its disks, with no reboot."),
    _command("unprotect", "End the protection of a VM and keep its journal."),
    _command("status", "Show how well VMs are protected right now."),
    _command("points", "Show which points of the past a VM can be recovered to."),
    _command("bookmark", "Give a name to a point: to this moment, or to one of the past."),
    _command("appshot", "Make an application-consistent point."),
    _command("recover", "Recover a VM at a point: to an image file, or booted on a hypervisor."),
    _command("journal info", "Show what a journal holds. Needs no server."),
    _command("journal check", "Read a whole journal and name everything that is damaged. Needs no server."),
    _command("doctor", "Check this machine and name what is missing."),
    _command("config check", "Check the configuration and show the settings that count."),
)

GROUPS = {
    "hypervisor": "Hypervisors that VMs are protected on and recovered to.",
    "vm": "VMs on the hypervisors.",
    "journal": "Journals, read directly from their folders.",
    "config": "The configuration.",
}
