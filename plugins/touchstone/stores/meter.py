"""What pods cost: their meters, in DynamoDB."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Self

from boto3.dynamodb.types import TypeDeserializer, TypeSerializer
from botocore.exceptions import ClientError

from touchstone.core.meter import Entry, EntryKind, Rental
from touchstone.core.records.stored import RecordUnreadable, load_named
from touchstone.settings import Settings
from touchstone.stores.aws import build_client, get_error_code, translated_errors
from touchstone_agent.protocol.errors import PermanentError

log = logging.getLogger(__name__)

MONTH_INDEX: Final = "month"
SUBMISSION_INDEX: Final = "submission"
UNBILLED_INDEX: Final = "unbilled"
"""Attribute, and index by it and by when they ended, of the few pods whose bill is still to come.
It is a mark beside the entry that a pod is gone, and no word of the meter's: taking it away takes
nothing from what the meter says."""
_YES: Final = "yes"

Item = dict[str, object]
"""An item, or a part of a request, as DynamoDB takes it."""

_serializer = TypeSerializer()
# By its types it takes only what boto3 has built itself.
_deserializer: Any = TypeDeserializer()


class Meter:
    """
    Up to three entries for each pod, see :mod:`touchstone.core.meter`.

    Nothing is ever taken away. An entry is written once: a second writer gets the one
    that is there, so that all who book by it book the same. Only of two bills the later one holds.

    :param client: A DynamoDB client.
    :param settings: Names of the tables.
    """

    def __init__(self, client: Any, settings: Settings) -> None:
        self._client = client
        self._table = settings.meter_table

    @classmethod
    def connect(cls, settings: Settings) -> Self:
        """Return a meter that uses the installation's AWS connection."""
        return cls(build_client("dynamodb", settings.aws_conn_id), settings)

    def open(self, rental: Rental) -> Entry:
        """
        Write that a pod's bill has begun.

        :return: The entry that is there now, maybe since earlier; likewise below.
        """
        return self._put(rental.open())

    def close(self, rental: Rental, *, at: datetime, is_useful: bool) -> Entry:
        """
        Write that a pod is gone.

        :param at: When that was certain.
        :param is_useful: Whether its attempt ended well.
        """
        return self._put(rental.close(at, is_useful=is_useful))

    def bill(self, rental: Rental, *, at: datetime, micros: int) -> Entry:
        """
        Write what RunPod has billed for a pod.

        :param at: When RunPod was asked: another amount that was told later takes its place.
        :param micros: What it said, micro-dollars.
        """
        return self._put(rental.bill(at, micros))

    def note_unbilled(self, entry: Entry) -> None:
        """Mark a pod that is gone and waits for its bill, unless it is marked."""
        self._set_mark(entry, "SET #mark = :yes", {":yes": {"S": _YES}})

    def note_billed(self, entry: Entry) -> None:
        """Take the mark of a pod away whose bill has come and is booked everywhere."""
        self._set_mark(entry, "REMOVE #mark", {})

    def list_unbilled(self, since: datetime) -> list[Entry]:
        """
        Return how marked pods were closed since then, oldest first; the newest may lack.

        An entry that makes no sense is left out and logged: it keeps no other from its bill.
        """
        found = self._query(
            UNBILLED_INDEX, _YES, index=UNBILLED_INDEX, since=since, skip_unreadable=True
        )
        return sorted(found, key=lambda entry: (entry.at, entry.rental.pod_id))

    def list_pod(self, pod_name: str) -> list[Entry]:
        """Return the entries of all pods of a name, by kind."""
        return _sort(self._query("pod", pod_name))

    def list_month(self, month: str) -> list[Entry]:
        """Return the entries of all pods launched in a month (``2026-11``); the newest may lack."""
        return _sort(self._query("month", month, index=MONTH_INDEX))

    def list_submission(self, submission_id: str) -> list[Entry]:
        """Return the entries of all pods of a submission; the newest may be missing."""
        return _sort(self._query("submission_id", submission_id, index=SUBMISSION_INDEX))

    # --- the one way in and out ----------------------------------------------------------

    def _put(self, entry: Entry) -> Entry:
        condition: Item = {
            "ConditionExpression": "attribute_not_exists(#pod)",
            "ExpressionAttributeNames": {"#pod": "pod"},
        }
        record = entry.dump()
        if entry.kind is EntryKind.CLOSED:
            record[UNBILLED_INDEX] = _YES
        if entry.kind is EntryKind.BILLED:
            condition = {
                "ConditionExpression": (
                    "attribute_not_exists(#pod) OR (#micros <> :micros AND #at <= :at)"
                ),
                "ExpressionAttributeNames": {"#pod": "pod", "#micros": "micros", "#at": "at"},
                "ExpressionAttributeValues": to_item(
                    {":micros": record["micros"], ":at": record["at"]}
                ),
            }
        try:
            with translated_errors(f"writing {entry.id} of pod {entry.rental.pod}"):
                self._client.put_item(
                    TableName=self._table,
                    Item=to_item(record),
                    ReturnValuesOnConditionCheckFailure="ALL_OLD",
                    **condition,
                )
        except PermanentError as error:
            standing = _find_standing(error)
            if standing is None:
                raise
            return _to_entry(standing)
        return entry

    def _set_mark(self, entry: Entry, change: str, values: Item) -> None:
        request: Item = {"ExpressionAttributeValues": values} if values else {}
        try:
            with translated_errors(f"marking {entry.id} of pod {entry.rental.pod}"):
                self._client.update_item(
                    TableName=self._table,
                    Key=to_item({"pod": entry.rental.pod, "entry": entry.id}),
                    UpdateExpression=change,
                    # Not to bring one back that somebody has deleted, as an item with a mark alone.
                    ConditionExpression="attribute_exists(#pod)",
                    ExpressionAttributeNames={"#pod": "pod", "#mark": UNBILLED_INDEX},
                    **request,
                )
        except PermanentError as error:
            if not _is_condition_failure(error):
                raise

    def _query(
        self,
        key: str,
        value: str,
        index: str | None = None,
        since: datetime | None = None,
        *,
        skip_unreadable: bool = False,
    ) -> list[Entry]:
        """
        Return entries.

        :raises RecordUnreadable: If one makes no sense, unless such are to be skipped: without it
            a sum would be too small.
        """
        more: Item = {"IndexName": index} if index else {"ConsistentRead": True}
        # The older way to say it: MiniStack reads an expression anew for each item of an index.
        conditions = {key: _build_condition("EQ", value)}
        if since is not None:
            conditions["at"] = _build_condition("GE", since.isoformat())
        hint = " (`touchstone init` makes the index)" if index else ""
        with translated_errors(f"listing the meters of {value}{hint}"):
            pages = self._client.get_paginator("query").paginate(
                TableName=self._table,
                KeyConditions=conditions,
                **more,
            )
            items = [item for page in pages for item in page["Items"]]
        found = []
        for item in items:
            try:
                found.append(_to_entry(item))
            except RecordUnreadable as error:
                if not skip_unreadable:
                    raise
                log.error("left out of the pods that wait for a bill: %s", error)
        return found


