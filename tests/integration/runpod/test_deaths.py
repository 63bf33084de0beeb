"""
What drives a pod dies with -9 before and behind each of its steps, and another one goes on.

The driver is a process of its own, as in a triggerer. ``make test-campaigns`` kills it at every
step; CI runs a sample.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path

import pytest
from tests.integration.runpod.conftest import SshClient, World
from tests.integration.runpod.rented import (
    count_doubled,
    list_alive,
    list_spans,
    open_office,
    open_rented_world,
    sum_usd,
)

from fakes.renting import Clients, Office, train
from touchstone.core.records.tasks import Task
from touchstone.core.retries import WaitEnd, find_end
from touchstone.services.pods.context import TaskRef
from touchstone.stores.money import Budgets
from touchstone.triggers.pods.driver import PodDriver
from waiting import find_exit, wait_for

pytestmark = pytest.mark.integration

TESTS = Path(__file__).parents[2]
LAST_STEP = 76
"""An undisturbed attempt of a second has about so many, with those of its looks."""
CENT = Decimal("0.01")


@pytest.fixture(scope="module")
def shared_world(tmp_path_factory: pytest.TempPathFactory, ssh: SshClient) -> Iterator[World]:
    with open_rented_world(tmp_path_factory.mktemp("runpod"), ssh) as world:
        yield world


def start_driver(office: Office, key: TaskRef, fence: int, die_at: int) -> subprocess.Popen[str]:
    """Drive a task in a process of its own, which dies at a step."""
    order = {
        "runpod_url": office.runpod_url,
        "aws_url": office.aws_url,
        "settings": office.settings.model_dump(mode="json"),
        "key": asdict(key),
        "fence": fence,
        "die_at": die_at,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "fakes.renting"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(order))
    process.stdin.close()
    return process


def find_last_step(process: subprocess.Popen[str]) -> str:
    """Wait until it has ended; return the last step it told."""
    assert process.stdout is not None
    lines = process.stdout.read().splitlines()
    process.wait()
    return str(json.loads(lines[-1])["what"]) if lines else "nothing"


async def drive(office: Office, key: TaskRef, fence: int) -> Task:
    """Take over an attempt, as the next triggerer does; return what has become of it."""
    async with office.work() as context:
        await PodDriver(context, key, fence).run()
        return await context.read(key)


async def go_on(office: Office, key: TaskRef, fence: int) -> Task:
    """Take over, as the next triggerer does, and give the task further attempts if need be."""
    async with office.work() as context:
        await PodDriver(context, key, fence).run()
        record = await context.read(key)
        if find_end(record, fence=fence, run_id=record.run_id) is WaitEnd.RETRY:
            record = await train(context, office, key)
        return record


@pytest.mark.campaign(sample=16)
@pytest.mark.parametrize("die_at", range(1, LAST_STEP + 1))
def test_another_goes_on_where_it_died(world: World, ministack: str, die_at: int) -> None:
    office = open_office(world, ministack)
    key = office.submit("seconds=1")
    fence = office.claim(key)
    last = find_last_step(start_driver(office, key, fence, die_at))

    record = asyncio.run(go_on(office, key, fence))

    spans = list_spans(world, office)
    assert record.newest.outcome == "succeeded", (last, record)
    assert list_alive(world, office) == [], last
    assert count_doubled(spans) == 0, (last, spans)
    pods = [item.pod for item in record.attempts if item.pod]
    assert abs(sum((pod.usd or 0) for pod in pods) - sum_usd(spans)) < CENT, (last, pods)
    assert Budgets(Clients.connect(office.aws_url).dynamodb, office.settings).list_open() == []


def test_when_nobody_goes_on_the_pod_ends_itself(world: World, ministack: str) -> None:
    """The dead-man's switch: all of ours is gone for good, and the pod asks for its own end."""
    office = open_office(world, ministack, runpod={"lease_seconds": 12})
    key = office.submit("seconds=600")
    fence = office.claim(key)
    process = start_driver(office, key, fence, die_at=0)
    try:
        wait_for(
            "it trains",
            lambda: office.read(key).status == "running",
            unless=lambda: find_exit(process),
        )
    finally:
        process.kill()
        process.wait()
    wait_for("the pod has ended itself", lambda: not list_alive(world, office))
    spans = list_spans(world, office)
    assert all(span["ended_at"] for span in spans)
    # Whoever comes back finds that out, and counts what was billed.
    record = asyncio.run(drive(office, key, fence))
    assert record.newest.failure_class in {"gone", "login"}
    assert record.newest.pod.gone_at
