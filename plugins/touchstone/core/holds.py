"""
What a server has refused, or shown to lack, and until when it is not asked for the like. Pure.

One that refuses for what it lacks ends an attempt within a second, is free again at once, and so
would take everybody's tries while others stand free. What is held is in the server's record, where
all dispatchers see it, and goes when the server takes a START, or its agent is started again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Final

from touchstone.core.records.servers import Server, ServerHold
from touchstone_agent.core.backoff import Backoff
from touchstone_agent.protocol.messages import AttemptPhase, Refusal, SlotClass
from touchstone_agent.protocol.words import build_line

LACKS: Final = frozenset({Refusal.DISK, Refusal.IMAGE, Refusal.GPU, Refusal.DATA})
"""What no waiting mends: another server is better, and an admin has to look."""

_LONG = Backoff(first_seconds=60, cap_seconds=1800, jitter=0)
# Longer than a heartbeat, whose inventory tells what is really free.
_SHORT = Backoff(first_seconds=20, cap_seconds=300, jitter=0)
_MOST_HOLDS = 20
"""Newest ones that a record keeps: a server that refuses everything must not fill it."""
_WITNESS = timedelta(hours=1)
"""How long after its hold one submitter's word still bears out another's."""


def find_refusal(details: Mapping[str, object]) -> Refusal | None:
    """Return why an agent refused; ``None`` where it does not say, or in a word of a newer one."""
    word = details.get("refusal")
    return Refusal(word) if isinstance(word, str) and word in set(Refusal) else None


def list_holds(server: Server) -> Iterator[ServerHold]:
    """Yield what is or was held of a server, over or not; what makes no sense is left out."""
    for hold in (server.holds or {}).values():
        if isinstance(hold, ServerHold):
            yield hold


def hold_server(
    server: Server,
    *,
    refusal: Refusal | None,
    reason: str | None,
    kind: SlotClass,
    image: str,
    now: datetime,
) -> Server | None:
    """
    Return what a server's record becomes by a refusal.

    What was refused while it is held already had been sent before that: it makes nothing longer.

    :param refusal: Why; ``None`` if it did not say, which is held as shortly as a full one.
    :param reason: Its own words.
    :param kind: The kind of the task that was refused.
    :param image: The task's container image.
    :return: ``None`` if the refusal says nothing of the server.
    """
    if refusal in {Refusal.FENCE, Refusal.NAME, Refusal.DATA}:
        return None  # another START may be well
    words, pauses = reason or "it gave no reason", _LONG if refusal in LACKS else _SHORT
    hold = _build_hold(refusal, kind, image, reason=words, now=now)
    return _hold(server, hold, pauses=pauses, now=now)


def hold_blind(server: Server, *, label: str, reason: str | None, now: datetime) -> Server | None:
    """
    Return what a server's record becomes by a training that saw none of the GPU it was given.

    That is said in the container, where submitted code can say it as well. So the word of one
    submitter's trainings keeps only his own away; a second submitter's word within the hour makes
    it the server's fault, and keeps all trainings away.

    :param label: Whose training it was, as ``user:<name>``.
    :param reason: What it said.
    :return: ``None`` if it is held already.
    """
    others = {hold.label for hold in list_holds(server) if now - hold.until < _WITNESS}
    others -= {None, label}
    words = f"a training saw no GPU: {reason or 'it gave no reason'}"
    hold = ServerHold(
        key=f"{_BLIND}/{label}",
        kind=SlotClass.TRAINING,
        image=None,
        label=label,
        refusal=None,
        until=now,
        reason=words,
    )
    own = _hold(server, hold, pauses=_LONG, now=now)
    if not others:
        return own
    # Nothing of what submitters wrote: everybody else reads it.
    words = f"gpu: trainings of {len(others) + 1} submitters saw none"
    hold = hold.change(key=_BLIND, label=None, refusal=Refusal.GPU, reason=words)
    return _hold(own or server, hold, pauses=_LONG, now=now) or own


def release_blind(server: Server) -> Server | None:
    """
    Return what a server's record becomes when a training has ended well that requires a GPU.

    :return: ``None`` if nothing of the like was held.
    """
    return _drop(server, _list_blind(server))


def release_server(
    server: Server, *, phase: AttemptPhase, kind: SlotClass, image: str, gpus: int
) -> Server | None:
    """
    Return what a server's record becomes when an attempt gets on there.

    Taken, it had room; running, it has its image, and the GPUs that it wanted.

    :param phase: How far the attempt got.
    :param kind: Its kind.
    :param image: Its container image.
    :param gpus: How many GPUs it was to get.
    :return: ``None`` if nothing of the like was held.
    """
    shown = {
        AttemptPhase.ACCEPTED: {Refusal.DISK.value, *(f"{it}/{kind}" for it in (_FULL, _DRAINED))},
        AttemptPhase.RUNNING: {
            f"{Refusal.IMAGE}/{image}",
            *([Refusal.GPU.value] if gpus else []),
        },
    }.get(phase, set())
    return _drop(server, shown)


def release_renewed(server: Server, *, epoch: str, gpus: int, old_gpus: int) -> Server | None:
    """
    Return what a server's record becomes by a heartbeat which shows that something was mended.

    :param epoch: This start of its agent: an admin who starts one anew has mended what it lacked,
        or sees it refuse once more.
    :param gpus: GPUs that it has now.
    :param old_gpus: Those that it had before.
    :return: ``None`` if nothing was held, or nothing is known to have changed.
    """
    if server.holds and server.epoch not in {None, epoch}:
        return server.change(holds={})
    return _drop(server, {Refusal.GPU.value, *_list_blind(server)}) if gpus > old_gpus else None


def mark_told(server: Server, keys: set[str]) -> Server | None:
    """Return what a server's record becomes when the admins were told what is held there."""
    told = {hold.key: hold.change(is_told=True) for hold in list_holds(server) if hold.key in keys}
    holds = {**(server.holds or {}), **told}
    return server.change(holds=holds) if holds != (server.holds or {}) else None


