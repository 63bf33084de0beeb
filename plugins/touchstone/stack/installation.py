"""Provision an installation of any size, through its Airflow connections."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

import httpx

from touchstone.core.roles import ROLES
from touchstone.settings import get_settings
from touchstone.stack.provision import (
    Provisioned,
    Server,
    Stores,
    ensure_experiment,
    provision,
)
from touchstone.stores.aws import build_client
from touchstone_agent.protocol.envelope import load_public_key
from touchstone_agent.protocol.errors import ConfigurationError

_TIMEOUT_SECONDS = 30.0


class InitPart(StrEnum):
    """What of an installation can be created by itself."""

    ROLES = "roles"


def provision_installation(server: str | None, public_key: str | None) -> Iterator[Provisioned]:
    """
    Create what is missing in AWS and MLflow, and yield each thing when it exists.

    :param server: An on-prem server to make known as well, or ``None``.
    :param public_key: That server's public key.
    :raises ConfigurationError: If only one of the two is given, or the key is none.
    """
    if (server is None) != (public_key is None):
        raise ConfigurationError("a server is made known by --server and --public-key together")
    servers = []
    if server is not None and public_key is not None:
        load_public_key(public_key)
        servers.append(Server(name=server, public_key=public_key))
    settings = get_settings()
    stores = Stores(
        dynamodb=build_client("dynamodb", settings.aws_conn_id),
        s3=build_client("s3", settings.aws_conn_id),
        sqs=build_client("sqs", settings.aws_conn_id),
    )
    yield from provision(settings, stores, servers)
    # Importing Airflow takes seconds; by now it was needed for the AWS connection anyway.
    from airflow.sdk import BaseHook

    from touchstone.hooks.mlflow import find_login

    connection = BaseHook.get_connection(settings.mlflow_conn_id)
    address = f"{connection.schema or 'http'}://{connection.host}:{connection.port or 5000}"
    with httpx.Client(timeout=_TIMEOUT_SECONDS, auth=find_login(connection)) as client:
        yield ensure_experiment(address, settings.mlflow_experiment, client)
    from touchstone.airflow_db.roles import has_roles

    if has_roles():
        yield from provision_roles()


def provision_roles() -> list[Provisioned]:
    """
    Let the roles of FAB be there, each with exactly the permissions of :data:`ROLES`.

    :raises ConfigurationError: If Airflow's auth manager is another one, or its tables are missing.
    :raises TransientError: If Airflow's database does not answer.
    """
    from touchstone.airflow_db.roles import ensure_roles, has_roles

    if not has_roles():
        raise ConfigurationError(
            "auth_manager: Airflow's auth manager here is not FAB's, and has no roles to create; "
            "AIRFLOW__CORE__AUTH_MANAGER names it"
        )
    return [
        Provisioned(kind="role", name=role.name, created=role.has_changed)
        for role in ensure_roles(ROLES)
    ]
