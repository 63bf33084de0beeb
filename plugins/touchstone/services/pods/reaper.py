"""
The reaper: ends every own pod that no attempt needs, and finishes interrupted work.

It decides by :mod:`touchstone.core.reaping` and by what is on record; what it did not get done, it
does with its next look. Pods under other names are never touched.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Iterable
from datetime import datetime
from typing import Final

from touchstone.core.pod_attempts import list_pods, may_rent
from touchstone.core.reaping import Decision, ReapingThresholds, RecordedPod, Termination, decide
from touchstone.core.records.notes import Proof, ProofTermination, ReaperNote, Sightings
from touchstone.core.records.tasks import Task
from touchstone.services.pods.billing import take_bills
from touchstone.services.pods.context import PodContext, TaskRef, connect_pods
from touchstone.services.pods.ending import release_pod, terminate
from touchstone.services.pods.registries import remove_registries
from touchstone.settings import Settings
from touchstone_agent.protocol.errors import TouchstoneError
from touchstone_agent.protocol.names import build_prefix, parse_container_name

log = logging.getLogger(__name__)

ACT_SECONDS: Final = 90.0
"""How long one look may take to end what it has found; the next one goes on."""


async def look(settings: Settings) -> Proof:
    """
    Do as :func:`reap`, with connections of its own, made as Airflow has them now.

    :raises TouchstoneError: As :func:`reap`, and if a connection is missing.
    """
    context = await connect_pods(settings)
    try:
        return await reap(context)
    finally:
        await context.api.close()


async def reap(context: PodContext) -> Proof:
    """
    Look at all pods once, and end those that belong to no attempt.

    :raises TouchstoneError: If the pods cannot be listed, or the records not be read; nothing was
        done then.
    """
    now = context.now()
    # The pods first: one that is ordered after this is on record when that is read.
    pods = await context.api.list_pods()
    recorded_pods, unreadable = await _read_recorded_pods(context, [pod.name for pod in pods])
    memory = await asyncio.to_thread(context.records.find_note, ReaperNote)
    wanted = context.settings.runpod
    decision = decide(
        pods,
        recorded_pods,
        memory.sightings or Sightings(),
        prefix=build_prefix(context.settings.env),
        spared=[pod.name for pod in pods if _find_task_of(context, pod.name) in unreadable],
        now=now,
        thresholds=ReapingThresholds(young_seconds=wanted.reap_grace_seconds),
    )
    proof = _prove(decision, now, is_dry_run=wanted.reap_dry_run)
    await asyncio.to_thread(_remember, context, decision, proof)
    for ended in proof.terminated:
        verb = "would be" if wanted.reap_dry_run else "is"
        log.warning("pod %s (%s) %s ended: %s", ended.pod, ended.name, verb, ended.reason)
    if decision.has_failed:
        log.error("RunPod lists no pod at all, and there should be some: nothing is decided")
    elif not wanted.reap_dry_run:
        await _act(context, decision)
    if not wanted.reap_dry_run:
        await _tidy(context)
    await _settle(context)
    return proof


async def _act(context: PodContext, decision: Decision) -> None:
    """Do everything at once, for a while: what takes longer is found again."""
    works: list[Awaitable[object]] = [_end(context, each) for each in decision.terminations]
    works += [
        release_pod(context, _find_key(recorded), fence=recorded.fence)
        for recorded in decision.gone
    ]
    tasks = [asyncio.ensure_future(work) for work in works]
    if not tasks:
        return
    done, left = await asyncio.wait(tasks, timeout=ACT_SECONDS)
    for task in left:
        task.cancel()
    for task in done:
        if error := task.exception():
            log.error("the reaper has not got something done: %s", error)


async def _end(context: PodContext, termination: Termination) -> None:
    pod, recorded = termination.pod, termination.recorded
    if recorded is not None and recorded.gone_at is None and recorded.pod_id in {None, pod.id}:
        await release_pod(context, _find_key(recorded), fence=recorded.fence)
        if recorded.pod_id == pod.id:
            return
    ended_at = await terminate(context, pod.id)
    if recorded is not None:
        task = await context.read(_find_key(recorded))
        await asyncio.to_thread(
            context.ledger.count_extra, task, recorded.fence, pod, ended_at=ended_at
        )


async def _read_recorded_pods(
    context: PodContext, names: Iterable[str]
) -> tuple[list[RecordedPod], frozenset[tuple[str, str]]]:
    """
    Return the records of pods: of those that may be billed, and of those in the list.

    :return: The recorded pods, and the tasks whose records make no sense: whose pods those are is
        not known, so nobody may end them.
    """
    at_work = await asyncio.to_thread(context.records.list_tasks_at_work)
    found = {entry.key: entry for entry in at_work}
    # The index may be a moment old, and does not have what is gone: a pod may return.
    listed = {key for name in names if (key := _find_task_of(context, name)) is not None}
    found |= await asyncio.to_thread(context.records.find_tasks, sorted(listed))
    odd = {key: entry.problem for key, entry in found.items() if entry.task is None}
    for problem in odd.values():
        log.error("%s; no pod of it is ended", problem)
    tasks = (entry.task for entry in found.values())
    return [
        recorded for task in tasks if task for recorded in build_recorded_pods(task)
    ], frozenset(odd)


def _find_task_of(context: PodContext, name: str) -> tuple[str, str] | None:
    """Return the task whose pods bear a name; ``None`` if it is no name of ours."""
    parts = parse_container_name(context.settings.env, name)
    return None if parts is None else (parts[0], parts[1])


def build_recorded_pods(task: Task) -> list[RecordedPod]:
    """Return the records of a task's pods."""
    return [
        RecordedPod(
            name=pod.name,
            submission_id=task.submission_id,
            task_id=task.task_id,
            fence=fence,
            pod_id=pod.id,
            is_live=may_rent(task, fence),
            ordered_at=pod.ordered_at,
            ending_at=pod.ending_at,
            gone_at=pod.gone_at,
        )
        for fence, pod in list_pods(task)
    ]