_FULL = Refusal.FULL
_DRAINED = Refusal.DRAINED
_BLIND = "blind"
"""Key of a hold for a GPU that trainings do not see; with a label behind it, of that label's."""


def _list_blind(server: Server) -> set[str]:
    return {key for key in server.holds or {} if key.partition("/")[0] == _BLIND}


def _hold(server: Server, hold: ServerHold, *, pauses: Backoff, now: datetime) -> Server | None:
    """Return what a server's record becomes by one more hold; ``None`` if it is held already."""
    before = next((each for each in list_holds(server) if each.key == hold.key), None)
    if before is not None and now < before.until:
        return None
    times = before.times + 1 if before else 1
    held = hold.change(
        until=now + timedelta(seconds=pauses.after(times)),
        reason=build_line(hold.reason),
        times=times,
        is_told=before.is_told if before else False,
    )
    holds = {**(server.holds or {}), hold.key: held}
    for oldest in list(holds)[: max(0, len(holds) - _MOST_HOLDS)]:
        del holds[oldest]
    return server.change(holds=holds)


def _build_hold(
    refusal: Refusal | None, kind: SlotClass, image: str, *, reason: str, now: datetime
) -> ServerHold:
    if refusal is Refusal.DISK:
        key, held_kind, held_image = refusal.value, None, None
    elif refusal is Refusal.GPU:
        # What needs none may still go there.
        key, held_kind, held_image = refusal.value, SlotClass.TRAINING, None
    elif refusal is Refusal.IMAGE:
        key, held_kind, held_image = f"{refusal}/{image}", None, image
    else:
        key, held_kind, held_image = f"{refusal or _FULL}/{kind}", kind, None
    return ServerHold(
        key=key, kind=held_kind, image=held_image, refusal=refusal, until=now, reason=reason
    )


def _drop(server: Server, keys: set[str]) -> Server | None:
    holds = server.holds or {}
    left = {key: item for key, item in holds.items() if key not in keys}
    return server.change(holds=left) if left != holds else None
