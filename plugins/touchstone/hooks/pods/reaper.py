"""
The reaper: ends every pod of ours that nobody waits for, and finishes what others left undone.

It decides by :mod:`touchstone.core.reaping` and by what is on record; what it did not get done, it
does with its next look. Pods under other names are never touched.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final

from touchstone.core.pod_attempts import list_pods, may_rent
from touchstone.core.reaping import Claim, Decision, Graces, Sightings, Termination, decide
from touchstone.hooks.pods.billing import take_bills
from touchstone.hooks.pods.desk import PodDesk, TaskKey
from touchstone.hooks.pods.ending import give_back, terminate
from touchstone.hooks.pods.facts import REAPER
from touchstone.hooks.records import Record
from touchstone.settings import Settings
from touchstone_agent.protocol.errors import TouchstoneError
from touchstone_agent.protocol.names import build_prefix, parse_container_name

log = logging.getLogger(__name__)

ACT_SECONDS: Final = 90.0
"""How long one look may take to end what it has found; the next one goes on."""


@dataclass(frozen=True, kw_only=True)
class Proof:
    """
    What one look at all pods has shown.

    :param at: When the list was read, ISO 8601.
    :param seen: Pods of the account.
    :param ours: Those of this environment.
    :param foreign: The others, which nobody touches.
    :param unknown: Ours with nothing on record.
    :param terminated: What was ended, or would have been: ``pod``, ``name``, ``reason`` each.
    :param missing: Attempts whose pod is not in the list.
    :param is_dry_run: Whether nothing was ended.
    :param has_failed: Whether the list was none: nothing was decided.
    """

    at: str
    seen: int
    ours: int
    foreign: int
    unknown: int
    terminated: tuple[dict[str, str], ...]
    missing: tuple[str, ...]
    is_dry_run: bool
    has_failed: bool


async def look(settings: Settings) -> Proof:
    """
    Do as :func:`reap`, with connections of its own, made as Airflow has them now.

    :raises TouchstoneError: As :func:`reap`, and if a connection is missing.
    """
    from touchstone.hooks.pods.connect import connect_desk

    desk = await connect_desk(settings)
    try:
        return await reap(desk)
    finally:
        await desk.api.close()


async def reap(desk: PodDesk) -> Proof:
    """
    Look at all pods once, and end what is nobody's.

    :raises TouchstoneError: If the pods cannot be listed, or the records not be read; nothing was
        done then.
    """
    now = desk.now()
    # The pods first: one that is ordered after this is on record when that is read.
    pods = await desk.api.list_pods()
    claims = await _read_claims(desk, [pod.name for pod in pods])
    memory = await asyncio.to_thread(desk.records.find_note, REAPER)
    wanted = desk.settings.runpod
    decision = decide(
        pods,
        claims,
        Sightings.from_json(memory.get("sightings") or {}),
        prefix=build_prefix(desk.settings.env),
        now=now,
        graces=Graces(young_seconds=wanted.reap_grace_seconds),
    )
    proof = _prove(decision, now, is_dry_run=wanted.reap_dry_run)
    await asyncio.to_thread(_remember, desk, decision, proof)
    for ended in proof.terminated:
        verb = "would be" if wanted.reap_dry_run else "is"
        log.warning("pod %s (%s) %s ended: %s", ended["pod"], ended["name"], verb, ended["reason"])
    if decision.has_failed:
        log.error("RunPod lists no pod at all, and there should be some: nothing is decided")
    elif not wanted.reap_dry_run:
        await _act(desk, decision)
    await _settle(desk)
    return proof


async def _act(desk: PodDesk, decision: Decision) -> None:
    """Do everything at once, for a while: what takes longer is found again."""
    works: list[Awaitable[object]] = [_end(desk, each) for each in decision.terminations]
    works += [give_back(desk, _find_key(claim), fence=claim.fence) for claim in decision.gone]
    tasks = [asyncio.ensure_future(work) for work in works]
    if not tasks:
        return
    done, left = await asyncio.wait(tasks, timeout=ACT_SECONDS)
    for task in left:
        task.cancel()
    for task in done:
        if error := task.exception():
            log.error("the reaper has not got something done: %s", error)


async def _end(desk: PodDesk, termination: Termination) -> None:
    pod, claim = termination.pod, termination.claim
    if claim is not None and claim.gone_at is None and claim.pod_id in {None, pod.id}:
        await give_back(desk, _find_key(claim), fence=claim.fence)
        if claim.pod_id == pod.id:
            return
    ended_at = await terminate(desk, pod.id)
    if claim is not None:
        record = await desk.read(_find_key(claim))
        await asyncio.to_thread(
            desk.ledger.count_extra, record, claim.fence, pod, ended_at=ended_at
        )


async def _read_claims(desk: PodDesk, names: Iterable[str]) -> list[Claim]:
    """Return what is on record of pods: of those that may be billed, and of those in the list."""
    at_work = await asyncio.to_thread(desk.records.list_tasks_at_work)
    found = {(r["submission_id"], r["task_id"]): r for r in at_work}
    parsed = (parse_container_name(desk.settings.env, name) for name in names)
    # The index may be a moment old, and does not have what is gone: a pod may return.
    listed = {(parts[0], parts[1]) for parts in parsed if parts is not None}
    found |= await asyncio.to_thread(desk.records.find_tasks, sorted(listed))
    return [claim for record in found.values() for claim in build_claims(record)]


def build_claims(record: Record) -> list[Claim]:
    """Return what a task's record says of its pods."""
    return [
        Claim(
            name=str(pod["name"]),
            submission_id=str(record["submission_id"]),
            task_id=str(record["task_id"]),
            fence=fence,
            pod_id=pod.get("id"),
            is_live=may_rent(record, fence),
            ordered_at=datetime.fromisoformat(pod["ordered_at"]),
            ending_at=_read_time(pod.get("ending_at")),
            gone_at=_read_time(pod.get("gone_at")),
        )
        for fence, pod in list_pods(record)
    ]


