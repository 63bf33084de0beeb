"""
The fault campaign: every fault of the service, many seeded runs of each, and what became of them.

Each row is one fault: so many tasks at once meet it, with the reaper beside them as in production.
``make test-campaigns`` runs all rows and prints them as a table; CI runs a sample.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

import pytest
from tests.integration.runpod.conftest import SshClient, World
from tests.integration.runpod.rented import (
    count_doubled,
    list_alive,
    list_spans,
    open_office,
    open_rented_world,
)

from fakes.renting import Office, train
from fakes.runpod.faults import KINDS
from touchstone.core.pods import PodOrder
from touchstone.core.records.tasks import Task
from touchstone.services.pods.context import PodContext, TaskRef
from touchstone.services.pods.reaper import reap
from touchstone_agent.protocol.errors import TouchstoneError

pytestmark = [pytest.mark.integration, pytest.mark.campaign(sample=28)]

RUNS = 5
LAST_LOOKS = 20
PATIENCE = {"lease_seconds": 20, "boot_seconds": 8, "login_seconds": 8}
"""What is waited for in vain here is many: a busy machine gets fewer results, but loses none."""
REAP_SECONDS = 2.0
SHORTER = {
    # As long as our own patience, in a world where everything happens within seconds.
    "create.delay": {"seconds": 3.0},
    "list.delay": {"seconds": 3.0},
    "list.lag": {"seconds": 3.0},
    "boot.slow_pull": {"seconds": 4.0},
    "run.ssh_freeze": {"seconds": 4.0},
    "run.ssh_half_open": {"seconds": 4.0},
    "run.host_death": {"stale_seconds": 3.0},
    "terminate.delayed": {"seconds": 3.0},
    "terminate.reappears": {"seconds": 3.0},
}


SELDOM = ("catalog.error", "billing.lag", "list.page_loss")
"""Drawn so seldom that they always happen."""

KINDS_OF_PODS = sorted(kind for kind in KINDS if kind != "balance.error")
"""All but the one that only the dispatcher meets: unit/dispatcher/test_runpod_watcher.py."""


@dataclass(frozen=True)
class Row:
    """What became of the tasks that met one fault; all but the first three should be 0."""

    fault: str
    runs: int
    hits: int
    results: int
    failures: int
    lost: int
    doubled: int
    orphaned: int
    wasted_cents: str


@pytest.fixture(scope="module")
def shared_world(tmp_path_factory: pytest.TempPathFactory, ssh: SshClient) -> Iterator[World]:
    with open_rented_world(tmp_path_factory.mktemp("runpod"), ssh, "--page-size", "3") as world:
        yield world


@pytest.mark.parametrize("kind", KINDS_OF_PODS)
def test_nothing_is_lost_doubled_or_orphaned(
    world: World, ministack: str, kind: str, record_property: Any
) -> None:
    office = open_office(world, ministack, runpod=PATIENCE)
    manual = [
        world.api.create_pod(PodOrder(name=name, image="trainer:1", gpu="NVIDIA L4"))
        for name in ("jupyter", f"touchstone-{office.settings.env}x-s1-i5-1-1", "touchstone")
    ]
    inject(world, kind)
    keys = [office.submit("seconds=2") for _ in range(RUNS)]

    records, ticks = asyncio.run(run_all(world, office, keys))

    hits = world.admin.count_hits().get(kind, 0)
    alive = {pod["id"] for pod in world.admin.list_pods()}
    assert {pod.id for pod in manual} <= alive, "what is not ours was touched"
    spans = list_spans(world, office)
    useful = {r.newest.pod.id for r in records if r.newest.pod and r.newest.outcome == "succeeded"}
    wasted = sum((Decimal(s["usd"]) for s in spans if s["pod_id"] not in useful), Decimal())
    row = Row(
        fault=kind,
        runs=RUNS,
        hits=hits,
        results=sum(is_result(record) for record in records),
        failures=sum(is_failure(record) for record in records),
        lost=sum(not is_result(record) and not is_failure(record) for record in records),
        doubled=count_doubled(spans),
        orphaned=len(list_alive(world, office)),
        wasted_cents=f"{wasted * 100:.2f}",
    )
    record_property("row", asdict(row))
    assert hits, "the fault has not happened"
    assert (row.lost, row.doubled, row.orphaned) == (0, 0, 0), (row, records, ticks)


def inject(world: World, kind: str) -> None:
    """Let a fault happen now and then, and not for ever: what never ends nobody can outlive."""
    seed = random.Random(kind).randrange(2**31)
    probability = 1.0 if kind in SELDOM else 0.6
    params = SHORTER.get(kind, {})
    world.admin.add_fault(kind, params=params, count=RUNS, probability=probability, seed=seed)


async def run_all(
    world: World, office: Office, keys: list[TaskRef]
) -> tuple[list[Task], list[Any]]:
    """Run all tasks beside a reaper, then let it look a few times more."""
    ticks: list[Any] = []
    async with office.work() as context:
        reaping = asyncio.create_task(reap_for_ever(context, ticks))
        try:
            await asyncio.gather(*(train(context, office, key) for key in keys))
        finally:
            reaping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reaping
        for look in range(LAST_LOOKS):
            # Twice for what comes late, and then as long as anything is left to reap.
            if look >= 2 and not list_alive(world, office):
                break
            await asyncio.sleep(REAP_SECONDS)
            with contextlib.suppress(TouchstoneError):
                ticks.append(await reap(context))
        records = [await context.read(key) for key in keys]
    return records, ticks


async def reap_for_ever(context: PodContext, ticks: list[Any]) -> None:
    while True:
        with contextlib.suppress(TouchstoneError):
            ticks.append(await reap(context))
        await asyncio.sleep(REAP_SECONDS)


def is_result(record: Task) -> bool:
    return bool(record.newest.outcome == "succeeded" and record.newest.uploaded_at)


def is_failure(record: Task) -> bool:
    is_ended = record.newest.outcome == "failed(infrastructure)"
    return bool(is_ended and record.newest.failure_class and record.newest.reason)
