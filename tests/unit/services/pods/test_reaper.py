"""What the reaper does for a task whose record makes no sense: nothing that cannot be undone."""

from __future__ import annotations

import asyncio
import hashlib
from datetime import timedelta
from decimal import Decimal

import pytest

from fakes.money import FakeBudgets, FakeMeter
from fakes.money_promises import NOW, build_scopes
from fakes.stores import FakeObjectStore, FakeRecordStore
from fakes.tasks import build_task, read_stored, write_task
from touchstone.core.attempts import claim_attempt
from touchstone.core.offers import Candidate
from touchstone.core.pod_attempts import note_order, note_pod
from touchstone.core.pods import Cloud, Pod, PodStatus
from touchstone.core.schedule import Platform
from touchstone.services.pods.context import PodContext
from touchstone.services.pods.ledger import Ledger, build_limits
from touchstone.services.pods.reaper import reap
from touchstone.services.pods.registries import remove_registries
from touchstone.settings import Settings
from touchstone_agent.protocol.errors import TransientError

SETTINGS = Settings(env="dev", registry_conn_ids=("images",))
PRICE = Decimal("0.5")
NAME = "touchstone-dev-s-1-i5-1-1"


class Account:
    """A pod and the login of its image; what is asked to be ended is noted, and goes on."""

    def __init__(self):
        self.pod = Pod(
            id="p-1",
            name=NAME,
            status=PodStatus.RUNNING,
            image="trainer",
            gpu="L4",
            gpu_count=1,
            cloud=Cloud.SECURE,
            data_center=None,
            price_per_hour=PRICE,
            created_at=NOW,
        )
        self.ended, self.logins = [], [("r-1", NAME)]

    async def list_pods(self):
        return [self.pod]

    async def terminate_pod(self, pod_id):
        self.ended.append(pod_id)
        raise TransientError("later")

    async def list_registries(self):
        return list(self.logins)

    async def delete_registry(self, registry_id):
        self.logins = []

    async def list_bills(self):
        return []


class World:
    """A training in a pod, for which money is reserved."""

    def __init__(self):
        self.now, self.account, self.budgets = NOW, Account(), FakeBudgets()
        self.records = FakeRecordStore(SETTINGS)
        self.desk = PodContext(
            api=self.account,
            lister=None,
            records=self.records,
            objects=FakeObjectStore(),
            ledger=Ledger(self.budgets, FakeMeter(), build_limits(SETTINGS)),
            settings=SETTINGS,
            secret=hashlib.sha256(b"").digest(),
            api_url="",
            now=lambda: self.now,
        )

    def rent(self):
        task = claim_attempt(
            build_task(),
            attempt=1,
            server="runpod",
            container_of=lambda ref: ref.container_name("dev"),
            now=NOW,
            platform=Platform.RUNPOD,
        )
        offer = Candidate(
            gpu="L4", cloud=Cloud.SECURE, data_center=None, price_per_hour=PRICE, memory_gb=24
        )
        task = note_order(task, offer, image="trainer", fence=1, life_seconds=3600, now=NOW)
        self.records.create_task(note_pod(task, self.account.pod, fence=1, now=NOW))
        self.budgets.reserve(NAME, 10_000, build_scopes())

    def reap(self, times=5):
        for _ in range(times):
            self.now += timedelta(minutes=5)
            proof = asyncio.run(reap(self.desk))
        return proof


@pytest.fixture
def world():
    made = World()
    made.rent()
    return made


@pytest.mark.parametrize("odd", [{"status": "dancing"}, {"pod": 7}, {"kind": None}])
def test_neither_its_pod_nor_its_login_nor_its_money_is_taken_away(world, odd):
    write_task(world.records, ("s-1", "i5"), odd)

    proof = world.reap()
    asyncio.run(remove_registries(world.desk))

    assert (proof.ours, proof.terminated, world.account.ended) == (1, (), [])
    assert world.account.logins
    assert world.desk.ledger.list_reserved() == [NAME]


def test_as_soon_as_its_record_makes_sense_it_is_judged_like_all_others(world):
    before = read_stored(world.records, "s-1", "i5")
    write_task(world.records, ("s-1", "i5"), {"status": "dancing"})
    world.reap()

    write_task(world.records, ("s-1", "i5"), {"status": before["status"]})
    proof = world.reap()

    assert (proof.unknown, proof.terminated, world.account.ended) == (0, (), [])
