"""The Airflow hook: accounts out of connections."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from functools import cached_property
from typing import TYPE_CHECKING

from airflow.sdk.bases.hook import BaseHook

from touchstone.core.offers import GpuRow, build_gpu_rows
from touchstone.core.pods import Balance
from touchstone.hooks.runpod.api import DEFAULT_URL, Account
from touchstone.hooks.runpod.provider import CONNECTION_TYPE, HOOK_NAME, build_field_behaviour
from touchstone_agent.protocol.errors import ConfigurationError, TouchstoneError

if TYPE_CHECKING:
    from airflow.sdk.definitions.connection import Connection

    from touchstone.hooks.runpod.lister import AsyncPodLister, PodLister
    from touchstone.hooks.runpod.rest import AsyncRestPodApi, RestPodApi
    from touchstone.hooks.runpod.sdk import SdkPodApi

DEFAULT_WARNING_USD = Decimal(50)
TIMEOUT_SECONDS = 30.0


class RunPodHook(BaseHook):
    """
    Opens RunPod accounts; several accounts are several connections.

    :param runpod_conn_id: Airflow connection of type ``runpod``: its password is the API key, its
        host the API's address when that is not RunPod's own. Extra: ``balance_warning_usd``,
        ``timeout_seconds``.
    """

    conn_name_attr = "runpod_conn_id"
    default_conn_name = "touchstone_runpod"
    conn_type = CONNECTION_TYPE
    hook_name = HOOK_NAME

    def __init__(self, runpod_conn_id: str | None = None) -> None:
        super().__init__()
        self.runpod_conn_id = runpod_conn_id or self.default_conn_name

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, object]:
        """Return how Airflow's connection form looks."""
        return build_field_behaviour()

    @cached_property
    def account(self) -> Account:
        """Return the account of the connection. Not for an event loop: it may block."""
        return build_account(self.get_connection(self.runpod_conn_id))

    async def aget_account(self) -> Account:
        """Return the account of the connection, in an event loop."""
        return build_account(await self.aget_connection(self.runpod_conn_id))

    @cached_property
    def balance_warning(self) -> Decimal:
        """Return the balance in USD below which admins get a mail."""
        extra = self.get_connection(self.runpod_conn_id).extra_dejson
        return read_usd(extra.get("balance_warning_usd"), DEFAULT_WARNING_USD)

    def get_conn(self) -> RestPodApi:
        """Return the account's pods, by REST v2. Close it, or use it in a ``with``."""
        from touchstone.hooks.runpod.rest import RestPodApi

        return RestPodApi(self.account)

    async def aget_conn(self) -> AsyncRestPodApi:
        """Return the account's pods, by REST v2, in an event loop."""
        from touchstone.hooks.runpod.rest import AsyncRestPodApi

        return AsyncRestPodApi(await self.aget_account())

    def get_sdk(self) -> SdkPodApi:
        """Return the account by the ``runpod`` SDK; its first use imports it."""
        from touchstone.hooks.runpod.sdk import SdkPodApi

        return SdkPodApi(self.account)

    def get_lister(self) -> PodLister:
        """Return this process's one lister of the account."""
        from touchstone.hooks.runpod.lister import get_lister

        return get_lister(self.account)

    async def aget_lister(self) -> AsyncPodLister:
        """Return this process's one lister of the account, in an event loop."""
        from touchstone.hooks.runpod.lister import get_async_lister

        return get_async_lister(await self.aget_account())

    def get_balance(self) -> Balance:
        """Return the account's money; takes seconds the first time."""
        return self.get_sdk().get_balance()

    def list_gpus(self) -> tuple[GpuRow, ...]:
        """Return the GPU models of the live catalogue, cheapest first."""
        with self.get_conn() as api:
            checked_at = datetime.now(UTC)
            return build_gpu_rows(api.list_offers(), checked_at)

    def test_connection(self) -> tuple[bool, str]:
        """Return whether the key is good, with the balance when the API tells it."""
        try:
            with self.get_conn() as api:
                api.check_key()
                pods = len(api.list_pods())
        except TouchstoneError as error:
            return False, str(error)
        try:
            balance = self.get_balance()
        except TouchstoneError as error:
            return True, f"The key is good; {pods} pods; the balance is not known: {error}"
        return True, f"The key is good; {pods} pods; balance ${balance.usd:.2f}"


def build_account(connection: Connection) -> Account:
    """Return the account of a connection. Raise ``ConfigurationError`` when it has no key."""
    if not connection.password:
        raise ConfigurationError(
            f"connection {connection.conn_id!r} has no password: it holds the RunPod API key"
        )
    timeout = connection.extra_dejson.get("timeout_seconds") or TIMEOUT_SECONDS
    return Account(
        api_key=connection.password,
        url=_build_url(connection),
        timeout_seconds=float(timeout),
    )


def _build_url(connection: Connection) -> str:
    host = (connection.host or DEFAULT_URL).rstrip("/")
    url = host if "://" in host else f"{connection.schema or 'https'}://{host}"
    return f"{url}:{connection.port}" if connection.port else url


def read_usd(value: object, default: Decimal) -> Decimal:
    """Return an amount of an extra field. Raise ``ConfigurationError`` when it is no number."""
    if value in (None, ""):
        return default
    try:
        return Decimal(str(value))
    except InvalidOperation:
        raise ConfigurationError(f"balance_warning_usd must be a number, not {value!r}") from None
