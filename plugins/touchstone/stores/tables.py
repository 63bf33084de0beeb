"""What all stores of records have in common: one way in and out of DynamoDB, by version."""

from __future__ import annotations

import heapq
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import groupby, islice
from operator import itemgetter
from typing import Any, TypeVar

from boto3.dynamodb.types import TypeSerializer
from botocore.exceptions import ClientError
from pydantic import JsonValue

from touchstone.core.records.stored import StoredRecord, load_named
from touchstone.stores.aws import get_error_code, translated_errors
from touchstone_agent.core.backoff import Backoff
from touchstone_agent.protocol.errors import PermanentError, TouchstoneError, TransientError

Record = dict[str, JsonValue]
"""A record as plain JSON values: numbers are int or float, times ISO 8601 in UTC."""

Item = Mapping[str, object]
"""A record as DynamoDB takes it: each value with its type's letter."""

Model = TypeVar("Model", bound=StoredRecord)

VERSION = "version"

AT_WORK = "at_work"
"""Attribute, and index by it, of the few records that somebody is at work on; the many others,
that have ended or not begun, do not have it and cost nobody anything."""

WEEK = "week"
"""Attribute of tasks: the week in which they were put on record; see :func:`find_week`."""

_MARKS = frozenset({AT_WORK, WEEK})
"""Attributes that follow from the rest of a record, and that only an index needs."""

MAX_RECORD_BYTES = 390 * 1024
"""DynamoDB takes 400 KiB, and says so only when somebody writes."""

_WEIGHED_FROM = 100 * 1024
"""A record whose JSON is shorter than this cannot be too large."""

_NAMED_FIELDS = 3

_ATTEMPTS_AT_A_WRITE = 8

_MOST_BESIDE = 99
"""DynamoDB takes 100 writes in one transaction, one of which is the record's own."""

_REFUSED = "ConditionalCheckFailed"
_CONTENDED = ("TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded")
"""Reasons of a cancelled transaction that say "not now"."""

BATCH_GET_LIMIT = 100

_UNPROCESSED_BACKOFF = Backoff(first_seconds=0.05, cap_seconds=2, jitter=0.5)

_UNPROCESSED_ROUNDS = 8
"""About six seconds; a caller that reads many tasks at once does so again soon."""

_serializer = TypeSerializer()


class RecordNotFound(PermanentError):
    """There is no record with that id."""


class RecordUnfit(PermanentError):
    """
    A record cannot be stored.

    A value in it is not JSON, not finite, a number beyond DynamoDB's range, no text in any
    encoding; or all of it together is too large. The same will always be refused: whatever
    somebody reported that does not fit must end in another way than by being tried again.
    """


class RecordExists(PermanentError):
    """A record with that id exists already; it was not touched."""


def to_item(record: Mapping[str, object]) -> Item:
    """
    Return a record as DynamoDB takes it.

    :raises RecordUnfit: If a value of it, or all of it together, cannot be stored.
    """
    # Through JSON text, so that a float becomes the Decimal of its shortest form: reading it
    # back gives the same float, and the same number stands in result.json.
    try:
        text = json.dumps(record, allow_nan=False, ensure_ascii=False)
        size = len(text.encode())
        plain = json.loads(text, parse_float=Decimal)
        item = {key: _serializer.serialize(value) for key, value in plain.items()}
    except (ArithmeticError, RecursionError, TypeError, ValueError) as error:
        raise RecordUnfit(f"a value does not fit in a record: {error!r}"[:500]) from error
    if size > _WEIGHED_FROM:
        _check_weight(item)
    return item


def _check_weight(item: Item) -> None:
    sizes = {key: len(key.encode()) + _weigh(value) for key, value in item.items()}
    total = sum(sizes.values())
    if total > MAX_RECORD_BYTES:
        largest = sorted(sizes, key=lambda key: sizes[key], reverse=True)[:_NAMED_FIELDS]
        named = ", ".join(f"{key} ({sizes[key]})" for key in largest)
        raise RecordUnfit(
            f"a record of {total} bytes is more than the {MAX_RECORD_BYTES} that one may have; "
            f"the largest fields are {named}"
        )


