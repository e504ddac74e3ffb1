"""What the appliance answers to a tap's hello. Pure: facts in, decision out (docs/protocol.md, "welcome").

**Fences.** The journal's metadata log keeps what `Standing.fence` holds: the token that counts, or, between a
`begin` and the first frame under it, two words: the new token and the one that the tap showed. Either is
accepted then, so a connection that breaks while the new token is on its way locks nobody out. An enrolment
writes `FENCE_ENROLLED`, which stands for "none": the freshly enrolled tap is let in, every older one is not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from guesttap.protocol import Message
from guesttap.receiver.hello import Hello
from journal.history import Epoch

FENCE_ENROLLED = "-"

Action = Literal["resume", "begin", "dormant"]


@dataclass(frozen=True)
class Standing:
    """What the appliance knows of a VM when its tap says hello.

    `instance` is the machine that enrolled; `fence` and `epoch` to `cursor` come from the journal;
    `last_mono` (ns) is the newest cut's; `rival`: another session of this VM is alive; `distrust`: why the
    tap's last stream was refused.
    """

    protected: bool
    instance: str | None
    fence: str | None
    epoch: int
    epoch_open: bool
    generation: int | None
    position: int
    next_lsn: int
    next_cut: int
    valid: bool
    valid_base: bool
    cursor: dict[str, int] | None = None
    last_mono: int | None = None
    rival: bool = False
    distrust: str | None = None


@dataclass(frozen=True)
class Decision:
    """The answer: what to do and why; `base`: a bitmap sync on what the journal holds would be right."""

    action: Action
    reason: str
    epoch: int
    base: bool


def decide(hello: Hello, standing: Standing) -> Decision:
    """Return what the tap that said `hello` shall do."""
    refusal = _refusal(hello, standing)
    if refusal:
        return Decision("dormant", refusal, standing.epoch, False)
    obstacle, trusted = _obstacle(hello, standing)
    if obstacle:
        return Decision("begin", obstacle, standing.epoch + 1, standing.valid_base and trusted)
    return Decision("resume", "the ring still holds what is not durable", standing.epoch, standing.valid_base)


def _refusal(hello: Hello, standing: Standing) -> str:
    if not standing.protected:
        return "the protection of this VM was ended"
    if standing.instance is None:
        return "no tap of this VM has been enrolled"
    if hello.instance != standing.instance:
        return "this is another machine than the one enrolled: a copy. Protect it under its own name"
    if standing.rival:
        return "another tap of this VM is streaming"
    if not fence_accepted(standing.fence, hello.fence):
        return "this is a copy of the past: the journal went on without it"
    return ""


def _obstacle(hello: Hello, standing: Standing) -> tuple[str, bool]:
    """Return why the stream cannot go on ("": it can), and whether the tap's own knowledge still holds."""
    if standing.epoch == 0:
        return "the journal is empty", True
    if standing.distrust:
        return f"the last stream was refused: {standing.distrust}", False
    if hello.generation is None or hello.generation != standing.generation:
        # What it knows to be dirty counts from a stream that this journal does not hold.
        return "the tap was attached anew", False
    if standing.last_mono is not None and hello.mono < standing.last_mono:
        return "the machine was set back to an earlier state", False
    if not standing.epoch_open:
        return "the last epoch has ended", True
    if hello.epoch is not None and hello.epoch != standing.epoch:
        return (
            f"the tap is in epoch {hello.epoch}, the journal in {standing.epoch}",
            hello.epoch > standing.epoch,
        )
    if not hello.whole:
        return "the tap lost writes since", True
    if not hello.resume <= standing.position <= hello.head:
        # The tap has kept all that was not acknowledged: so what was is not here any more, or the tap was set back.
        return "the journal does not stand where it told the tap that it does", False
    return "", True


def disks_of(epochs: Iterable[Epoch]) -> list[dict[str, Any]]:
    """Return every disk number that these epochs, oldest first, have used, as the newest of each names it."""
    found = {disk.disk: disk for epoch in epochs for disk in epoch.disks}
    return [
        {"disk": number, "name": disk.name, "serial": disk.serial} for number, disk in sorted(found.items())
    ]


def welcome(
    decision: Decision, standing: Standing, fence: str | None, disks: list[dict[str, Any]] | None = None
) -> Message:
    """Return the `welcome` message; `fence` is the token that the tap must show from now on."""
    keys: dict[str, Any] = {
        "type": "welcome",
        "action": decision.action,
        "reason": decision.reason,
        "base": decision.base,
    }
    if decision.action == "dormant":
        return keys
    resume = decision.action == "resume"
    return keys | {
        "epoch": decision.epoch,
        "next_lsn": standing.next_lsn,
        "next_cut": standing.next_cut,
        "valid": standing.valid,
        "position": standing.position if resume else 0,
        "syncing": not (resume and standing.valid),
        "cursor": standing.cursor if resume and not standing.valid else None,
        "fence": fence,
        "disks": disks or [],
    }


def fence_accepted(stored: str | None, shown: str | None) -> bool:
    """Return whether a tap that shows this fence may go on with a journal that stores that one."""
    return stored is None or (shown or FENCE_ENROLLED) in stored.split()


def fence_offered(new: str, shown: str | None) -> str:
    """Return what the journal stores while `new` is on its way to a tap that showed `shown`."""
    return f"{new} {shown or FENCE_ENROLLED}"


def fence_settled(stored: str | None) -> str | None:
    """Return what to store once the first frame came under the newest fence; None: nothing changes."""
    if stored is None or " " not in stored:
        return None
    return stored.split()[0]
