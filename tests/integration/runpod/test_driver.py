"""An attempt in a pod, driven from the intent to the proof that the pod is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
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
    sum_usd,
)

from fakes.renting import Clients, Office, train
from touchstone.client.answers import ShownTask
from touchstone.client.entering import build_enter_command
from touchstone.core.gpus import find_gpu_use
from touchstone.core.names import build_attempt_prefix, build_output_key
from touchstone.core.phases import request_cancel
from touchstone.core.pod_attempts import compute_pod_cost
from touchstone.core.records.tasks import Task
from touchstone.core.retries import RENTAL_CLASSES, WaitEnd, find_end
from touchstone.core.schedule import Training
from touchstone.services.pods.context import TaskRef
from touchstone.stores.meter import Meter
from touchstone.stores.money import Budgets
from touchstone.stores.objects import ObjectStore
from touchstone.triggers.pods.driver import PodDriver
from waiting import wait_async

pytestmark = pytest.mark.integration

CENT = Decimal("0.01")


@pytest.fixture(scope="module")
def shared_world(tmp_path_factory: pytest.TempPathFactory, ssh: SshClient) -> Iterator[World]:
    with open_rented_world(tmp_path_factory.mktemp("runpod"), ssh) as world:
        yield world


@pytest.fixture
def office(world: World, ministack: str) -> Office:
    return open_office(world, ministack)


def run_task(office: Office, key: TaskRef, *, tries: int = 1) -> Task:
    async def run() -> Task:
        async with office.work() as context:
            return await train(context, office, key, tries=tries)

    return asyncio.run(run())


async def wait_record(office: Office, key: TaskRef, is_so: Callable[[Task], Any]) -> Task:
    """Return a task's record as soon as it is so, unless its attempt ends before."""
    seen: list[Task] = []

    async def look() -> Task | None:
        seen.append(await asyncio.to_thread(office.read, key))
        return seen[-1] if is_so(seen[-1]) else None

    def find_end() -> object:
        return seen and seen[-1].newest.outcome and f"it has ended: {seen[-1]}"

    return await wait_async("the record is so", look, unless=find_end)


# --- all is well -----------------------------------------------------------------------------


def test_what_a_pod_has_made_is_stored_and_the_pod_is_gone(office: Office, world: World) -> None:
    record = run_task(office, office.submit("seconds=1"))
    pod, ref = record.newest.pod, record.ref
    assert (record.newest.outcome, record.newest.exit_code) == ("succeeded", 0)
    assert (pod.gpu, pod.cloud, bool(pod.data_center)) == ("NVIDIA L4", "SECURE", True)
    assert world.admin.get_ledger(pod.id)["open"] == 0

    objects = ObjectStore(Clients.connect(office.aws_url).s3)
    for name, text in (("models/long.h5", b"long 5\n"), ("models/short.h5", b"short 5\n")):
        assert objects.get(office.settings.content_bucket, build_output_key(ref, name)) == text
    bucket = office.settings.logs_bucket
    console = objects.list(bucket, build_attempt_prefix(ref))
    assert b"".join(objects.get(bucket, item.key) for item in console) == b"train, attempt 1-1\n"


def test_the_cost_on_record_is_that_of_the_bill_to_the_cent(office: Office, world: World) -> None:
    record = run_task(office, office.submit())
    usd, is_open = compute_pod_cost(record.newest.pod, datetime.now(UTC))
    assert not is_open
    assert abs(usd - sum_usd(list_spans(world, office))) < CENT
    dynamodb = Clients.connect(office.aws_url).dynamodb
    meter = Meter(dynamodb, office.settings).list_pod(record.newest.pod.name)
    assert [(entry.kind.value, entry.is_useful) for entry in meter] == [
        ("1-opened", None),
        ("2-closed", True),
    ]
    assert Budgets(dynamodb, office.settings).list_open() == []


def test_what_a_pods_gpu_was_good_for_follows_from_its_bill(office: Office) -> None:
    record = run_task(office, office.submit("seconds=1", "gpu=40"))
    use = find_gpu_use(record, datetime.now(UTC))
    assert use is not None
    pod = record.newest.pod
    assert use.held_hours == pytest.approx(pod.seconds / 3600)
    assert (use.usd, use.utilisation_percent, use.is_open) == (pod.usd, 40, False)
    assert use.useful_hours == pytest.approx(use.held_hours * 0.4)
    assert float(use.usd_per_useful_hour or 0) == pytest.approx(float(pod.usd) / use.useful_hours)


