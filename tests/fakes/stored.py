"""All that is stored, byte by byte: for a look whether something is where it must not be."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any


def list_stored(build_client: Callable[[str], Any]) -> Iterator[tuple[str, bytes]]:
    """
    Yield every object, record and waiting message, by a name that begins with what it is.

    :param build_client: Makes a client of a service of AWS's, by its name.
    """
    for kind, service, list_them in (
        ("objects", "s3", _list_objects),
        ("records", "dynamodb", _list_records),
        ("messages", "sqs", _list_messages),
    ):
        for name, body in list_them(build_client(service)):
            yield f"{kind} of {name}", body


def list_folder(folder: Path, *, but: Collection[Path] = ()) -> Iterator[tuple[str, bytes]]:
    """Yield every file below a folder, by its path there, but for what is in some others."""
    for path in sorted(folder.rglob("*")):
        if not any(other in path.parents for other in but) and path.is_file():
            # What is removed meanwhile keeps nothing.
            with suppress(FileNotFoundError):
                yield str(path.relative_to(folder)), path.read_bytes()


def _list_objects(client: Any) -> Iterator[tuple[str, bytes]]:
    """Yield every object of every bucket."""
    for bucket in client.list_buckets()["Buckets"]:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket["Name"])
        for found in (item for page in pages for item in page.get("Contents", ())):
            body = client.get_object(Bucket=bucket["Name"], Key=found["Key"])["Body"]
            yield f"{bucket['Name']}/{found['Key']}", body.read()


def _list_records(client: Any) -> Iterator[tuple[str, bytes]]:
    """Yield every record of every table, of any version."""
    for table in client.list_tables()["TableNames"]:
        pages = client.get_paginator("scan").paginate(TableName=table)
        for number, item in enumerate(item for page in pages for item in page["Items"]):
            yield f"{table} {number}", json.dumps(item, default=bytes.hex).encode()


def _list_messages(client: Any) -> Iterator[tuple[str, bytes]]:
    """Yield what waits in every queue."""
    for queue in client.list_queues().get("QueueUrls", ()):
        found = client.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, VisibilityTimeout=0)
        for number, message in enumerate(found.get("Messages", ())):
            yield f"{queue} {number}", message["Body"].encode()
