"""RunPod's own bills, taken instead of our count as soon as they can be final."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from datetime import datetime, timedelta
from decimal import Decimal

from touchstone.core.meter import Entry
from touchstone.core.money import to_usd
from touchstone.core.pod_attempts import note_bill
from touchstone.hooks.pods.desk import PodDesk, TaskKey
from touchstone.hooks.pods.facts import BILLING
from touchstone.hooks.records import RecordNotFound
from touchstone_agent.protocol.errors import TouchstoneError

log = logging.getLogger(__name__)

FINAL_AFTER = timedelta(hours=3)
"""How long after its end a pod's bill may still grow."""
TOLERANCE = Decimal("0.02")
"""What a bill may differ from our own count, in USD, to be believed at once."""
_SEARCHES = 2
"""How often all meters are looked through for pods of an earlier version, which marked none: at
once, and a day later for those that a program of that version closed while it was replaced."""
_SEARCH_AFTER = timedelta(days=1)


async def take_bills(desk: PodDesk) -> int:
    """
    Take the bills of all pods that are gone and have none yet; one that fails keeps none from it.

    :return: How many were taken.
    :raises TouchstoneError: If RunPod or the stores cannot be asked; the next call goes on.
    """
    await asyncio.to_thread(_search, desk)
    unbilled = await asyncio.to_thread(desk.ledger.list_unbilled, desk.now())
    if not unbilled:
        return 0
    bills = {bill.pod_id: bill.usd for bill in await desk.api.list_bills()}
    taken = 0
    for closed in unbilled:
        usd = bills.get(closed.rental.pod_id)
        if usd is None or not _is_final(desk, closed, usd):
            continue
        try:
            await _take(desk, closed, usd)
        except TouchstoneError as error:
            log.warning("the bill of pod %s is taken later: %s", closed.rental.pod_id, error)
        else:
            taken += 1
    return taken


def _search(desk: PodDesk) -> None:
    note, now = desk.records.find_note(BILLING), desk.now()
    count, at = int(note.get("searches") or 0), note.get("searched_at")
    if count >= _SEARCHES or (at and now - datetime.fromisoformat(at) < _SEARCH_AFTER):
        return
    found = desk.ledger.find_unbilled(now)
    log.info("%s pods of this month and the last wait for RunPod's bill", found)
    facts = {"searches": count + 1, "searched_at": now.isoformat()}
    desk.records.put_note(BILLING, facts)


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
    # Last: whoever dies before is followed by somebody who does it all again.
    await asyncio.to_thread(desk.ledger.note_billed, closed)
    log.info("%s: RunPod's bill of pod %s is $%.4f", key, rental.pod_id, usd)