def test_a_pod_whose_gpu_is_not_seen_costs_no_attempt_of_the_users(
    office: Office, world: World
) -> None:
    record = run_task(office, office.submit("first-blind"), tries=2)
    (blind,) = record.past
    assert (blind.outcome, blind.failure_class) == ("failed(infrastructure)", "device")
    assert blind.reason == "no GPU: JAX sees none"
    assert record.newest.outcome == "succeeded"
    assert blind.pod.id != record.newest.pod.id
    assert list_alive(world, office) == []


CONTENT = f"sha256:{'0' * 64}"


@pytest.mark.parametrize(
    ("pod_image", "pinned", "ordered"),
    [
        (None, None, "trainer:1-cuda"),
        ("registry/pod:3", None, "registry/pod:3"),
        # Wherever the setting, or its tag, has gone since it was submitted.
        ("reg.example/pod:4", f"reg.example/pod:3@{CONTENT}", f"reg.example/pod@{CONTENT}"),
    ],
)
def test_a_training_orders_the_image_for_a_gpu_and_a_host_that_can_run_it(
    world: World, ministack: str, pod_image: str | None, pinned: str | None, ordered: str
) -> None:
    office = open_office(world, ministack, runpod={"image": pod_image, "min_cuda": "12.4"})
    key = office.submit("until=never", image_cuda="trainer:1-cuda", image_pod=pinned)

    async def run() -> None:
        async with office.work() as context:
            fence = await asyncio.to_thread(office.claim, key)
            driver = PodDriver(context, key, fence)
            driving = asyncio.create_task(driver.run())
            record = await wait_record(
                office, key, lambda found: bool(found.newest.pod and found.newest.pod.id)
            )
            [pod] = [each for each in world.admin.list_pods() if each["id"] == record.newest.pod.id]
            assert (pod["image"], pod["min_cuda"]) == (ordered, "12.4")
            assert record.newest.image == ordered
            driver.stop()
            await driving

    asyncio.run(run())
    assert list_alive(world, office) == []


@pytest.mark.campaign(sample=3)
@pytest.mark.parametrize("lead", [0, 0.02, 0.05, 0.1, 0.3])
def test_two_that_drive_the_same_attempt_rent_one_pod(
    office: Office, world: World, lead: float
) -> None:
    """As when Airflow takes a triggerer for dead that is not, and another one begins anew."""
    key = office.submit("seconds=1")

    async def run() -> None:
        async with office.work() as one, office.work() as two:
            fence = await asyncio.to_thread(office.claim, key)
            first = asyncio.create_task(PodDriver(one, key, fence).run())
            await asyncio.sleep(lead)
            await asyncio.gather(first, PodDriver(two, key, fence).run())

    asyncio.run(run())
    assert office.read(key).newest.outcome == "succeeded"
    assert list_alive(world, office) == []
    assert abs(office.read(key).newest.pod.usd - sum_usd(list_spans(world, office))) < CENT


class SoldOut:
    """An API whose catalogue is read slowly: when it answers, everything has been sold."""

    def __init__(self, api: Any, office: Office, key: TaskRef) -> None:
        self._api = api
        self._office = office
        self._key = key

    def __getattr__(self, name: str) -> Any:
        return getattr(self._api, name)

    async def list_offers(self) -> tuple[()]:
        await wait_record(
            self._office, self._key, lambda found: bool(found.newest.pod and found.newest.pod.id)
        )
        return ()


def test_one_that_finds_nothing_to_rent_leaves_the_others_pod_alone(
    office: Office, world: World
) -> None:
    key = office.submit("seconds=1")

    async def run() -> None:
        async with office.work() as one, office.work() as two:
            fence = await asyncio.to_thread(office.claim, key)
            two.api = SoldOut(two.api, office, key)
            await asyncio.gather(PodDriver(one, key, fence).run(), PodDriver(two, key, fence).run())

    asyncio.run(run())
    record = office.read(key)
    assert record.newest.outcome == "succeeded", record.newest.reason
    assert list_alive(world, office) == []
    assert len(list_spans(world, office)) == 1


