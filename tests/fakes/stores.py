"""The record and object stores in memory: the real public methods on top of dictionaries."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from touchstone.core.records.evaluations import Evaluation
from touchstone.settings import Settings
from touchstone.stores.objects import (
    GRANT_SECONDS,
    MAX_BYTES,
    ObjectCorrupt,
    ObjectNotFound,
    ObjectStore,
    ObjectTooLarge,
    StoredObject,
)
from touchstone.stores.records import RecordStore
from touchstone.stores.tables import (
    VERSION,
    Record,
    RecordExists,
    RecordNotFound,
    from_item,
    to_item,
)
from touchstone_agent.protocol.messages import Grant


class FakeRecordStore(RecordStore):
    """
    Records in dictionaries.

    Only the ways in and out are replaced, so that order, copies and number types are the real
    store's; each item makes the same round trip through DynamoDB's types.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(client=None, settings=settings or Settings())
        self._tables: dict[str, dict[str, dict[str, Any]]] = {}

    def put_evaluation(self, evaluation: Evaluation) -> bool:
        """Write an evaluation, unless a newer attempt has written its own."""
        table = self._settings.evaluations_table
        old = self._find(table, {"model_id": evaluation.model_id})
        if old is not None and old["fence"] > evaluation.fence:
            return False
        self._put(table, evaluation.dump())
        return True

    def put_stored(self, table: str, record: Record) -> None:
        """Write a record as it is, as another version might have."""
        self._put(table, self._mark(table, record))

    def get_stored(self, table: str, *key: str) -> Record:
        """Return a record as it is, without reading anything into it."""
        return from_item(self._tables[table]["/".join(key)])

    def remove_server(self, server: str) -> None:
        """Forget a server."""
        self._tables.get(self._settings.servers_table, {}).pop(server, None)

    def _put(self, table: str, record: Mapping[str, Any]) -> None:
        key = "/".join(str(record[name]) for name in self._keys[table])
        self._tables.setdefault(table, {})[key] = to_item(record)

    def _find(self, table: str, key: Mapping[str, str]) -> Record | None:
        item = self._tables.get(table, {}).get("/".join(key.values()))
        return None if item is None else from_item(item)

    def _find_many(
        self, table: str, keys: Iterable[tuple[str, ...]], fields: Sequence[str] = ()
    ) -> dict[tuple[str, ...], Record]:
        names = self._keys[table]
        wanted = {*names, *fields}
        found = {key: self._find(table, dict(zip(names, key, strict=True))) for key in keys}
        return {
            key: {name: value for name, value in record.items() if not fields or name in wanted}
            for key, record in found.items()
            if record is not None
        }

    def _create(self, table: str, key: str, record: Record) -> None:
        if self._find(table, {name: record[name] for name in self._keys[table]}) is not None:
            raise RecordExists(f"{record[key]!r} exists already in {table}")
        self._put(table, self._mark(table, {**record, VERSION: 1}))
        self._store_beside(table, {}, record)

    def _store_beside(self, table: str, before: Record, after: Record) -> None:
        for where, one in self._list_beside(table, before, after):
            self._put(where, one)

    def list_part_newest(
        self, table: str, part: Mapping[str, str], sort: str, *, limit: int, below: str | None
    ) -> list[Record]:
        ((key, value),) = part.items()
        found = [
            each for each in self._query(table, key, value) if below is None or each[sort] < below
        ]
        return sorted(found, key=lambda each: str(each[sort]), reverse=True)[:limit]

    def _change(
        self, table: str, key: Mapping[str, str], decide: Callable[[Record], Record | None]
    ) -> Record:
        record = self._find(table, key)
        if record is None:
            raise RecordNotFound(f"there is no {'/'.join(key.values())} in {table}")
        changes = decide(dict(record))
        if not changes:
            return record
        changed = {**record, **changes, VERSION: int(record.get(VERSION, 0)) + 1}
        self._put(table, self._mark(table, changed))
        self._store_beside(table, record, changed)
        return changed

    def _scan(self, table: str) -> list[Record]:
        return [from_item(item) for item in self._tables.get(table, {}).values()]

    def _query(
        self,
        table: str,
        key: str,
        value: str,
        index: str | None = None,
        fields: Sequence[str] = (),
        begins: tuple[str, str] | None = None,
    ) -> Sequence[Record]:
        wanted = {"S": value}
        items = self._tables.get(table, {}).values()
        found = [from_item(item) for item in items if item.get(key) == wanted]
        if begins is not None:
            found = [record for record in found if str(record[begins[0]]).startswith(begins[1])]
        # The real table hands a partition out by its sort key.
        found.sort(key=lambda record: str(record.get(self._keys[table][-1])))
        if not fields:
            return found
        # Of a part of a field the whole field; one that a record lacks is left out.
        wanted_fields = {field.partition("[")[0].partition(".")[0] for field in fields}
        return [{f: each[f] for f in wanted_fields if f in each} for each in found]

    def _iterate_newest(
        self, table: str, index: str, lane: Mapping[str, str], *, until: str | None, page: int
    ) -> Iterator[Record]:
        # Marks are in the index, and in no record.
        items = [
            item
            for item in self._tables.get(table, {}).values()
            if all(item.get(name) == {"S": value} for name, value in lane.items())
        ]
        found = [
            {name: each[name] for name in ("created_at", *self._keys[table])}
            for each in map(from_item, items)
            # A record without one of an index's attributes is not in it.
            if each.get("created_at") and (until is None or each["created_at"] <= until)
        ]
        # Of one moment they come in no order of ours.
        yield from sorted(found, key=lambda each: str(each["created_at"]), reverse=True)


