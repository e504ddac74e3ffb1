"""What can go wrong with the agent, each with what to do about it."""

from __future__ import annotations

from lastwrite.errors import IntegrityError, RefusedError, UnavailableError, UsageError


class AgentConfigError(UsageError):
    """The agent's configuration cannot be used."""

    code = "agent-config"
    hint = "Deploy the agent again with `lastwrite protect`: it writes this file."


class AgentStateError(IntegrityError):
    """A file in the agent's state folder cannot be used."""

    code = "agent-state"
    hint = "Deploy the agent again with `lastwrite protect`."


class NotEnrolledError(UsageError):
    """The agent has neither a certificate nor a token to get one with."""

    code = "agent-not-enrolled"
    hint = "Deploy the agent again with `lastwrite protect`: it brings a new one-time token."


class EnrolmentRefusedError(RefusedError):
    """The appliance did not take the one-time token."""

    code = "enrolment-refused"
    hint = "A token is good for one use and a short time: deploy the agent again with `lastwrite protect`."


class ApplianceUnreachableError(UnavailableError):
    """No connection to the appliance, or none that can be trusted."""

    code = "appliance-unreachable"
    hint = "The agent tries again by itself and loses no write meanwhile. Check address and network."


class DormantError(RefusedError):
    """The appliance told this agent to send nothing."""

    code = "agent-dormant"
    hint = "To protect this machine, protect it under its own name: that deploys this agent afresh."


class AgentBusyError(RefusedError):
    """What was asked cannot be done at this moment."""

    code = "agent-busy"
    hint = "Wait until the VM's state is Protected and ask again."


class QuiesceError(UnavailableError):
    """The file systems could not be frozen or thawed as they should."""

    code = "quiesce-failed"
    hint = "The point was recorded with the consistency that it really has; the messages name what failed."


class DiskGrownError(UnavailableError):
    """A tapped disk got larger, so the tap has to be attached anew."""

    code = "disk-grown"
    hint = "The agent attaches the tap anew by itself and sends the disks again."
