"""What can go wrong between a tap and its journal, as errors."""

from __future__ import annotations

from lastwrite.errors import RefusedError, UnavailableError


class NotEnrolledError(RefusedError):
    """A connection may not stream: it shows no certificate of ours, or none that fits."""

    code = "not-enrolled"
    hint = "Protect the VM again: that deploys the agent with a new token."


class TapNotConnectedError(UnavailableError):
    """The VM's tap has no session, so nothing can be asked of it."""

    code = "tap-not-connected"
    hint = "Look at `lastwrite status`; in the guest, `systemctl status lastwrite-agent` says why."


class TapRequestFailedError(UnavailableError):
    """The tap could not do what was asked, or its answer did not become durable in time."""

    code = "tap-request-failed"
    hint = "The message has the reason. Nothing was marked unless the timeline shows it."


class IngestUnavailableError(UnavailableError):
    """The ingest process does not answer."""

    code = "ingest-unavailable"
    hint = "Start it with `lastwrite serve`; its log says why it ended. No acknowledged write is lost."
