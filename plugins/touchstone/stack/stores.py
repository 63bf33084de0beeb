"""What the parts of a one-machine stack find when they start: stores, pools, experiment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import boto3
import httpx
from botocore.config import Config

from touchstone.core import pools
from touchstone.settings import Settings
from touchstone.stack import provision
from touchstone.stack.credentials import Credentials
from touchstone.stack.environment import LOCAL_ACCESS_KEY, LOCAL_SECRET_KEY
from touchstone.stack.layout import StackRecord
from touchstone.stores.records import RecordStore
from touchstone_agent.protocol.errors import TouchstoneError, TransientError

DAG_ID = "touchstone"

_TIMEOUT_SECONDS = 20.0


def provision_local(record: StackRecord, credentials: Credentials) -> int:
    """
    Create what is missing in a stack's own stores.

    Goes to them directly: loading Airflow for its connection would take longer than the work.

    :return: How many things were created.
    """
    session = boto3.Session(
        aws_access_key_id=LOCAL_ACCESS_KEY["control"],
        aws_secret_access_key=LOCAL_SECRET_KEY,
        region_name=record.region,
    )

    def connect(service: str) -> Any:
        return session.client(
            service,  # type: ignore[call-overload]
            endpoint_url=record.urls.ministack,
            config=Config(proxies={}, retries={"mode": "standard"}),
        )

    clients = provision.Stores(dynamodb=connect("dynamodb"), s3=connect("s3"), sqs=connect("sqs"))
    servers = [
        provision.Server(name=server.name, public_key=credentials.agents[server.name][1])
        for server in record.servers
    ]
    made = provision.provision(Settings(env=record.env), clients, servers)
    return sum(thing.created for thing in made)


def read_heartbeats(record: StackRecord) -> dict[str, datetime]:
    """Return by server when the dispatcher took in its last heartbeat, if it ever did."""
    records = RecordStore(_connect(record, "dynamodb"), Settings(env=record.env))
    try:
        entries = records.list_servers()
    except TouchstoneError:
        return {}
    # Of one that makes no sense nothing was heard; of the others it was.
    return {
        server.server: server.heartbeat_at
        for server in (entry.server for entry in entries)
        if server is not None and server.heartbeat_at is not None
    }


def ensure_local_experiment(record: StackRecord) -> None:
    """Create the MLflow experiment of all trainings if it is missing."""
    with httpx.Client(trust_env=False, timeout=_TIMEOUT_SECONDS) as client:
        name = Settings(env=record.env).mlflow_experiment
        provision.ensure_experiment(record.urls.mlflow, name, client)


def ensure_pools(record: StackRecord, credentials: Credentials) -> str:
    """
    Create the pools that are missing; the slots of those that exist are the admins' to change.

    :return: One line about what was done.
    """
    wanted = {
        pools.QUEUE_POOL: 0,
        pools.PRESTAGED_POOL: pools.UNLIMITED,
        pools.FINISH_POOL: pools.UNLIMITED,
    }
    for server in record.servers:
        wanted[server.name] = server.slots
        wanted[pools.build_validation_pool(server.name)] = server.validation_slots
    with _log_in(record, credentials) as client:
        created = [name for name, slots in wanted.items() if _create_pool(client, name, slots)]
    return f"created {', '.join(created)}" if created else "all there"


def find_dag_problem(record: StackRecord, credentials: Credentials) -> str | None:
    """
    Tell whether Airflow knows Touchstone's DAG.

    :return: ``None`` if it does, the error if the DAG cannot be imported, and an empty text if
        it was not read yet.
    """
    with _log_in(record, credentials) as client:
        if client.get(f"/api/v2/dags/{DAG_ID}").is_success:
            return None
        errors = client.get("/api/v2/importErrors").raise_for_status().json()["import_errors"]
    return "\n".join(f"{e['filename']}:\n{e['stack_trace']}" for e in errors)


def _connect(record: StackRecord, service: str) -> Any:
    # Not cached: a session is not safe to share, and a client takes milliseconds.
    session = boto3.Session(
        aws_access_key_id=LOCAL_ACCESS_KEY["control"],
        aws_secret_access_key=LOCAL_SECRET_KEY,
        region_name=record.region,
    )
    return session.client(
        service,  # type: ignore[call-overload]
        endpoint_url=record.urls.ministack,
        # Proxies of the shell are not for loopback.
        config=Config(proxies={}, connect_timeout=5, read_timeout=_TIMEOUT_SECONDS),
    )


@contextmanager
def _log_in(record: StackRecord, credentials: Credentials) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=record.urls.airflow, trust_env=False, timeout=_TIMEOUT_SECONDS
    ) as client:
        login = {"username": "admin", "password": credentials.passwords["admin"]}
        try:
            answer = client.post("/auth/token", json=login).raise_for_status()
            client.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
            yield client
        except httpx.HTTPError as error:
            raise TransientError(f"Airflow at {record.urls.airflow}: {error}") from error


def _create_pool(client: httpx.Client, name: str, slots: int) -> bool:
    pool = {
        "name": name,
        "slots": slots,
        "description": "Touchstone",
        # A training is deferred while it runs: without this it would hold no slot.
        "include_deferred": True,
    }
    answer = client.post("/api/v2/pools", json=pool)
    if answer.status_code == httpx.codes.CONFLICT:
        return False
    answer.raise_for_status()
    return True