async def _tidy(context: PodContext) -> None:
    try:
        await remove_registries(context)
    except TouchstoneError as error:
        log.warning("logins of registries are not looked for: %s", error)


async def _settle(context: PodContext) -> None:
    """Give back what dead drivers had reserved, and take bills that have come since."""
    try:
        for name in await asyncio.to_thread(context.ledger.list_reserved):
            if await _is_unwanted(context, name):
                await asyncio.to_thread(context.ledger.release, name)
        await take_bills(context)
    except TouchstoneError as error:
        log.warning("accounts are not settled yet: %s", error)


async def _is_unwanted(context: PodContext, pod_name: str) -> bool:
    """Tell whether a reservation is one of an attempt that is over, and never had a pod."""
    found = await context.find_attempt(pod_name)
    if found is None:
        return False
    task, fence = found
    if task is None:
        return True
    has_pod = any(number == fence for number, _ in list_pods(task))
    return not has_pod and not may_rent(task, fence)


def _prove(decision: Decision, now: datetime, *, is_dry_run: bool) -> Proof:
    return Proof(
        at=now,
        seen=decision.counts.seen,
        ours=decision.counts.ours,
        foreign=decision.counts.foreign,
        unknown=decision.counts.unknown,
        terminated=tuple(
            ProofTermination(pod=each.pod.id, name=each.pod.name, reason=each.reason.value)
            for each in decision.terminations
        ),
        missing=tuple(recorded.name for recorded in decision.missing),
        is_dry_run=is_dry_run,
        has_failed=decision.has_failed,
    )


def _remember(context: PodContext, decision: Decision, proof: Proof) -> None:
    context.records.put_note(ReaperNote(sightings=decision.sightings, proof=proof))


def _find_key(recorded: RecordedPod) -> TaskRef:
    return TaskRef(submission_id=recorded.submission_id, task_id=recorded.task_id)
