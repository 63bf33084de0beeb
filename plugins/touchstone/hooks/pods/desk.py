"""What renting works with, for coroutines: the API, the records, the objects and the ledger."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from touchstone.core.market import Market
from touchstone.core.pods import CpuOffer
from touchstone.hooks.cache import AsyncCached
from touchstone.hooks.objects import ObjectStore
from touchstone.hooks.pods.ledger import Ledger
from touchstone.hooks.records import Record, RecordStore
from touchstone.hooks.runpod.api import AsyncPodApi
from touchstone.hooks.runpod.lister import AsyncPodLister
from touchstone.settings import Settings
from touchstone_agent.protocol.errors import TouchstoneError

log = logging.getLogger(__name__)

MARKET_SECONDS = 30.0
"""How old the catalogue may be that an order is chosen from."""


@dataclass(frozen=True, kw_only=True)
class TaskKey:
    """A task: the submission and the task within it."""

    submission_id: str
    task_id: str

    def __str__(self) -> str:
        """Return it as people write it."""
        return f"{self.submission_id}/{self.task_id}"


@dataclass(kw_only=True)
class PodDesk:
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

    async def read(self, key: TaskKey) -> Record:
        """Return a task's record."""
        return await asyncio.to_thread(self.records.get_task, key.submission_id, key.task_id)

    async def change(self, key: TaskKey, decide: Callable[[Record], Record | None]) -> Record:
        """Change a task's record, and return it as it is afterwards."""
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
