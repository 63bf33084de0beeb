"""
What may be spent on pods: budgets, in DynamoDB.

A process that rents a pod takes these steps. It may die after any of them and begin again: reserve
the worst case; order it; open its meter (:mod:`touchstone.stores.meter`). When it is gone: close
its meter; settle for what the meter says. When RunPod's bill is there: write it on the meter;
correct what was settled. Every step may be done twice, or by two at once.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Final, Self

from botocore.exceptions import ClientError

from touchstone.core.money import (
    BudgetState,
    BudgetUse,
    Move,
    Posting,
    Reservation,
    Scope,
    describe_refusal,
    plan_correction,
    plan_reservation,
    plan_settlement,
)
from touchstone.core.records.stored import RecordUnreadable, load_named
from touchstone.settings import Settings
from touchstone.stores.aws import build_client, get_error_code, translated_errors
from touchstone.stores.meter import Item, from_item, to_item
from touchstone_agent.core.backoff import Backoff
from touchstone_agent.protocol.errors import PermanentError, TransientError

log = logging.getLogger(__name__)

OPEN_INDEX: Final = "open"
"""Attribute, and index by it, of what is reserved and not settled."""
_YES: Final = "yes"

PATIENCE_SECONDS: Final = 20.0
"""How long a booking is tried while others change the same budgets."""

_POD = "pod:"
_BACKOFF = Backoff(first_seconds=0.02, cap_seconds=1.0, jitter=0)
"""Chance decides of all of a pause here: many book at the same moment."""

_BATCH_GET_LIMIT = 100
_REFUSED = "ConditionalCheckFailed"
_CONTENDED = frozenset({"TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"})
"""Reasons of a cancelled transaction that say "not now"."""


class OverBudget(PermanentError):
    """
    A budget does not allow a pod; the message is for the engineer.

    :param scope: The budget's id.
    :param left: What is left of it for this pod, micro-dollars.
    :param needed: What the pod may cost, micro-dollars.
    """

    def __init__(self, scope: str, *, left: int, needed: int) -> None:
        super().__init__(describe_refusal(scope, left=left, needed=needed))
        self.scope = scope
        self.left = left
        self.needed = needed


class ReservationSettled(PermanentError):
    """The pod's money is settled: its attempt is over, and nothing may be rented for it."""


class ReservationOpen(PermanentError):
    """The pod's money is not settled, so there is nothing to correct: settle it first."""


