"""
What a server has refused, or shown to lack, and until when it is not asked for the like. Pure.

One that refuses for what it lacks ends an attempt within a second, is free again at once, and so
would take everybody's tries while others stand free. What is held is in the server's record, where
all dispatchers see it, and goes when the server takes a START, or its agent is started again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from touchstone.core.times import read_time
from touchstone_agent.core.backoff import Backoff
from touchstone_agent.protocol.messages import AttemptPhase, Refusal, SlotClass
from touchstone_agent.protocol.words import build_line

Record = dict[str, Any]

LACKS: Final = frozenset({Refusal.DISK, Refusal.IMAGE, Refusal.GPU})
"""What no waiting mends: another server is better, and an admin has to look."""

HOLDS: Final = "holds"
"""Field of a server's record: what is held there, by what it is held for."""

_LONG = Backoff(first_seconds=60, cap_seconds=1800, jitter=0)
# Longer than a heartbeat, whose inventory tells what is really free.
_SHORT = Backoff(first_seconds=20, cap_seconds=300, jitter=0)
_MOST_HOLDS = 20
_WITNESS = timedelta(hours=1)
"""How long after its hold one submitter's word still bears out another's."""


@dataclass(frozen=True, kw_only=True)
class ServerHold:
    """
    What a server is not asked for, for a while.

    :param key: Tells it from the server's other ones.
    :param refusal: What the server said; ``None`` for an agent that gives only a reason.
    :param until: Until when.
    :param reason: The server's own words.
    :param kind: The kind of tasks that it holds for; ``None`` for both.
    :param image: The container image that it holds for; ``None`` for all.
    :param label: The label of tasks that it holds for, as ``user:<name>``; ``None`` for all.
    :param times: How many times in a row.
    :param is_told: Whether the admins were written to.
    """

    key: str
    refusal: Refusal | None
    until: datetime
    reason: str
    kind: SlotClass | None = None
    image: str | None = None
    label: str | None = None
    times: int = 1
    is_told: bool = False


def find_refusal(details: Mapping[str, Any]) -> Refusal | None:
    """Return why an agent refused; ``None`` where it does not say, or in a word of a newer one."""
    with contextlib.suppress(ValueError, TypeError):
        return Refusal(details["refusal"]) if "refusal" in details else None
    return None


def list_holds(server: Mapping[str, Any]) -> Iterator[ServerHold]:
    """Yield what is or was held of a server, over or not; what makes no sense is left out."""
    for key, item in (server.get(HOLDS) or {}).items():
        with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):
            yield ServerHold(
                key=str(key),
                refusal=Refusal(item["refusal"]) if item.get("refusal") else None,
                until=read_time(item["until"]),
                reason=str(item["reason"]),
                kind=SlotClass(item["kind"]) if item.get("kind") else None,
                image=item.get("image"),
                label=item.get("label"),
                times=int(item.get("times") or 1),
                is_told=bool(item.get("is_told")),
            )


def hold_server(
    server: Mapping[str, Any],
    *,
    refusal: Refusal | None,
    reason: str | None,
    kind: SlotClass,
    image: str,
    now: datetime,
) -> Record | None:
    """
    Return what a server's record becomes by a refusal.

    What was refused while it is held already had been sent before that: it makes nothing longer.

    :param refusal: Why; ``None`` if it did not say, which is held as shortly as a full one.
    :param reason: Its own words.
    :param kind: The kind of the task that was refused.
    :param image: The task's container image.
    :return: Fields to set; ``None`` if the refusal says nothing of the server.
    """
    if refusal in {Refusal.FENCE, Refusal.NAME}:
        return None  # another START may be well
    key, item = _build_hold(refusal, kind, image)
    item |= {"refusal": refusal.value if refusal else None}
    pauses = _LONG if refusal in LACKS else _SHORT
    return _hold(server, key, item, reason=reason or "it gave no reason", pauses=pauses, now=now)


def hold_blind(
    server: Mapping[str, Any], *, label: str, reason: str | None, now: datetime
) -> Record | None:
    """
    Return what a server's record becomes by a training that saw none of the GPU it was given.

    That is said in the container, where submitted code can say it as well. So the word of one
    submitter's trainings keeps only his own away; a second submitter's word within the hour makes
    it the server's fault, and keeps all trainings away.

    :param label: Whose training it was, as ``user:<name>``.
    :param reason: What it said.
    :return: Fields to set; ``None`` if it is held already.
    """
    others = {hold.label for hold in list_holds(server) if now - hold.until < _WITNESS}
    others -= {None, label}
    item = {"kind": SlotClass.TRAINING.value, "image": None, "label": label, "refusal": None}
    words = f"a training saw no GPU: {reason or 'it gave no reason'}"
    own = _hold(server, f"{_BLIND}/{label}", item, reason=words, pauses=_LONG, now=now)
    if not others:
        return own
    # Nothing of what submitters wrote: everybody else reads it.
    item |= {"label": None, "refusal": Refusal.GPU.value}
    words = f"gpu: trainings of {len(others) + 1} submitters saw none"
    everybodys = _hold({**server, **(own or {})}, _BLIND, item, reason=words, pauses=_LONG, now=now)
    return everybodys or own