def _build_condition(operator: str, value: str) -> Item:
    return {"ComparisonOperator": operator, "AttributeValueList": [{"S": value}]}


def _to_entry(item: Mapping[str, object]) -> Entry:
    stored = from_item(item)
    return load_named(Entry, f"{stored['entry']} of pod {stored['pod']}", stored)


def _sort(entries: list[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda entry: (entry.rental.pod, entry.id))


def _find_standing(error: PermanentError) -> Mapping[str, object] | None:
    """Return the entry that a write found in its place."""
    if not _is_condition_failure(error):
        return None
    response: Mapping[str, object] = getattr(error.__cause__, "response", {})
    item = response.get("Item")
    return item if isinstance(item, Mapping) else None


def _is_condition_failure(error: PermanentError) -> bool:
    cause = error.__cause__
    return (
        isinstance(cause, ClientError)
        and get_error_code(cause) == "ConditionalCheckFailedException"
    )


def to_item(record: Mapping[str, object]) -> Item:
    """Return a record of texts, whole numbers and lists of them as DynamoDB takes it."""
    return {name: _serializer.serialize(value) for name, value in record.items()}


def from_item(item: Mapping[str, object]) -> dict[str, object]:
    """Return what :func:`to_item` was given."""
    record = {name: _deserializer.deserialize(value) for name, value in item.items()}
    return {
        name: int(value) if isinstance(value, Decimal) else value for name, value in record.items()
    }