async def _settle(desk: PodDesk) -> None:
    """Give back what dead drivers had reserved, and take bills that have come since."""
    try:
        for name in await asyncio.to_thread(desk.ledger.list_reserved):
            if await _is_unwanted(desk, name):
                await asyncio.to_thread(desk.ledger.release, name)
        await take_bills(desk)
    except TouchstoneError as error:
        log.warning("accounts are not settled yet: %s", error)


async def _is_unwanted(desk: PodDesk, pod_name: str) -> bool:
    """Tell whether a reservation is one of an attempt that is over, and never had a pod."""
    parts = parse_container_name(desk.settings.env, pod_name)
    if parts is None:
        return False
    submission_id, task_id, _, fence = parts
    record = await asyncio.to_thread(desk.records.find_task, submission_id, task_id)
    if record is None:
        return True
    has_pod = any(number == fence for number, _ in list_pods(record))
    return not has_pod and not may_rent(record, fence)


def _prove(decision: Decision, now: datetime, *, is_dry_run: bool) -> Proof:
    return Proof(
        at=now.isoformat(),
        seen=decision.counts.seen,
        ours=decision.counts.ours,
        foreign=decision.counts.foreign,
        unknown=decision.counts.unknown,
        terminated=tuple(
            {"pod": each.pod.id, "name": each.pod.name, "reason": each.reason.value}
            for each in decision.terminations
        ),
        missing=tuple(claim.name for claim in decision.missing),
        is_dry_run=is_dry_run,
        has_failed=decision.has_failed,
    )


def _remember(desk: PodDesk, decision: Decision, proof: Proof) -> None:
    changes: dict[str, Any] = {
        "sightings": decision.sightings.to_json(),
        "proof": asdict(proof) | {"terminated": list(proof.terminated)},
    }
    desk.records.put_note(REAPER, changes)


def _find_key(claim: Claim) -> TaskKey:
    return TaskKey(submission_id=claim.submission_id, task_id=claim.task_id)


def _read_time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