def test_a_submissions_own_fault_is_told_as_one(office: Office) -> None:
    record = run_task(office, office.submit("exit=3"))
    assert (record.newest.outcome, record.newest.failure_class) == ("failed(user)", "submission")
    assert record.newest.pod.gone_at


def test_who_cancels_gets_the_pod_back_at_once(office: Office, world: World) -> None:
    key = office.submit("seconds=60")

    async def run() -> Task:
        async with office.work() as context:
            driver = PodDriver(context, key, await asyncio.to_thread(office.claim, key))
            driving = asyncio.create_task(driver.run())
            await wait_record(office, key, lambda found: found.status == "running")
            await context.change(
                key, lambda found: request_cancel(found, by="ann", reason="no", now=context.now())
            )
            driver.stop()  # as the trigger does when it sees that
            await driving
            return await context.read(key)

    record = asyncio.run(run())
    assert (record.newest.outcome, record.newest.reason) == ("cancelled", "no")
    assert list_alive(world, office) == []


# --- a validation ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exit_code", "outcome", "reason"),
    [(0, "succeeded", None), (3, "failed(user)", "submission: it is wrong")],
    ids=["good", "bad"],
)
def test_a_validation_has_its_verdict_in_a_cpu_pod_that_is_gone_and_paid(
    office: Office, world: World, exit_code: int, outcome: str, reason: str | None
) -> None:
    record = run_task(office, office.validate(exit_code=exit_code))
    assert (record.newest.outcome, record.newest.reason) == (outcome, reason)
    assert find_end(record, fence=1, run_id=record.run_id) is WaitEnd.SUCCEED

    pod = record.newest.pod
    assert (pod.gpu, pod.cpu, pod.vcpus) == (None, "cpu3c", 4)
    assert pod.gone_at
    assert list_alive(world, office) == []
    [span] = list_spans(world, office)
    assert Decimal(span["rate"]) == Decimal("0.12")

    dynamodb = Clients.connect(office.aws_url).dynamodb
    opened, closed = Meter(dynamodb, office.settings).list_pod(pod.name)
    assert (opened.rental.price_per_hour, opened.rental.gpu) == (Decimal("0.12"), None)
    assert closed.is_useful, "a verdict is what it was for, good or bad"
    assert abs(pod.usd - Decimal(span["usd"])) < CENT
    assert Budgets(dynamodb, office.settings).list_open() == []


def test_a_validation_takes_the_next_cpu_when_the_cheapest_is_not_to_be_had(
    office: Office, world: World
) -> None:
    world.admin.add_fault("create.no_capacity", match={"cpu": "cpu3c"})
    record = run_task(office, office.validate())
    assert (record.newest.outcome, record.newest.pod.cpu) == ("succeeded", "cpu5c")
    assert record.newest.pod.price_per_hour == Decimal("0.14")
    assert record.newest.image == "trainer:1"


def test_a_validation_that_gets_no_cpu_is_nobodys_fault(world: World, ministack: str) -> None:
    office = open_office(world, ministack, runpod={"max_price": "0.1"})
    record = run_task(office, office.validate())
    assert record.newest.failure_class == "capacity"
    assert "CPU cpu3c costs $0.12/h, over the ceiling of $0.1/h" in record.newest.reason
    assert list_spans(world, office) == []


# --- nothing to be had -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "failure_class", "words"),
    [
        ("create.out_of_funds", "funds", "fund"),
        ("platform.key_revoked", "account", "key"),
        ("platform.retired", "account", "410"),
        ("create.no_capacity", "capacity", "no pod to be had"),
        ("create.rejected", "order", "disk"),
    ],
)
def test_what_refuses_us_is_told_and_asked_once(
    office: Office, world: World, kind: str, failure_class: str, words: str
) -> None:
    world.admin.add_fault(kind, count=None)
    before = count_requests(world)
    record = run_task(office, office.submit())
    assert (record.newest.outcome, record.newest.failure_class) == (
        "failed(infrastructure)",
        failure_class,
    )
    assert failure_class in RENTAL_CLASSES, "so it is nobody's fault, and no try of the user's"
    assert words in record.newest.reason.lower()
    assert sum_usd(list_spans(world, office)) == 0
    assert count_requests(world) - before <= 16, "no tight loop"
    assert Budgets(Clients.connect(office.aws_url).dynamodb, office.settings).list_open() == []


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        (Training(max_price=Decimal("0.01")), "0.01"),
        (Training(gpu_models=("GTX 480",)), "GTX 480"),
    ],
    ids=["price", "model"],
)
def test_a_wish_that_nothing_fulfils_is_told(office: Office, wishes: Training, words: str) -> None:
    record = run_task(office, office.submit(wishes=wishes))
    assert record.newest.failure_class == "capacity"
    assert words in record.newest.reason


