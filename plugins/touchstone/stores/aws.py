"""AWS clients by Airflow connection, and the translation of botocore's errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from touchstone.stores.items import keep_items
from touchstone_agent.protocol.errors import PermanentError, TransientError

if TYPE_CHECKING:
    from botocore.config import Config

NOT_FOUND_CODES = frozenset({"404", "NoSuchKey", "NotFound", "NoSuchBucket"})
"""How S3 says that something is not there; HEAD has no body and so only a number."""

TRANSIENT_CODES = frozenset(
    {
        "InternalError",
        "InternalServerError",
        "ProvisionedThroughputExceededException",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "ThrottlingException",
        "TransactionConflictException",
        "500",
        "503",
    }
)
"""Codes that say "not now": throttling, and faults on the service's side."""


def build_client(service: str, conn_id: str, config: Config | None = None) -> Any:
    """
    Return a boto3 client for a service, configured by an Airflow connection.

    :param service: ``s3``, ``sqs`` or ``dynamodb``.
    :param conn_id: Airflow connection of type ``aws``.
    :param config: botocore configuration, or ``None`` for the default.
    """
    # Importing the provider takes most of a second; DAG parsing must not pay for it.
    from airflow.providers.amazon.aws.hooks.base_aws import AwsGenericHook

    hook: AwsGenericHook[Any] = AwsGenericHook(
        aws_conn_id=conn_id, client_type=service, config=config
    )
    client = hook.get_conn()
    if service == "dynamodb":
        keep_items(client)
    return client


def get_error_code(error: ClientError) -> str:
    """Return the service's own code of an error, for example ``NoSuchKey``."""
    return str(error.response.get("Error", {}).get("Code", ""))


@contextmanager
def translated_errors(doing: str) -> Iterator[None]:
    """
    Turn botocore's errors into Touchstone's.

    :param doing: What was attempted, for the message: "reading task s-1/i5".
    :raises TransientError: For throttling, service faults and lost connections.
    :raises PermanentError: For everything else the service refused.
    """
    try:
        yield
    except ClientError as error:
        code = get_error_code(error)
        kind = TransientError if code in TRANSIENT_CODES else PermanentError
        raise kind(f"{doing}: {code}: {error}") from error
    except BotoCoreError as error:
        raise TransientError(f"{doing}: {error}") from error
