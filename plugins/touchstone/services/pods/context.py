"""What renting works with, for coroutines, put together out of Airflow's connections."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module

from touchstone.cache import AsyncCached
from touchstone.core.market import Market
from touchstone.core.offers import CpuOffer
from touchstone.core.records.stored import RecordUnreadable
from touchstone.core.records.tasks import Task
from touchstone.hooks.agent import AgentHook
from touchstone.hooks.runpod.api import AsyncPodApi
from touchstone.hooks.runpod.hook import RunPodHook
from touchstone.hooks.runpod.lister import AsyncPodLister, get_async_lister
from touchstone.hooks.runpod.rest import AsyncRestPodApi
from touchstone.services.pods.ledger import Ledger
from touchstone.settings import Settings, get_settings
from touchstone.stores.objects import ObjectStore
from touchstone.stores.records import RecordStore
from touchstone_agent.protocol.errors import TouchstoneError
from touchstone_agent.protocol.names import parse_container_name

log = logging.getLogger(__name__)

MARKET_SECONDS = 30.0
"""How old the catalogue may be that an order is chosen from."""


@dataclass(frozen=True, kw_only=True)
class TaskRef:
    """A task: the submission and the task within it."""

    submission_id: str
    task_id: str

    def __str__(self) -> str:
        """Return it as people write it."""
        return f"{self.submission_id}/{self.task_id}"


@dataclass(kw_only=True)
class PodContext:
    """
    The connections of one event loop.

    :param api: The account's pods.
    :param lister: The process's one list of them.
    :param records: The task records.
    :param objects: Signs for and keeps objects.
    :param ledger: Reserves and counts the money.
    :param settings: Names and limits of the installation.
    :param secret: The control plane's private key, from which pods' keys are derived.
    :param api_url: Where a pod finds the API, to end itself.
    :param now: The time, UTC.
    :param sleep: Makes pauses.
    """

    api: AsyncPodApi
    lister: AsyncPodLister
    records: RecordStore
    objects: ObjectStore
    ledger: Ledger
    settings: Settings
    secret: bytes = field(repr=False)
    api_url: str
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    _market: AsyncCached[Market] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._market = AsyncCached(self._ask_market, seconds=MARKET_SECONDS)

    async def read(self, key: TaskRef) -> Task:
        """Return a task."""
        return await asyncio.to_thread(self.records.get_task, key.submission_id, key.task_id)

    async def find_attempt(self, name: str) -> tuple[Task | None, int] | None:
        """
        Return the task and the fence of the attempt that a name stands for.

        :param name: The name of a pod, which is also that of its reservation and its login.
        :return: No task if there is none on record. ``None`` if the name is not this environment's,
            or the task's record makes no sense: then nothing of that name may be ended or removed.
        """
        parts = parse_container_name(self.settings.env, name)
        if parts is None:
            return None
        submission_id, task_id, _, fence = parts
        try:
            task = await asyncio.to_thread(self.records.find_task, submission_id, task_id)
        except RecordUnreadable as error:
            log.warning("what belongs to %s is kept: %s", name, error)
            return None
        return task, fence

    async def change(self, key: TaskRef, decide: Callable[[Task], Task | None]) -> Task:
        """Change a task, and return the changed one."""
        return await asyncio.to_thread(
            self.records.change_task, key.submission_id, key.task_id, decide
        )

    async def read_market(self) -> Market:
        """
        Return what there is to rent; read once for all who ask within half a minute.

        :raises TransientError: If the catalogue cannot be read now.
        """
        return await self._market()

    async def _ask_market(self) -> Market:
        wanted = self.settings.runpod
        return Market(
            offers=tuple(await self.api.list_offers()),
            cpus=await self._list_cpus(),
            vcpus=wanted.vcpus,
            models=wanted.gpu_models,
            max_price=wanted.max_price,
            data_centers=wanted.data_centers,
        )

    async def _list_cpus(self) -> tuple[CpuOffer, ...]:
        try:
            return tuple(await self.api.list_cpus())
        except TouchstoneError as error:
            log.warning("RunPod does not tell its CPUs: %s", error)
            return ()  # no reason to train on none of its GPUs


async def connect_pods(settings: Settings | None = None) -> PodContext:
    """
    Return what renting works with, for the running event loop.

    :raises ConfigurationError: If the RunPod connection, or the control plane's key, is missing
        or is none; names the connection.
    """
    settings = settings or get_settings()
    hook = RunPodHook(settings.runpod.conn_id)
    # Looking up connections may block, and so does loading boto3's descriptions of services, or
    # what the first login would import.
    await asyncio.to_thread(import_module, "asyncssh")
    account = await asyncio.to_thread(lambda: hook.account)
    records = await asyncio.to_thread(RecordStore.connect, settings)
    objects = await asyncio.to_thread(ObjectStore.connect, settings)
    ledger = await asyncio.to_thread(Ledger.connect, settings)
    agent = AgentHook(settings=settings)
    secret = await asyncio.to_thread(lambda: agent.secret)
    return PodContext(
        api=AsyncRestPodApi(account),
        lister=get_async_lister(account),
        records=records,
        objects=objects,
        ledger=ledger,
        settings=settings,
        secret=secret,
        api_url=account.url,
    )
