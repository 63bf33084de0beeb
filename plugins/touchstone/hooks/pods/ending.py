"""
Giving a pod back: asked for until it is proven, then paid, then on record.

Whoever does it may die anywhere and somebody else begins anew: every step is the same when it is
taken twice. A trigger does it for its own attempt, the reaper for what nobody waits for any more.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime

from touchstone.core.attempts import is_fulfilled
from touchstone.core.pod_attempts import (
    Problem,
    close_attempt,
    find_pod,
    note_ending,
    note_gone,
)
from touchstone.core.pods import PodStatus
from touchstone.hooks.pods.desk import PodDesk, TaskKey
from touchstone.hooks.records import Record
from touchstone.hooks.runpod.api import AsyncPodApi
from touchstone.hooks.runpod.errors import PodNotFound
from touchstone_agent.core.backoff import Backoff
from touchstone_agent.protocol.errors import PermanentError, TransientError

log = logging.getLogger(__name__)

BACKOFF = Backoff(first_seconds=1, cap_seconds=60)


async def give_back(
    desk: PodDesk, key: TaskKey, *, fence: int, problem: Problem | None = None
) -> Record:
    """
    End an attempt's pod for good; returns only when it is proven gone and on record.

    Without limit in time: a pod that is not proven gone may cost money, and holds its slot.

    :param fence: Which attempt's.
    :param problem: Why, if it is not because the attempt has ended or somebody ends it.
    :return: The task's record afterwards.
    """
    record = await desk.change(
        key, lambda found: note_ending(found, fence=fence, now=desk.now(), problem=problem)
    )
    pod = find_pod(record, fence)
    if pod is None or pod.get("gone_at"):
        return await _close(desk, key, fence)
    ended_at = await terminate(desk, str(pod["id"])) if pod.get("id") else None
    await _pay(desk, key, record, fence, ended_at)
    return await _close(desk, key, fence)


async def terminate(desk: PodDesk, pod_id: str) -> datetime:
    """
    Ask for a pod's end until it is proven gone.

    :return: When the end was first taken in, or the pod first seen gone.
    """
    accepted: datetime | None = None
    rounds = 0
    while True:
        try:
            await desk.api.terminate_pod(pod_id)
            accepted = accepted or desk.now()
        except PodNotFound:
            pass  # alone it proves nothing
        except TransientError as error:
            log.info("pod %s: %s", pod_id, error)
        except PermanentError as error:
            # Nothing else can be done than to try on: whoever mends the account mends this too.
            log.error("pod %s cannot be ended, and may cost money: %s", pod_id, error)
        looked = desk.now()
        if await is_proven_gone(desk, pod_id):
            return accepted or looked
        rounds += 1
        await desk.sleep(BACKOFF.after(rounds))


async def is_proven_gone(desk: PodDesk, pod_id: str) -> bool:
    """Tell whether two looks in a row, some time apart, do not find a pod."""
    if not await _is_absent(desk.api, pod_id):
        return False
    await desk.sleep(desk.settings.runpod.confirm_seconds)
    return await _is_absent(desk.api, pod_id)


async def _is_absent(api: AsyncPodApi, pod_id: str) -> bool:
    try:
        return (await api.get_pod(pod_id)).status is PodStatus.TERMINATED
    except PodNotFound:
        return True
    except (TransientError, PermanentError) as error:
        log.info("pod %s: %s", pod_id, error)
        return False


async def _pay(
    desk: PodDesk, key: TaskKey, record: Record, fence: int, ended_at: datetime | None
) -> None:
    """Count what the pod has cost, then note it gone: in this order it is repeated, not lost."""
    is_useful = record["fence"] == fence and is_fulfilled(record)
    seconds, usd = await asyncio.to_thread(
        desk.ledger.close, record, fence, ended_at=ended_at, is_useful=is_useful
    )
    changed = await desk.change(
        key, lambda found: note_gone(found, fence=fence, seconds=seconds, usd=usd, now=desk.now())
    )
    pod = find_pod(changed, fence) or {}
    log.info("%s: pod %s is gone after %s s, $%.4f", key, pod.get("id"), seconds, usd)


async def _close(desk: PodDesk, key: TaskKey, fence: int) -> Record:
    return await desk.change(key, lambda found: close_attempt(found, fence=fence, now=desk.now()))
