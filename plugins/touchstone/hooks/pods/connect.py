"""Puts together what renting works with, out of Airflow's connections."""

from __future__ import annotations

import asyncio
from importlib import import_module

from touchstone.hooks.agent import AgentHook
from touchstone.hooks.objects import ObjectStore
from touchstone.hooks.pods.desk import PodDesk
from touchstone.hooks.pods.ledger import Ledger
from touchstone.hooks.records import RecordStore
from touchstone.hooks.runpod.hook import RunPodHook
from touchstone.hooks.runpod.lister import get_async_lister
from touchstone.hooks.runpod.rest import AsyncRestPodApi
from touchstone.settings import Settings, get_settings


async def connect_desk(settings: Settings | None = None) -> PodDesk:
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
    return PodDesk(
        api=AsyncRestPodApi(account),
        lister=get_async_lister(account),
        records=records,
        objects=objects,
        ledger=ledger,
        settings=settings,
        secret=secret,
        api_url=account.url,
    )
