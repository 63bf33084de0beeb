"""
Giving a pod back: asked for until it is proven, then paid, then on record.

The process may die anywhere and another one begins anew: a step that is taken twice changes
nothing more. A trigger does it for its own attempt, the reaper for pods that no attempt needs.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime

from touchstone.core.pod_attempts import (
    Problem,
    close_attempt,
    find_pod,
    find_pod_id,
    note_ending,
    note_gone,
)
from touchstone.core.pods import PodStatus
from touchstone.core.records.tasks import Task
from touchstone.core.retries import is_fulfilled
from touchstone.hooks.runpod.api import AsyncPodApi
from touchstone.hooks.runpod.errors import PodNotFound
from touchstone.services.pods.context import PodContext, TaskRef
from touchstone_agent.core.backoff import Backoff
from touchstone_agent.protocol.errors import PermanentError, TransientError

log = logging.getLogger(__name__)

BACKOFF = Backoff(first_seconds=1, cap_seconds=60)
"""Between two looks whether a pod is gone: each minute of one that is not costs money."""


async def release_pod(
    context: PodContext, key: TaskRef, *, fence: int, problem: Problem | None = None
) -> Task:
    """
    End an attempt's pod for good; returns only when it is proven gone and on record.

    Without limit in time: a pod that is not proven gone may cost money, and holds its slot.

    :param fence: Which attempt's.
    :param problem: Why, if it is not because the attempt has ended or somebody ends it.
    :return: The task afterwards.
    """
    task = await context.change(
        key, lambda found: note_ending(found, fence=fence, now=context.now(), problem=problem)
    )
    pod = find_pod(task, fence)
    if pod is None or pod.gone_at:
        return await _close(context, key, fence)
    ended_at = await terminate(context, pod.id) if pod.id else None
    await _pay(context, key, task, fence, ended_at)
    return await _close(context, key, fence)


async def terminate(context: PodContext, pod_id: str) -> datetime:
    """
    Ask for a pod's end until it is proven gone.

    :return: When the end was first taken in, or the pod first seen gone.
    """
    accepted: datetime | None = None
    rounds = 0
    while True:
        try:
            await context.api.terminate_pod(pod_id)
            accepted = accepted or context.now()
        except PodNotFound:
            pass  # alone it proves nothing
        except TransientError as error:
            log.info("pod %s: %s", pod_id, error)
        except PermanentError as error:
            # Only further tries help: an admin who repairs the account repairs this too.
            log.error("pod %s cannot be ended, and may cost money: %s", pod_id, error)
        looked = context.now()
        if await is_proven_gone(context, pod_id):
            return accepted or looked
        rounds += 1
        await context.sleep(BACKOFF.after(rounds))


async def is_proven_gone(context: PodContext, pod_id: str) -> bool:
    """Tell whether two looks in a row, some time apart, do not find a pod."""
    if not await _is_absent(context.api, pod_id):
        return False
    await context.sleep(context.settings.runpod.confirm_seconds)
    return await _is_absent(context.api, pod_id)


async def _is_absent(api: AsyncPodApi, pod_id: str) -> bool:
    try:
        return (await api.get_pod(pod_id)).status is PodStatus.TERMINATED
    except PodNotFound:
        return True
    except (TransientError, PermanentError) as error:
        log.info("pod %s: %s", pod_id, error)
        return False


async def _pay(
    context: PodContext, key: TaskRef, task: Task, fence: int, ended_at: datetime | None
) -> None:
    """Count what the pod has cost, then note it gone: in this order it is repeated, not lost."""
    is_useful = task.fence == fence and is_fulfilled(task)
    seconds, usd = await asyncio.to_thread(
        context.ledger.close, task, fence, ended_at=ended_at, is_useful=is_useful
    )
    changed = await context.change(
        key,
        lambda found: note_gone(found, fence=fence, seconds=seconds, usd=usd, now=context.now()),
    )
    pod_id = find_pod_id(changed, fence)
    log.info("%s: pod %s is gone after %s s, $%.4f", key, pod_id, seconds, usd)


async def _close(context: PodContext, key: TaskRef, fence: int) -> Task:
    return await context.change(
        key, lambda found: close_attempt(found, fence=fence, now=context.now())
    )