class Budgets:
    """
    What may be spent on pods: reserved before each launch, settled after its end.

    A budget holds what is used (reserved or spent) and, of that, what is spent. Its limit is not
    stored: each booking compares what is used with the limit as it is configured now, in the same
    transaction that changes it. So a new limit holds from the next booking on, and two processes
    with different settings each keep to their own.

    :param client: A DynamoDB client.
    :param settings: Names of the tables.
    :param clock: Monotonic seconds.
    :param sleep: Makes pauses.
    :param jitter: Numbers between 0 and 1, for pauses.
    """

    def __init__(
        self,
        client: Any,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._client = client
        self._table = settings.budgets_table
        self._clock = clock
        self._sleep = sleep
        self._jitter = jitter

    @classmethod
    def connect(cls, settings: Settings) -> Self:
        """Return budgets that use the installation's AWS connection."""
        return cls(build_client("dynamodb", settings.aws_conn_id), settings)

    def reserve(self, pod_name: str, amount: int, scopes: Sequence[Scope]) -> Reservation:
        """
        Reserve the worst case of a pod in all its budgets, or in none.

        :param pod_name: Whose; reserved again, for another offer, it is changed to that amount.
        :param amount: Micro-dollars.
        :param scopes: The budgets, with their limits as they are now.
        :raises OverBudget: If one of them does not allow it; what was reserved before stays so.
        :raises ReservationSettled: If the pod's attempt is over: somebody has come too late.
        :raises TransientError: If others are at it all the time, or the store does not answer.
        """

        def decide(known: Reservation | None) -> Posting:
            if known is not None and known.is_settled:
                raise ReservationSettled(f"the money of pod {pod_name} is settled already")
            return plan_reservation(known, pod_name, amount, scopes)

        return self._book(pod_name, decide)

    def settle(self, pod_name: str, actual: int) -> Reservation:
        """
        Give back what a pod has not used, for it will cost no more.

        The first amount holds, see :meth:`correct`. A pod for which nothing was reserved is
        closed, too; an amount of it is on no budget then.

        :param actual: What it has cost, micro-dollars; 0 if it was never rented. May be more than
            was reserved.
        :return: What is on record now, maybe since earlier.
        :raises TransientError: As for :meth:`reserve`.
        """
        return self._book(pod_name, lambda known: plan_settlement(known, pod_name, actual))

    def correct(self, pod_name: str, actual: int) -> Reservation:
        """
        Replace what a settled pod has cost, by RunPod's own bill.

        :param actual: Micro-dollars.
        :raises ReservationOpen: If it is not settled: the bill of a pod that is not known to be
            gone is not its last.
        :raises TransientError: As for :meth:`reserve`.
        """

        def decide(known: Reservation | None) -> Posting:
            if known is None or not known.is_settled:
                raise ReservationOpen(f"the money of pod {pod_name} is not settled yet")
            return plan_correction(known, actual)

        return self._book(pod_name, decide)

    def read(self, scopes: Iterable[Scope]) -> list[BudgetState]:
        """Return how budgets stand, in the order asked for; each as it is at one moment."""
        asked = list(scopes)
        used = self._read_scopes(list(dict.fromkeys(scope.id for scope in asked)))
        states = []
        for scope in asked:
            known = used.get(scope.id) or BudgetUse(scope=scope.id, used=0, spent=0)
            reserved = known.used - known.spent
            states.append(BudgetState(scope=scope, reserved=reserved, spent=known.spent))
        return states

    def find_reservation(self, pod_name: str) -> Reservation | None:
        """Return what is on record of a pod's money."""
        return self._find(pod_name)

    def list_open(self) -> list[Reservation]:
        """
        Return what is reserved and not settled, by pod; the newest may be missing.

        The process that reserved may have died before the order was on record: a reservation whose
        attempt has ended without a pod is to be settled for nothing.
        """
        return sorted(self._list_open(), key=lambda reservation: reservation.pod)

    def _book(self, pod_name: str, decide: Callable[[Reservation | None], Posting]) -> Reservation:
        deadline = self._clock() + PATIENCE_SECONDS
        for attempt in count(1):
            posting = decide(self._find(pod_name))
            if posting.is_done or self._write(posting):
                return posting.after
            if self._clock() >= deadline:
                break
            self._sleep(_BACKOFF.after(attempt) * self._jitter())
        raise TransientError(
            f"the budgets of pod {pod_name} were changed by others for {PATIENCE_SECONDS:g} s"
        )

    # --- the one way in and out ----------------------------------------------------------

    def _find(self, pod_name: str) -> Reservation | None:
        with translated_errors(f"reading the money of pod {pod_name}"):
            answer = self._client.get_item(
                TableName=self._table,
                Key=to_item({"scope": _POD + pod_name}),
                ConsistentRead=True,
            )
        return _to_reservation(answer["Item"]) if "Item" in answer else None

    def _write(self, posting: Posting) -> bool:
        """Write a posting; return whether it is written, or to be decided anew."""
        actions = [self._build_put(posting), *map(self._build_update, posting.moves)]
        try:
            with translated_errors(f"booking pod {posting.after.pod}"):
                self._client.transact_write_items(TransactItems=actions)
        except PermanentError as error:
            _refuse_or_go_on(error, posting)
            return False
        return True

    def _build_put(self, posting: Posting) -> Item:
        record = posting.after.dump()
        del record["pod"]
        record["scope"] = _POD + posting.after.pod
        if not posting.after.is_settled:
            # Only what has this attribute is in the index.
            record[OPEN_INDEX] = _YES
        put: Item = {
            "TableName": self._table,
            "Item": to_item(record),
            "ConditionExpression": "attribute_not_exists(#scope)",
            "ExpressionAttributeNames": {"#scope": "scope"},
        }
        if posting.before is not None:
            put |= {
                "ConditionExpression": "#version = :version",
                "ExpressionAttributeNames": {"#version": "version"},
                "ExpressionAttributeValues": to_item({":version": posting.before.version}),
            }
        return {"Put": put}

    def _build_update(self, move: Move) -> Item:
        values = {":used": move.used, ":spent": move.spent}
        update: Item = {
            "TableName": self._table,
            "Key": to_item({"scope": move.scope}),
            "UpdateExpression": "ADD #used :used, #spent :spent",
            "ExpressionAttributeNames": {"#used": "used", "#spent": "spent"},
        }
        if move.ceiling is not None:
            values[":ceiling"] = move.ceiling
            # A budget that nothing was taken of yet has used 0.
            fresh = "attribute_not_exists(#used) OR " if move.ceiling >= 0 else ""
            update["ConditionExpression"] = f"{fresh}#used <= :ceiling"
            update["ReturnValuesOnConditionCheckFailure"] = "ALL_OLD"
        return {"Update": update | {"ExpressionAttributeValues": to_item(values)}}

    def _read_scopes(self, scope_ids: Sequence[str]) -> dict[str, BudgetUse]:
        wanted = [to_item({"scope": scope_id}) for scope_id in scope_ids]
        found: dict[str, BudgetUse] = {}
        while wanted:
            batch, wanted = wanted[:_BATCH_GET_LIMIT], wanted[_BATCH_GET_LIMIT:]
            with translated_errors(f"reading {len(batch)} budgets"):
                answer = self._client.batch_get_item(
                    RequestItems={self._table: {"Keys": batch, "ConsistentRead": True}}
                )
            for item in answer["Responses"].get(self._table, ()):
                budget = _to_budget(item)
                found[budget.scope] = budget
            wanted += answer.get("UnprocessedKeys", {}).get(self._table, {}).get("Keys", [])
        return found

    def _list_open(self) -> list[Reservation]:
        with translated_errors("listing open reservations"):
            pages = self._client.get_paginator("query").paginate(
                TableName=self._table,
                IndexName=OPEN_INDEX,
                KeyConditionExpression="#open = :yes",
                ExpressionAttributeNames={"#open": "open"},
                ExpressionAttributeValues=to_item({":yes": _YES}),
            )
            items = [item for page in pages for item in page["Items"]]
        found = []
        for item in items:
            try:
                found.append(_to_reservation(item))
            except RecordUnreadable as error:
                # It stays reserved, and keeps no other from being given back.
                log.error("left out of the open reservations: %s", error)
        return found


def _refuse_or_go_on(error: PermanentError, posting: Posting) -> None:
    """Return if others were at the same items; raise what no other try would change."""
    cause = error.__cause__
    if not isinstance(cause, ClientError):
        raise error
    if get_error_code(cause) == "TransactionInProgressException":
        return
    reasons = _read_reasons(cause)
    codes = {reason.code for reason in reasons} - {"None"}
    if not codes or codes - _CONTENDED - {_REFUSED}:
        raise error
    of_pod, *of_budgets = reasons
    if of_pod.code != "None":
        return
    # Only now: a reservation that has changed meanwhile would need another amount.
    for move, reason in zip(posting.moves, of_budgets, strict=True):
        if reason.code == _REFUSED:
            used = _to_budget(reason.item).used if reason.item else 0
            raise build_refusal(posting, move, used=used)


@dataclass(frozen=True, kw_only=True)
class _Reason:
    """
    Why one item of a transaction was refused.

    :param code: ``None`` in letters for one that was not.
    :param item: What is there; ``None`` if nothing is.
    """

    code: str
    item: Mapping[str, object] | None


def _read_reasons(error: ClientError) -> list[_Reason]:
    response: Mapping[str, object] = {**error.response}
    found = response.get("CancellationReasons")
    return [
        _Reason(code=str(each["Code"]), item=each.get("Item"))
        for each in (found if isinstance(found, list) else ())
    ]


def build_refusal(posting: Posting, move: Move, *, used: int) -> OverBudget:
    """
    Return the error for a budget that does not allow a posting.

    :param used: What is used of that budget; what the pod itself holds of it is left for it.
    """
    needed = posting.after.reserved
    return OverBudget(move.scope, left=(move.ceiling or 0) + needed - used, needed=needed)


def _to_budget(item: Mapping[str, object]) -> BudgetUse:
    stored = from_item(item)
    return load_named(BudgetUse, str(stored["scope"]), stored)


def _to_reservation(item: Mapping[str, object]) -> Reservation:
    stored = from_item(item)
    # What is left to it is the key and the index's mark, which a booking writes by itself.
    pod = str(stored.pop("scope")).removeprefix(_POD)
    stored.pop(OPEN_INDEX, None)
    return load_named(Reservation, f"the money of pod {pod}", stored | {"pod": pod})
