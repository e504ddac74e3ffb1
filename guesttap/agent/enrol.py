"""Enrolment: a one-time token buys the certificate with which this agent speaks from then on."""

from __future__ import annotations

from guesttap.agent.connection import connect, first_message
from guesttap.agent.errors import ApplianceUnreachableError, EnrolmentRefusedError, NotEnrolledError
from guesttap.agent.settings import Settings
from guesttap.agent.store import Store

TEMPORARY = ("unavailable", "internal")


def enrol_if_needed(settings: Settings, store: Store, instance: str) -> bool:
    """Get a certificate, unless there is a fitting one; return whether one was got.

    Raises NotEnrolledError, EnrolmentRefusedError, ApplianceUnreachableError.
    """
    if store.is_enrolled(settings.vm, settings.token):
        return False
    if settings.token is None:
        raise NotEnrolledError(f"there is no certificate for VM {settings.vm}, and no token")
    channel = connect(settings, None)
    try:
        channel.send_message({"type": "enrol", "token": settings.token, "instance": instance})
        answer = first_message(channel)
    finally:
        channel.close()
    if answer["type"] == "error" and answer.get("code") in TEMPORARY:
        raise ApplianceUnreachableError("the appliance could not enrol: {}".format(answer.get("message")))
    certificate, key = answer.get("certificate"), answer.get("key")
    if answer["type"] != "enrolled" or not isinstance(certificate, str) or not isinstance(key, str):
        raise EnrolmentRefusedError(
            "the appliance refused the token: {}".format(answer.get("message", answer["type"]))
        )
    store.save_identity(settings.vm, settings.token, certificate, key)
    return True
