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
from touchstone.core.records.notes import BillingNote
from touchstone.services.pods.context import PodContext, TaskRef
from touchstone.stores.tables import RecordNotFound
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


async def take_bills(context: PodContext) -> int:
    """
    Take the bills of all pods that are gone and have none yet; one that fails keeps none from it.

    :return: How many were taken.
    :raises TouchstoneError: If RunPod or the stores cannot be asked; the next call goes on.
    """
    await asyncio.to_thread(_search, context)
    unbilled = await asyncio.to_thread(context.ledger.list_unbilled, context.now())
    if not unbilled:
        return 0
    bills = {bill.pod_id: bill.usd for bill in await context.api.list_bills()}
    taken = 0
    for closed in unbilled:
        usd = bills.get(closed.rental.pod_id)
        if usd is None or not _is_final(context, closed, usd):
            continue
        try:
            await _take(context, closed, usd)
        except TouchstoneError as error:
            log.warning("the bill of pod %s is taken later: %s", closed.rental.pod_id, error)
        else:
            taken += 1
    return taken


def _search(context: PodContext) -> None:
    note, now = context.records.find_note(BillingNote), context.now()
    at = note.searched_at
    if note.searches >= _SEARCHES or (at is not None and now - at < _SEARCH_AFTER):
        return
    found = context.ledger.find_unbilled(now)
    log.info("%s pods of this month and the last wait for RunPod's bill", found)
    context.records.put_note(BillingNote(searches=note.searches + 1, searched_at=now))


def _is_final(context: PodContext, closed: Entry, usd: Decimal) -> bool:
    is_like_ours = abs(usd - to_usd(closed.micros or 0)) <= TOLERANCE
    return is_like_ours or context.now() - closed.at >= FINAL_AFTER


async def _take(context: PodContext, closed: Entry, usd: Decimal) -> None:
    rental = closed.rental
    total = await asyncio.to_thread(context.ledger.bill, rental, usd=usd, at=context.now())
    key = TaskRef(submission_id=rental.submission_id, task_id=rental.task_id)
    # A user may have deleted the submission; its cost counts all the same.
    with contextlib.suppress(RecordNotFound):
        await context.change(key, lambda found: note_bill(found, fence=rental.fence, usd=total))
    # Last: after a crash before this line the next caller does it all again.
    await asyncio.to_thread(context.ledger.note_billed, closed)
    log.info("%s: RunPod's bill of pod %s is $%.4f", key, rental.pod_id, usd)