def _weigh(value: object) -> int:
    """Return the bytes of a value as DynamoDB counts them; of a number the most it may take."""
    ((kind, content),) = value.items() if isinstance(value, Mapping) else [("", value)]
    if isinstance(content, str):
        return len(content.encode()) if kind == "S" else min(21, len(content) // 2 + 2)
    if isinstance(content, list):
        return 3 + sum(1 + _weigh(item) for item in content)
    if isinstance(content, Mapping):
        return 3 + sum(1 + len(key.encode()) + _weigh(item) for key, item in content.items())
    return 1


def _read(value: Any) -> JsonValue:
    """Return a value of an item; in one pass, for a list is made of some hundred thousand."""
    ((kind, content),) = value.items()
    found: JsonValue
    if kind == "M":
        found = {key: _read(item) for key, item in content.items()}
    elif kind == "L":
        found = [_read(item) for item in content]
    elif kind == "N":
        found = _read_number(content)
    elif kind == "NULL":
        found = None
    elif kind == "NS":
        found = [_read_number(item) for item in content]
    elif kind == "SS":
        found = [*content]
    else:
        # What is none of these is no JSON, and nothing of ours has written it.
        found = content if kind in {"S", "BOOL"} else repr(content)
    return found


def _read_number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        number = Decimal(text)
        # A metric of exactly 1.0 comes back as the int 1, which JSON and == do not tell apart.
        return int(number) if number == number.to_integral_value() else float(number)


def from_item(item: Item) -> Record:
    """Return what DynamoDB holds as a record."""
    return {key: _read(value) for key, value in item.items() if key not in _MARKS}


def _name_fields(fields: Iterable[str]) -> tuple[str, dict[str, str]]:
    """
    Return how a request asks for fields, and the names it has for them: some are DynamoDB's words.

    :param fields: Of a record, or of a part of one: ``verdicts[0].outcome``.
    """
    aliases: dict[str, str] = {}
    paths = []
    for field in sorted({*fields}):
        steps = [step.partition("[") for step in field.split(".")]
        named = [(aliases.setdefault(s[0], f"#f{len(aliases)}"), s[1] + s[2]) for s in steps]
        paths.append(".".join(alias + place for alias, place in named))
    return ", ".join(paths), {alias: name for name, alias in aliases.items()}


def _build_conditions(lane: Mapping[str, str], until: str | None) -> dict[str, object]:
    """Return which part of an index is asked for, as DynamoDB takes it."""
    values = {**lane, **({"created_at": until} if until else {})}
    operators = {name: "LE" if name == "created_at" else "EQ" for name in values}
    if len(lane) == 1:
        # The older way to say it, which DynamoDB answers alike. MiniStack goes through all of the
        # part, and reads an expression anew for each item: 0.6 s for 8,000 instead of 0.08 s.
        return {
            "KeyConditions": {
                name: {"AttributeValueList": [{"S": value}], "ComparisonOperator": operators[name]}
                for name, value in values.items()
            }
        }
    signs = {"EQ": "=", "LE": "<="}
    return {
        "KeyConditionExpression": " AND ".join(
            f"#{name} {signs[operators[name]]} :{name}" for name in values
        ),
        "ExpressionAttributeNames": {f"#{name}": name for name in values},
        "ExpressionAttributeValues": {f":{name}": {"S": value} for name, value in values.items()},
    }


def _get_version(record: Record) -> int:
    version = record.get(VERSION, 0)
    return int(version) if isinstance(version, (int, float, str)) else 0


def _name(key: Mapping[str, str]) -> str:
    return "/".join(key.values())


def is_condition_failure(error: TouchstoneError) -> bool:
    """Tell whether DynamoDB refused a write because its condition does not hold."""
    cause = error.__cause__
    if not isinstance(cause, ClientError):
        return False
    # Only the first part of a transaction of ours has a condition.
    is_refused = _REFUSED in _list_cancellations(cause)[:1]
    return is_refused or get_error_code(cause) == "ConditionalCheckFailedException"


def _is_contended(error: TouchstoneError) -> bool:
    """Tell whether a write was refused for nothing but that others were at the same."""
    cause = error.__cause__
    if not isinstance(cause, ClientError):
        return False
    if get_error_code(cause) == "TransactionConflictException":
        return True  # A single write met a transaction.
    reasons = {*_list_cancellations(cause)} - {"None"}
    return bool(reasons) and reasons <= {*_CONTENDED}


def _list_cancellations(error: ClientError) -> list[str]:
    """Return why each part of a transaction was cancelled; empty for another error."""
    response: Mapping[str, object] = {**error.response}
    reasons = response.get("CancellationReasons")
    return [str(each.get("Code")) for each in reasons] if isinstance(reasons, list) else []


class Tables:
    """
    Reads and writes the items of tables.

    Every write that depends on what was read carries the version it read, so that two writers
    never overwrite each other: the later one reads again and decides again.

    :param client: A DynamoDB client.
    :param keys: The key attributes of each table.
    :param sleep: Makes pauses.
    """

    def __init__(
        self,
        client: Any,
        keys: Mapping[str, tuple[str, ...]],
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client = client
        self._keys = keys
        self._sleep = sleep

    def _find(self, table: str, key: Mapping[str, str]) -> Record | None:
        with translated_errors(f"reading {_name(key)} from {table}"):
            answer = self._client.get_item(TableName=table, Key=to_item(key), ConsistentRead=True)
        item = answer.get("Item")
        return None if item is None else from_item(item)

    def _find_many(
        self, table: str, keys: Iterable[tuple[str, ...]], fields: Sequence[str] = ()
    ) -> dict[tuple[str, ...], Record]:
        """
        Return records by key, or some fields of each, in few requests; those that exist.

        :raises TransientError: If the table goes on to leave some of them out.
        """
        names = self._keys[table]
        wanted = [to_item(dict(zip(names, key, strict=True))) for key in dict.fromkeys(keys)]
        found: dict[tuple[str, ...], Record] = {}
        projection: dict[str, object] = {}
        if fields:
            expression, wanted_names = _name_fields({*names, *fields})
            projection = {
                "ProjectionExpression": expression,
                "ExpressionAttributeNames": wanted_names,
            }
        rounds = 0
        while wanted:
            batch, wanted = wanted[:BATCH_GET_LIMIT], wanted[BATCH_GET_LIMIT:]
            with translated_errors(f"reading {len(batch)} records of {table}"):
                answer = self._client.batch_get_item(
                    RequestItems={table: {"Keys": batch, "ConsistentRead": True, **projection}}
                )
            for item in answer["Responses"].get(table, ()):
                record = from_item(item)
                found[tuple(str(record[name]) for name in names)] = record
            left = answer.get("UnprocessedKeys", {}).get(table, {}).get("Keys", [])
            wanted += left
            # The table is throttled: asked again at once, it would only throttle longer.
            rounds = rounds + 1 if len(left) == len(batch) else 0
            if rounds > _UNPROCESSED_ROUNDS:
                raise TransientError(
                    f"{table} left {len(left)} records unread {rounds} times in a row"
                )
            if left:
                self._sleep(_UNPROCESSED_BACKOFF.after(rounds))
        return found

    def _create(self, table: str, key: str, record: Mapping[str, JsonValue]) -> None:
        put: dict[str, object] = {
            "TableName": table,
            "Item": to_item(self._mark(table, {**record, VERSION: 1})),
            "ConditionExpression": "attribute_not_exists(#key)",
            "ExpressionAttributeNames": {"#key": key},
        }
        beside = self._list_beside(table, {}, record)
        if not self._put_if(f"creating {record[key]} in {table}", put, beside):
            raise RecordExists(f"{record[key]!r} exists already in {table}")

    def _change(
        self, table: str, key: Mapping[str, str], decide: Callable[[Record], Record | None]
    ) -> Record:
        for _ in range(_ATTEMPTS_AT_A_WRITE):
            record = self._find(table, key)
            if record is None:
                raise RecordNotFound(f"there is no {_name(key)} in {table}")
            changes = decide(dict(record))
            if not changes:
                return record
            version = _get_version(record)
            changed = {**record, **changes, VERSION: version + 1}
            put: dict[str, object] = {
                "TableName": table,
                "Item": to_item(self._mark(table, changed)),
                "ConditionExpression": "#version = :version",
                "ExpressionAttributeNames": {"#version": VERSION},
                "ExpressionAttributeValues": {":version": {"N": str(version)}},
            }
            beside = self._list_beside(table, record, changed)
            if self._put_if(f"writing {_name(key)} to {table}", put, beside):
                return changed
        raise TransientError(
            f"{_name(key)} in {table} was changed by others {_ATTEMPTS_AT_A_WRITE} times in a row"
        )

    def _put_if(
        self, doing: str, put: Mapping[str, object], beside: Sequence[tuple[str, Record]]
    ) -> bool:
        """
        Write a record if its condition holds, and others along with it, all of them or none.

        Of more than a transaction takes, the first are written before it, whatever becomes of it.

        :param doing: What is attempted, for the message.
        :param put: The request for the record.
        :param beside: Table and record of each other; what stands there is replaced.
        :return: Whether its condition held.
        """
        puts = [{"TableName": table, "Item": to_item(one)} for table, one in beside]
        # Those that one transaction cannot take come before it: to write them again is harmless,
        # and to leave one out is not.
        with translated_errors(doing):
            for early in puts[:-_MOST_BESIDE]:
                self._client.put_item(**early)
        others = [{"Put": each} for each in puts[-_MOST_BESIDE:]]
        for number in range(1, _ATTEMPTS_AT_A_WRITE + 1):
            try:
                with translated_errors(doing):
                    if others:
                        self._client.transact_write_items(TransactItems=[{"Put": put}, *others])
                    else:
                        self._client.put_item(**put)
            except (PermanentError, TransientError) as error:
                if is_condition_failure(error):
                    return False
                if not _is_contended(error):
                    raise
                self._sleep(_UNPROCESSED_BACKOFF.after(number))
            else:
                return True
        raise TransientError(f"{doing}: others wrote there {_ATTEMPTS_AT_A_WRITE} times in a row")

    def _change_model(
        self,
        table: str,
        key: Mapping[str, str],
        model: type[Model],
        decide: Callable[[Model], Model | None],
        *,
        load: Callable[[Record], Model] | None = None,
    ) -> Model:
        """
        Read a record as a model, let ``decide`` return what it becomes, and write what differs.

        :param decide: Returns ``None``, or the model as it was given, for no change.
        :param load: Parses the record, for one that is not parsed by its model alone.
        :raises RecordUnreadable: If the stored record does not make sense; it is not touched.
        """

        def load_by_model(stored: Record) -> Model:
            return load_named(model, _name(key), stored)

        parse = load or load_by_model

        def decide_fields(stored: Record) -> Record | None:
            before = parse(stored)
            after = decide(before)
            return None if after is None else before.dump_changes(after)

        return parse(self._change(table, key, decide_fields))

    def _scan(self, table: str) -> list[Record]:
        with translated_errors(f"listing {table}"):
            pages = self._client.get_paginator("scan").paginate(TableName=table)
            return [from_item(item) for page in pages for item in page["Items"]]

    def _query(
        self,
        table: str,
        key: str,
        value: str,
        index: str | None = None,
        fields: Sequence[str] = (),
        begins: tuple[str, str] | None = None,
    ) -> Sequence[Record]:
        """
        Return all records of a value, or only some fields of each.

        :param begins: Only those whose sort key, named first, begins with the second.
        """
        more: dict[str, object] = {"IndexName": index} if index else {"ConsistentRead": True}
        wanted, names = _name_fields(fields)
        names["#key"] = key
        if wanted:
            more["ProjectionExpression"] = wanted
        values = {":value": {"S": value}}
        condition = "#key = :value"
        if begins is not None:
            names["#sort"], values[":begins"] = begins[0], {"S": begins[1]}
            condition += " AND begins_with(#sort, :begins)"
        with translated_errors(f"listing {table} of {value}"):
            pages = self._client.get_paginator("query").paginate(
                TableName=table,
                KeyConditionExpression=condition,
                ExpressionAttributeNames=names,
                ExpressionAttributeValues=values,
                **more,
            )
            return [from_item(item) for page in pages for item in page["Items"]]

    def _list_newest(
        self,
        table: str,
        index: str,
        lanes: Iterable[Mapping[str, str]],
        *,
        limit: int,
        before: tuple[str, ...] | None = None,
    ) -> list[tuple[str, ...]]:
        """
        Return the places of the newest records, newest first: when created, then the key.

        :param lanes: Which parts of the index to look through; the newest of all are taken.
        :param before: Only places behind this one.
        """
        names = ("created_at", *self._keys[table])

        def read(lane: Mapping[str, str]) -> Iterator[tuple[str, ...]]:
            until = before[0] if before else None
            # The last one of a moment is only known by the first one of another.
            entries = self._iterate_newest(table, index, lane, until=until, page=limit + 1)
            for _, ties in groupby(entries, key=itemgetter("created_at")):
                yield from sorted((tuple(e[name] for name in names) for e in ties), reverse=True)

        merged = heapq.merge(*map(read, lanes), reverse=True)
        # Once each: a record that moves from lane to lane meanwhile may stand in both.
        places = (place for place, _ in groupby(merged) if before is None or place < before)
        return list(islice(places, limit))

    def _iterate_newest(
        self, table: str, index: str, lane: Mapping[str, str], *, until: str | None, page: int
    ) -> Iterator[dict[str, str]]:
        """Yield the keys in one part of an index, newest first, as they are asked for."""
        pages = iter(
            self._client.get_paginator("query").paginate(
                TableName=table,
                IndexName=index,
                ScanIndexForward=False,
                PaginationConfig={"PageSize": page},
                **_build_conditions(lane, until),
            )
        )
        while True:
            with translated_errors(f"listing {table} {index} (`touchstone init` makes the index)"):
                found = next(pages, None)
            if found is None:
                return
            for item in found["Items"]:
                yield {name: value["S"] for name, value in item.items()}

    def _list_beside(
        self,
        table: str,
        before: Mapping[str, JsonValue],
        after: Mapping[str, JsonValue],
    ) -> Sequence[tuple[str, Record]]:
        """
        Return the records that are written along with a record, by table.

        :param table: The record's.
        :param before: The record as it is stored; empty for a new one.
        :param after: The record as it will be.
        """
        del table, before, after
        return ()

    def list_part_newest(
        self, table: str, part: Mapping[str, str], sort: str, *, limit: int, below: str | None
    ) -> list[Record]:
        """
        Return the last records of one part of a table, the last first.

        :param part: The part: its attribute, and the value.
        :param sort: By which attribute the part is sorted.
        :param limit: How many at most.
        :param below: Only those whose sort key is less; ``None`` from the last on.
        """
        values = {**part, **({sort: below} if below is not None else {})}
        conditions = {
            name: {
                "AttributeValueList": [{"S": value}],
                "ComparisonOperator": "LT" if name == sort else "EQ",
            }
            for name, value in values.items()
        }
        found: list[Record] = []
        start: dict[str, object] = {}
        with translated_errors(f"listing {table} of {_name(part)}"):
            while len(found) < limit:
                answer = self._client.query(
                    TableName=table,
                    KeyConditions=conditions,
                    ScanIndexForward=False,
                    ConsistentRead=True,
                    Limit=limit - len(found),
                    **start,
                )
                found += [from_item(item) for item in answer["Items"]]
                if not answer.get("LastEvaluatedKey"):
                    break
                start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}
        return found

    def _mark(self, table: str, record: Record) -> Record:
        """Return a record as it is written: with the marks by which indexes have it, if any."""
        del table
        return record