class FakeObjectStore(ObjectStore):
    """Objects in a dictionary, by bucket and key; its grants are of the scheme ``fake``."""

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        super().__init__(client=None, clock=clock)
        self.objects: dict[tuple[str, str], bytes] = {}

    def get(
        self, bucket: str, key: str, *, sha256: str | None = None, max_bytes: int = MAX_BYTES
    ) -> bytes:
        """Return an object's bytes."""
        if (bucket, key) not in self.objects:
            raise ObjectNotFound(f"there is no s3://{bucket}/{key}")
        body = self.objects[bucket, key]
        if len(body) > max_bytes:
            raise ObjectTooLarge(f"s3://{bucket}/{key} has more than {max_bytes} bytes")
        if sha256 is not None and hashlib.sha256(body).hexdigest() != sha256:
            raise ObjectCorrupt(f"s3://{bucket}/{key} does not have sha256 {sha256}")
        return body

    def fetch(self, bucket: str, key: str, target: Path, *, sha256: str, size: int) -> None:
        """Write an object to a file."""
        body = self.get(bucket, key, max_bytes=size)
        if (len(body), hashlib.sha256(body).hexdigest()) != (size, sha256):
            raise ObjectCorrupt(f"s3://{bucket}/{key} does not have sha256 {sha256}")
        target.write_bytes(body)

    def copy_new(self, bucket: str, key: str, *, source_bucket: str, source_key: str) -> bool:
        """Copy an object unless its key is taken."""
        return self.put_new(bucket, key, self.get(source_bucket, source_key, max_bytes=2**60))

    def has(self, bucket: str, key: str) -> bool:
        """Tell whether there is an object of that key."""
        return (bucket, key) in self.objects

    def get_size(self, bucket: str, key: str) -> int:
        """Return an object's size in bytes."""
        return len(self.get(bucket, key, max_bytes=2**60))

    def put_new(
        self, bucket: str, key: str, body: bytes, *, content_type: str = "application/octet-stream"
    ) -> bool:
        """Write an object unless its key is taken."""
        if (bucket, key) in self.objects:
            return False
        self.objects[bucket, key] = bytes(body)
        return True

    def put(
        self, bucket: str, key: str, body: bytes, *, content_type: str = "application/octet-stream"
    ) -> None:
        """Write an object."""
        self.objects[bucket, key] = bytes(body)

    def iterate(
        self, bucket: str, prefix: str, *, start_after: str | None = None, page: int = 1000
    ) -> Iterator[StoredObject]:
        """Yield the objects whose keys begin with ``prefix``, by key."""
        for (where, key), body in sorted(self.objects.items()):
            is_behind = start_after is None or key > start_after
            if where == bucket and key.startswith(prefix) and is_behind:
                yield StoredObject(key=key, size=len(body))

    def grant_get(self, bucket: str, key: str) -> Grant:
        """Return leave to read one object."""
        return self._grant("GET", bucket, key, {})

    def grant_put(self, bucket: str, key: str, *, sha256: str, size: int) -> Grant:
        """Return leave to write one object that is not there yet."""
        headers = {
            "If-None-Match": "*",
            "x-amz-checksum-sha256": sha256,
            "Content-Length": str(size),
        }
        return self._grant("PUT", bucket, key, headers)

    def _grant(self, method: Any, bucket: str, key: str, headers: dict[str, str]) -> Grant:
        return Grant(
            method=method,
            url=f"fake://{bucket}/{key}",
            headers=headers,
            expires_at=self._clock() + timedelta(seconds=GRANT_SECONDS),
        )
