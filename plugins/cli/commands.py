"""The table of the commands: which words lead to which function. Nothing is imported before it is chosen.

A new command is a new line here and a file beside this one; tests compare both with docs/commands.md.
"""

from __future__ import annotations

from typing import NamedTuple


class Command(NamedTuple):
    """`words` as they are typed; `module` and `function` that do it; the summary for the overview.

    `ends`: exit statuses of the error tree that it can end with, besides those that every command can.
    """

    words: tuple[str, ...]
    module: str
    function: str
    summary: str
    ends: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """The words with spaces between them."""
        return " ".join(self.words)


def _command(words: str, summary: str, *ends: int, function: str | None = None) -> Command:
    parts = tuple(words.split())
    name = function or parts[-1].replace("-", "_")
    return Command(parts, f"plugins.cli.{parts[0]}", name, summary, ends)


COMMANDS = (
    _command("serve", "Run the server: ingest, views and control, until it is told to end.", 4, 5, 6),
    _command("hypervisor add", "Add a hypervisor by its address.", 4, 5, 6, 7),
    _command("hypervisor list", "List the hypervisors.", 4, 5, function="list_all"),
    _command("hypervisor check", "Connect to a hypervisor and say what it can do.", 3, 4, 5, 7),
    _command("hypervisor remove", "Forget a hypervisor.", 3, 4, 5, 6),
    _command("vm list", "List the VMs on one hypervisor, or on all.", 3, 4, 5, 7, function="list_vms"),
    _command("protect", "Protect a running VM: put a tap into it and copy its disks, with no reboot.", 3, 4, 5, 6, 7),
    _command("unprotect", "End the protection of a VM and keep its journal.", 3, 4, 5, 6, 7),
    _command("status", "Show how well VMs are protected right now.", 3, 4, 5),
    _command("points", "Show which points of the past a VM can be recovered to.", 3, 4, 5, 7),
    _command("bookmark", "Give a name to a point: to this moment, or to one of the past.", 3, 4, 5, 6, 7),
    _command("appshot", "Make an application-consistent point.", 3, 4, 5, 6, 7),
    _command("recover", "Recover a VM at a point: to an image file, or booted on a hypervisor.", 3, 4, 5, 6, 7),
    _command("journal info", "Show what a journal holds. Needs no server.", 3, 4, 5, 7),
    _command("journal check", "Read a whole journal and name everything that is damaged. Needs no server.", 3, 4, 5, 7),
    _command("journal rescue", "Restore disks from a journal, damaged or not, to raw images. Needs no server.",
             3, 4, 5, 6, 7),
    _command("journal diff", "Show how much differs between two points of a journal. Needs no server.", 3, 4, 5, 6, 7),
    _command("journal reindex", "Delete the caches of a journal and make them anew. Needs no server.", 3, 4, 5, 7),
    _command("retention show", "Show what is promised of a journal's history, and the forecast.", 3, 4, 5, 7),
    _command("retention set", "Change the promise of one journal; what is not named stays as it is.", 3, 4, 5, 6, 7),
    _command("retention run", "Bring a journal to what is promised now.", 3, 4, 5, 6, 7),
    _command("retention hold", "Keep a point whatever the promise says, until it is released.", 3, 4, 5, 6, 7),
    _command("retention release", "Give a pin up: the point goes when the promise says so.", 3, 4, 5, 6, 7),
    _command("retention prune", "Give up a whole timeline, such as that of a test.", 3, 4, 5, 6, 7),
    _command("doctor", "Check this machine and name what is missing.", 4),
    _command("config check", "Check the configuration and show the settings that count."),
)  # fmt: skip

GROUPS = {
    "hypervisor": "Hypervisors that VMs are protected on and recovered to.",
    "vm": "VMs on the hypervisors.",
    "journal": "Journals, read directly from their folders.",
    "retention": "Which history is kept: the promise of each journal.",
    "config": "The configuration.",
}