def test_without_money_nothing_is_rented(office: Office, world: World) -> None:
    world.admin.set_account(balance="0")
    record = run_task(office, office.submit())
    assert record.newest.failure_class == "funds"
    assert list_spans(world, office) == []


def test_a_budget_that_is_used_up_is_told(world: World, ministack: str) -> None:
    office = open_office(world, ministack, runpod_budget_submission="0.01")
    record = run_task(office, office.submit())
    assert record.newest.failure_class == "budget"
    assert "budget of submission" in record.newest.reason
    assert list_spans(world, office) == []


def test_the_next_model_is_taken_when_the_first_is_not_to_be_had(
    office: Office, world: World
) -> None:
    world.admin.set_capacity(0, gpu="NVIDIA L4")
    record = run_task(office, office.submit())
    assert record.newest.outcome == "succeeded"
    assert record.newest.pod.gpu == "NVIDIA GeForce RTX 3090"


def count_requests(world: World) -> int:
    counted: dict[str, Any] = world.admin.ask("GET", "/requests")
    return sum(each["count"] for each in counted["operations"].values())


# --- the way there is long -------------------------------------------------------------------


@pytest.mark.campaign(sample=2)
@pytest.mark.parametrize(
    "kind", ["run.ssh_drop", "run.ssh_half_open", "run.ssh_freeze", "boot.ssh_late"]
)
def test_a_lost_login_is_no_lost_training(office: Office, world: World, kind: str) -> None:
    params = {} if kind == "run.ssh_drop" else {"seconds": 3.0}
    key = office.submit("seconds=5")

    async def run() -> Task:
        async with office.work() as context:
            training = asyncio.create_task(train(context, office, key, tries=1))
            if kind.startswith("run."):
                found = await wait_record(office, key, lambda it: it.status == "running")
                # As often as the login is lost, but not for ever: a busy machine logs in slowly.
                for _ in range(3):
                    world.admin.inject(found.newest.pod.id, kind, after=0, **params)
                    await asyncio.sleep(1)
            return await training

    if kind.startswith("boot."):
        world.admin.add_fault(kind, params=params)
    record = asyncio.run(run())
    assert record.newest.outcome == "succeeded", record.newest.reason
    spans = list_spans(world, office)
    assert (len(spans), count_doubled(spans)) == (1, 0)


def test_a_container_that_was_started_again_is_noticed(office: Office, world: World) -> None:
    key = office.submit("seconds=5")

    async def run() -> Task:
        async with office.work() as context:
            training = asyncio.create_task(train(context, office, key, tries=2))
            found = await wait_record(office, key, lambda record: record.status == "running")
            world.admin.inject(found.newest.pod.id, "run.container_restart", after=0)
            return await training

    record = asyncio.run(run())
    first = record.past[0]
    assert first.failure_class == "restarted"
    assert record.newest.outcome == "succeeded"
    assert count_doubled(list_spans(world, office)) == 0


def test_an_admins_key_opens_a_shell_in_the_pod_of_a_training(world: World, ministack: str) -> None:
    office = open_office(world, ministack, runpod={"ssh_keys": (world.ssh.public_key,)})
    key = office.submit("seconds=600")

    async def run() -> str:
        async with office.work() as context:
            driver = PodDriver(context, key, await asyncio.to_thread(office.claim, key))
            driving = asyncio.create_task(driver.run())
            found = await wait_record(office, key, lambda record: record.newest.running_at)
            command, _ = build_enter_command(ShownTask.model_validate(found.dump()))
            port = int(command.split()[2])
            shell = await asyncio.to_thread(world.ssh.run, port, "id -un; hostname")
            driver.stop()
            await driving
            return shell.output

    assert asyncio.run(run()).split()[0] == "root"
    assert list_alive(world, office) == []
