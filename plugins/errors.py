"""What can go wrong in the command line and the server themselves."""

from __future__ import annotations

from lastwrite.errors import NotFoundError, RefusedError, UnavailableError, UsageError


class UnknownCommandError(UsageError):
    """There is no such command."""

    code = "unknown-command"
    hint = "`lastwrite --help` lists the commands."


class CommandLineError(UsageError):
    """An option or an argument of a command is missing, unknown or has a wrong form."""

    code = "command-line"


class NoServerError(UnavailableError):
    """No server answers on the control socket."""

    code = "no-server"
    hint = "Start it with `lastwrite serve`, or name its state directory with --state."


class ServerLostError(UnavailableError):
    """The server stopped answering in the middle of an operation."""

    code = "server-lost"
    hint = (
        "See what came of it with `lastwrite status`; the server's logs are in `logs` in its state directory."
    )


class ServerRunningError(RefusedError):
    """Another server works on the same state directory."""

    code = "server-running"
    hint = "Use that one, end it first, or give this one its own directory with --state."


class ServerStartError(UnavailableError):
    """A process of the server did not come up."""

    code = "server-start"
    hint = "The reason stands at the end of its log, which the message names."


class StateDirError(UnavailableError):
    """The state directory cannot be made or written."""

    code = "state-dir"
    hint = "Run as a user who may write there, or choose another with --state or appliance.state_dir."


class NoHypervisorError(NotFoundError):
    """There is no hypervisor to look on."""

    code = "no-hypervisor"
    hint = "Add one: `lastwrite hypervisor add NAME URL`."


class AmbiguousVmError(UsageError):
    """More than one hypervisor has a VM of that name."""

    code = "ambiguous-vm"
    hint = "Say which one with --hypervisor NAME."


class NotProtectedError(RefusedError):
    """The VM's protection has ended, or has not begun."""

    code = "not-protected"
    hint = "Begin it with `lastwrite protect VM`. Points of the past can still be recovered."


class TapSilentError(UnavailableError):
    """The tap was put into the guest, but does not report."""

    code = "tap-silent"
    hint = "See that guests can reach the address in tap.advertise. What was begun has been undone."


class TapFailedError(UnavailableError):
    """The tap in the guest reports that it cannot work."""

    code = "tap-failed"
    hint = "The guest's log of lastwrite-agent says more. What was begun has been undone."


class SyncUnfinishedError(UnavailableError):
    """The VM is not Protected yet after the time that was given."""

    code = "sync-unfinished"
    hint = "It goes on by itself: `lastwrite status VM` shows how far it is."


class NotConfirmedError(RefusedError):
    """A dangerous action was not confirmed with the right word."""

    code = "not-confirmed"
    hint = "Nothing was deleted. Give the VM's name with --confirm."


class JournalNotDeletedError(UnavailableError):
    """A journal cannot be taken out of its place."""

    code = "journal-not-deleted"
    hint = "The journal and the VM's entry are as they were. Do what the message asks for, then try again."


class CancelledError(RefusedError):
    """Whoever had asked went away before the operation was complete."""

    code = "cancelled"
    hint = "What was begun has been undone."


class OperationRunningError(RefusedError):
    """Another operation is at work on the same VM."""

    code = "operation-running"
    hint = "Wait for it to end."