def release_blind(server: Mapping[str, Any]) -> Record | None:
    """
    Return what a server's record becomes when a training has ended well that requires a GPU.

    :return: Fields to set; ``None`` if nothing of the like was held.
    """
    return _drop(server, _list_blind(server))


def release_server(
    server: Mapping[str, Any], *, phase: AttemptPhase, kind: SlotClass, image: str, gpus: int
) -> Record | None:
    """
    Return what a server's record becomes when an attempt gets on there.

    Taken, it had room; running, it has its image, and the GPUs that it wanted.

    :param phase: How far the attempt got.
    :param kind: Its kind.
    :param image: Its container image.
    :param gpus: How many GPUs it was to get.
    :return: Fields to set; ``None`` if nothing of the like was held.
    """
    shown = {
        AttemptPhase.ACCEPTED: {Refusal.DISK.value, *(f"{it}/{kind}" for it in (_FULL, _DRAINED))},
        AttemptPhase.RUNNING: {
            f"{Refusal.IMAGE}/{image}",
            *([Refusal.GPU.value] if gpus else []),
        },
    }.get(phase, set())
    return _drop(server, shown)


def release_renewed(
    server: Mapping[str, Any], *, epoch: str, gpus: int, old_gpus: int
) -> Record | None:
    """
    Return what a server's record becomes by a heartbeat which shows that something was mended.

    :param epoch: This start of its agent: whoever starts one anew has mended what it lacked, or
        sees it refuse once more.
    :param gpus: GPUs that it has now.
    :param old_gpus: Those that it had before.
    :return: Fields to set; ``None`` if nothing was held, or nothing is known to have changed.
    """
    if server.get(HOLDS) and server.get("epoch") not in {None, epoch}:
        return {HOLDS: {}}
    return _drop(server, {Refusal.GPU.value, *_list_blind(server)}) if gpus > old_gpus else None


def mark_told(server: Mapping[str, Any], keys: set[str]) -> Record | None:
    """Return what a server's record becomes when the admins were told what is held there."""
    holds = server.get(HOLDS) or {}
    told = {k: {**item, "is_told": True} if k in keys else item for k, item in holds.items()}
    return {HOLDS: told} if told != holds else None


_FULL = Refusal.FULL
_DRAINED = Refusal.DRAINED
_BLIND = "blind"
"""Key of a hold for a GPU that trainings do not see; with a label behind it, of that label's."""


def _list_blind(server: Mapping[str, Any]) -> set[str]:
    return {key for key in server.get(HOLDS) or {} if key.partition("/")[0] == _BLIND}


def _hold(
    server: Mapping[str, Any],
    key: str,
    item: Mapping[str, Any],
    *,
    reason: str,
    pauses: Backoff,
    now: datetime,
) -> Record | None:
    holds = dict(server.get(HOLDS) or {})
    before = next((hold for hold in list_holds(server) if hold.key == key), None)
    if before is not None and now < before.until:
        return None
    times = before.times + 1 if before else 1
    holds[key] = {
        **item,
        "until": (now + timedelta(seconds=pauses.after(times))).isoformat(),
        "reason": build_line(reason),
        "times": times,
        "is_told": before.is_told if before else False,
    }
    for oldest in list(holds)[: max(0, len(holds) - _MOST_HOLDS)]:
        del holds[oldest]
    return {HOLDS: holds}


def _build_hold(refusal: Refusal | None, kind: SlotClass, image: str) -> tuple[str, Record]:
    if refusal is Refusal.DISK:
        return refusal.value, {"kind": None, "image": None}
    if refusal is Refusal.GPU:
        # What needs none may still go there.
        return refusal.value, {"kind": SlotClass.TRAINING.value, "image": None}
    if refusal is Refusal.IMAGE:
        return f"{refusal}/{image}", {"kind": None, "image": image}
    return f"{refusal or _FULL}/{kind}", {"kind": kind.value, "image": None}


def _drop(server: Mapping[str, Any], keys: set[str]) -> Record | None:
    holds = server.get(HOLDS) or {}
    left = {key: item for key, item in holds.items() if key not in keys}
    return {HOLDS: left} if left != holds else None
