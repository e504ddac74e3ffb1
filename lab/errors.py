"""What can go wrong in the lab, each with a remedy."""

from __future__ import annotations

from lastwrite.errors import NotFoundError, UnavailableError, UnsupportedError, UsageError


class LabCommandError(UnavailableError):
    """A program that the lab runs failed or took too long."""

    code = "lab-command"
    hint = "The end of its output is in the message. `setup/bootstrap.sh` installs what the lab needs."


class LabTimeoutError(UnavailableError):
    """Something in the lab did not come within its time limit."""

    code = "lab-timeout"
    hint = "See the logs under the lab's directory; `python -m lab down` ends what is left."


class LabBusyError(UnavailableError):
    """Another process holds the lab's lock."""

    code = "lab-busy"
    hint = "Wait for the other run of the lab to end, or end it."


class LabUnsupportedError(UnsupportedError):
    """This machine lacks something that the lab needs."""

    code = "lab-unsupported"
    hint = "Run as root on Debian 12, after `setup/bootstrap.sh`."


class LabNotFoundError(NotFoundError):
    """A guest, or a file in a guest, that does not exist."""

    code = "lab-not-found"


class LabUsageError(UsageError):
    """A name or a path that the lab cannot use."""

    code = "lab-usage"
    hint = "Choose another name or a shorter directory."


class GuestAgentError(UnavailableError):
    """The agent in a guest refused a command or does not answer."""

    code = "lab-guest-agent"
    hint = "The guest's console is in the serial log under the host's directory."
