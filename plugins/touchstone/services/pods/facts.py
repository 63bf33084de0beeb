"""RunPod's offers, and whether a pod may be rented now; for placement and for checks."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from touchstone.core.market import Market
from touchstone.core.pods import Balance
from touchstone.hooks.runpod.hook import RunPodHook
from touchstone.settings import RunPodSettings
from touchstone_agent.protocol.errors import ConfigurationError, TouchstoneError

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunPodFacts:
    """
    RunPod as it was at one moment.

    :param at: When it was asked.
    :param market: What it has; empty if it could not be asked.
    :param block: Why nothing may be rented now, one line for engineers, or ``None``.
    :param balance: The account's money; ``None`` while it is not known.
    """

    at: datetime
    market: Market
    block: str | None = None
    balance: Balance | None = None


def find_hook(wanted: RunPodSettings) -> RunPodHook | None:
    """Return the hook of the installation's RunPod account, or ``None`` if there is none."""
    if wanted.conn_id is None:
        return None
    from airflow.sdk.exceptions import AirflowNotFoundException

    hook = RunPodHook(wanted.conn_id)
    try:
        _ = hook.account
    except (AirflowNotFoundException, ConfigurationError) as error:
        log.warning("RunPod is not connected: %s", error)
        return None
    return hook


def read_market(hook: RunPodHook, wanted: RunPodSettings) -> Market:
    """
    Return what there is to rent.

    :raises TouchstoneError: If RunPod cannot be asked.
    """
    with hook.get_conn() as api:
        offers = tuple(api.list_offers())
        try:
            cpus = tuple(api.list_cpus())
        except TouchstoneError as error:
            log.warning("RunPod does not tell its CPUs: %s", error)
            cpus = ()  # no reason to train on none of its GPUs
    return Market(
        offers=offers,
        cpus=cpus,
        vcpus=wanted.vcpus,
        models=wanted.gpu_models,
        max_price=wanted.max_price,
        data_centers=wanted.data_centers,
    )


def read_facts(
    hook: RunPodHook, wanted: RunPodSettings, *, balance: Balance | None, now: datetime
) -> RunPodFacts:
    """
    Ask RunPod what it has, and say whether anything may be rented; never raises.

    :param balance: The account's money as last known; without any nothing can be rented.
    """
    try:
        market = read_market(hook, wanted)
    except TouchstoneError as error:
        empty = Market(offers=())
        return RunPodFacts(at=now, market=empty, block=f"cannot be asked: {error}", balance=balance)
    block = None
    cheapest = min((offer.price_per_hour for offer in market.offers), default=Decimal())
    # RunPod refuses who cannot pay for an hour.
    if balance is not None and balance.usd < cheapest:
        block = f"the balance is ${balance.usd:.2f}: add funds in RunPod's console"
    return RunPodFacts(at=now, market=market, block=block, balance=balance)
