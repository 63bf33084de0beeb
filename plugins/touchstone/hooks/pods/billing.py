"""RunPod's own bills, taken instead of our count as soon as they can be final."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from datetime import timedelta
from decimal import Decimal

from touchstone.core.meter import Entry
from touchstone.core.money import to_usd
from touchstone.core.pod_attempts import note_bill
from touchstone.hooks.pods.desk import PodDesk, TaskKey
from touchstone.hooks.records import RecordNotFound

log = logging.getLogger(__name__)

FINAL_AFTER = timedelta(hours=3)
"""How long after its end a pod's bill may still grow."""
TOLERANCE = Decimal("0.02")
"""What a bill may differ from our own count, in USD, to be believed at once."""


async def take_bills(desk: PodDesk) -> int:
    """
    Take the bills of all pods that are gone and have none yet.

    :return: How many were taken.
    :raises TouchstoneError: If RunPod or the stores cannot be asked; the next call goes on.
    """
    unbilled = await asyncio.to_thread(desk.ledger.list_unbilled, desk.now())
    if not unbilled:
        return 0
    bills = {bill.pod_id: bill.usd for bill in await desk.api.list_bills()}
    taken = 0
    for closed in unbilled:
        usd = bills.get(closed.rental.pod_id)
        if usd is not None and _is_final(desk, closed, usd):
            await _take(desk, closed, usd)
            taken += 1
    return taken


def _is_final(desk: PodDesk, closed: Entry, usd: Decimal) -> bool:
    is_like_ours = abs(usd - to_usd(closed.micros or 0)) <= TOLERANCE
    return is_like_ours or desk.now() - closed.at >= FINAL_AFTER


async def _take(desk: PodDesk, closed: Entry, usd: Decimal) -> None:
    rental = closed.rental
    total = await asyncio.to_thread(desk.ledger.bill, rental, usd=usd, at=desk.now())
    key = TaskKey(submission_id=rental.submission_id, task_id=rental.task_id)
    # Somebody may have deleted the submission; what it cost is counted all the same.
    with contextlib.suppress(RecordNotFound):
        await desk.change(key, lambda found: note_bill(found, fence=rental.fence, usd=total))
    log.info("%s: RunPod's bill of pod %s is $%.4f", key, rental.pod_id, usd)
