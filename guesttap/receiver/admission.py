"""A connection's first message: `enrol` buys a certificate, `hello` begins a session or is refused one."""

from __future__ import annotations

import time

import structlog

from guesttap.authority import Authority
from guesttap.channel import Channel
from guesttap.protocol import Message
from guesttap.receiver.buffers import BufferPool
from guesttap.receiver.decide import Decision, Standing, decide, disks_of, fence_offered, welcome
from guesttap.receiver.errors import NotEnrolledError
from guesttap.receiver.hello import Hello, parse_hello, word
from guesttap.receiver.registry import Registry, new_fence
from guesttap.receiver.session import Session
from journal.reader import JournalReader
from journal.writer import JournalWriter
from lastwrite.catalog import EnrolmentRefusedError, UnknownVmError, VmRow

ALIVE_SECONDS = 3.0
REFUSAL_DELAY_SECONDS = 1.0
"""Whoever guesses tokens waits so long for each."""

log = structlog.get_logger()


def enrol(registry: Registry, authority: Authority, message: Message) -> Message:
    """Redeem a token and return `enrolled`. Raises EnrolmentRefusedError, ProtocolError."""
    token, instance = word(message, "token"), word(message, "instance")
    try:
        row = registry.catalog.redeem(token, instance)
    except EnrolmentRefusedError:
        time.sleep(REFUSAL_DELAY_SECONDS)
        raise
    registry.enrolled(row)
    certificate, key = authority.issue(row.id)
    log.info("enrolled", vm=row.name, instance=instance)
    return {"type": "enrolled", "certificate": certificate, "key": key}


def admit(
    registry: Registry, vm_id: str, message: Message, channel: Channel, pool: BufferPool
) -> Session | None:
    """Answer a `hello`: return the session, which the caller runs, or None when the tap is to be dormant.

    Raises NotEnrolledError, ProtocolError, and what opening the journal raises.
    """
    hello = parse_hello(message)
    # The row is read under the lock: whoever ends a session there has changed it before.
    with registry.admission(vm_id):
        row = _row(registry, vm_id)
        rival = _rival(registry, row, hello)
        refused = decide(hello, _without_journal(row, rival))
        if refused.action == "dormant":
            _dormant(registry, row, refused, channel)
            return None
        registry.end_session(row.id, "the tap has connected again")
        journal = registry.open_journal(row)
        try:
            return _begin(registry, row, hello, journal, channel, pool)
        except BaseException:
            journal.close()
            raise


def _row(registry: Registry, vm_id: str) -> VmRow:
    try:
        row = registry.catalog.vm(vm_id)
    except UnknownVmError:
        row = None
    if row is None or row.id != vm_id:
        raise NotEnrolledError("the certificate names no VM of this appliance")
    return row


def _rival(registry: Registry, row: VmRow, hello: Hello) -> bool:
    """Return whether another session of this VM is alive: it must answer a ping now."""
    session = registry.session(row.id)
    if session is None or hello.instance != row.instance:
        return False
    return session.is_alive(ALIVE_SECONDS)


def _dormant(registry: Registry, row: VmRow, decision: Decision, channel: Channel) -> None:
    log.warning("tap is dormant", vm=row.name, reason=decision.reason)
    registry.status(row).refused = decision.reason
    channel.send_message(welcome(decision, _without_journal(row, False), None))


def _begin(
    registry: Registry, row: VmRow, hello: Hello, journal: JournalWriter, channel: Channel, pool: BufferPool
) -> Session | None:
    standing = _standing(registry, row, journal)
    decision = decide(hello, standing)
    if decision.action == "dormant":
        journal.close()
        _dormant(registry, row, decision, channel)
        return None
    fence = hello.fence
    if decision.action == "begin":
        fence = new_fence()
        journal.set_fence(fence_offered(fence, hello.fence), hello.instance)
    resumes = decision.action == "resume"
    status = registry.status(row)
    sync = "full" if standing.valid_base else "initial"
    epochs = JournalReader(journal.folder).epochs()
    if resumes and not standing.valid:
        sync = epochs[-1].sync
    status.begin_session(standing.epoch, standing.next_lsn, valid=resumes and standing.valid, sync=sync)
    session = Session(row.id, hello.instance, channel, pool, journal, status)
    channel.send_message(welcome(decision, standing, fence, disks_of(epochs)))
    registry.enter(session)
    log.info("tap connected", vm=row.name, action=decision.action, reason=decision.reason)
    return session


def _without_journal(row: VmRow, rival: bool) -> Standing:
    """Return what is known before the journal is opened: enough to refuse, not to accept."""
    return Standing(
        protected=row.protected,
        instance=row.instance,
        fence=None,
        epoch=0,
        epoch_open=False,
        generation=None,
        position=0,
        next_lsn=1,
        next_cut=1,
        valid=False,
        valid_base=False,
        rival=rival,
    )


def _standing(registry: Registry, row: VmRow, journal: JournalWriter) -> Standing:
    return Standing(
        protected=row.protected,
        instance=row.instance,
        fence=journal.fence,
        epoch=journal.epoch,
        epoch_open=journal.epoch_open,
        generation=journal.generation,
        position=journal.position,
        next_lsn=journal.next_lsn,
        next_cut=journal.next_cut,
        valid=journal.valid,
        valid_base=journal.valid_base,
        cursor=journal.sync_cursor,
        last_mono=journal.last_cut.mono if journal.last_cut and journal.epoch_open else None,
        distrust=registry.distrust.get(row.id),
    )
