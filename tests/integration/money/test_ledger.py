"""
Drivers that stop anywhere, a RunPod that does not do what it says, and a reaper behind them.

The emulator's ledger is the truth: at the end nothing is billed any more but what is not ours, and
what the budgets and the meters say was spent is what RunPod has billed, to the micro-dollar.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fakes.runpod.server import EmulatorProcess
from touchstone.core.meter import Entry, Rental, sum_all
from touchstone.core.money import (
    BudgetLimits,
    build_month,
    build_scopes,
    compute_worst_case,
    to_micros,
)
from touchstone.core.pods import Pod, PodOrder
from touchstone.core.reaping import ReapingThresholds, RecordedPod, Sightings, decide
from touchstone.hooks.runpod.api import Account
from touchstone.hooks.runpod.errors import Ambiguous, PodNotFound
from touchstone.hooks.runpod.rest import RestPodApi
from touchstone.stores.meter import Meter
from touchstone.stores.money import Budgets, OverBudget
from touchstone_agent.protocol.errors import TransientError
from touchstone_agent.protocol.names import build_container_name, build_prefix
from waiting import wait_for

Fault = tuple[str, float, dict[str, Any]]

GPU, PRICE = "NVIDIA L4", Decimal("0.39")
WORST = compute_worst_case(PRICE, boot_seconds=10, life_seconds=110)
DRIVERS = 10
THRESHOLDS = ReapingThresholds(young_seconds=1.5)
FOREIGN = ("somebody-elses", "touchstone-dev2-s-1-i1-1-1", "touchstone-prod-s-1-i1-1-1")


@dataclass
class Records:
    """What is on record of pods, as the task records have it."""

    recorded_pods: dict[str, RecordedPod] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    useful: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, recorded: RecordedPod) -> None:
        with self.lock:
            self.recorded_pods[recorded.name] = recorded

    def change(self, name: str, **changes) -> RecordedPod:
        with self.lock:
            recorded = self.recorded_pods[name] = replace(self.recorded_pods[name], **changes)
            return recorded

    def end(self, name: str) -> None:
        """Write down that an attempt is over, with or without a pod."""
        with self.lock:
            self.ended.add(name)
            if name in self.recorded_pods:
                self.recorded_pods[name] = replace(self.recorded_pods[name], is_live=False)

    def list(self) -> list[RecordedPod]:
        with self.lock:
            return list(self.recorded_pods.values())


class Stopped(Exception):
    """A driver was killed between two steps."""


@dataclass
class Touchstone:
    """All that several processes share."""

    emulator: EmulatorProcess
    budgets: Budgets
    meter: Meter
    limits: BudgetLimits
    records: Records = field(default_factory=Records)
    refused: int = 0
    wrong: list[str] = field(default_factory=list)

    def open_api(self) -> RestPodApi:
        return RestPodApi(Account(api_key="k", url=self.emulator.url))

    def build_rental(self, recorded: RecordedPod, pod: Pod) -> Rental:
        return Rental(
            pod=recorded.name,
            pod_id=pod.id,
            submission_id=recorded.submission_id,
            task_id=recorded.task_id,
            attempt=1,
            fence=recorded.fence,
            user="ann",
            month=build_month(recorded.ordered_at),
            gpu=pod.gpu,
            cloud=pod.cloud and pod.cloud.value,
            data_center=pod.data_center,
            price_per_hour=pod.price_per_hour or PRICE,
            started_at=pod.created_at or datetime.now(UTC),
        )

    def note_gone(self, recorded: RecordedPod) -> None:
        """Close the meters of all pods of a claim, and settle for what they say."""
        now, is_useful = datetime.now(UTC), recorded.name in self.records.useful
        entries = self.meter.list_pod(recorded.name)
        rentals = {entry.rental.pod_id: entry.rental for entry in entries}
        closed = [
            self.meter.close(rental, at=now, is_useful=is_useful) for rental in rentals.values()
        ]
        self.budgets.settle(recorded.name, sum(each.micros or 0 for each in closed))
        self.records.change(recorded.name, gone_at=now)


class Driver:
    """Runs attempts one after the other: rents a pod each, and gives it back."""

    def __init__(self, world: Touchstone, seed: int) -> None:
        self._world = world
        self._random = random.Random(seed)
        self._api = world.open_api()

    def run(self, number: int) -> None:
        name = build_container_name("dev", f"s-{number // 5}", f"i{number}", 1, 1)
        try:
            self._attempt(name, number)
        except (Stopped, TransientError):
            # Somebody notices that nothing is heard of it, and the attempt is lost.
            time.sleep(self._random.uniform(0, 0.5))
            self._world.records.end(name)

    def _attempt(self, name: str, number: int) -> None:
        world, now = self._world, datetime.now(UTC)
        submission = f"s-{number // 5}"
        scopes = build_scopes(world.limits, submission_id=submission, user="ann", at=now)
        while True:
            try:
                world.budgets.reserve(name, WORST, scopes)
                break
            except OverBudget:
                world.refused += 1
                time.sleep(0.1)
        self._may_stop()
        recorded = RecordedPod(
            name=name,
            submission_id=submission,
            task_id=f"i{number}",
            fence=1,
            pod_id=None,
            is_live=True,
            ordered_at=datetime.now(UTC),
        )
        world.records.put(recorded)
        self._may_stop()
        pod = self._order(name)
        self._may_stop()
        world.records.change(name, pod_id=pod.id)
        self._may_stop()
        world.meter.open(world.build_rental(recorded, pod))
        time.sleep(self._random.uniform(0.1, 0.6))
        self._may_stop()
        if pod.id not in {each["id"] for each in world.emulator.admin.list_pods()}:
            world.wrong.append(f"{name} was terminated while it was needed")
        world.records.useful.add(name)
        self._may_stop()
        world.records.change(name, is_live=False, ending_at=datetime.now(UTC))
        self._api.terminate_pod(pod.id)
        self._may_stop()
        if self._is_gone(pod.id):
            world.note_gone(recorded)

    def _order(self, name: str) -> Pod:
        order = PodOrder(name=name, image="trainer:1", gpu=GPU)
        # Now and then two drivers of the same attempt are at it.
        for _ in range(2 if self._random.random() < 0.1 else 1):
            try:
                pod = self._api.create_pod(order)
            except Ambiguous:
                pod = self._find(name)
        return pod

    def _find(self, name: str) -> Pod:
        for _ in range(20):
            found = sorted(
                (pod for pod in self._api.list_pods() if pod.name == name),
                key=lambda pod: (str(pod.created_at), pod.id),
            )
            if found:
                return found[0]
            time.sleep(0.1)
        raise Stopped

    def _is_gone(self, pod_id: str) -> bool:
        for _ in range(2):
            try:
                self._api.get_pod(pod_id)
            except PodNotFound:
                continue
            return False
        return True

    def _may_stop(self) -> None:
        if self._random.random() < 0.04:
            raise Stopped


class Reaper:
    """Looks at all pods every half second, as the dispatcher does."""

    def __init__(self, world: Touchstone) -> None:
        self._world = world
        self._api = world.open_api()
        self._sightings: dict = {}
        self.reasons: Counter[str] = Counter()

    def tick(self) -> None:
        now = datetime.now(UTC)
        pods = self._api.list_pods()
        recorded_pods = self._world.records.list()
        by_name = {recorded.name: recorded for recorded in recorded_pods}
        for pod in pods:
            if recorded := by_name.get(pod.name):
                self._world.meter.open(self._world.build_rental(recorded, pod))
        decision = decide(
            pods,
            recorded_pods,
            Sightings.load(self._sightings),
            prefix=build_prefix("dev"),
            now=now,
            thresholds=THRESHOLDS,
        )
        self._sightings = decision.sightings.dump()
        for each in decision.terminations:
            self.reasons[each.reason.value] += 1
            with suppress(TransientError):
                # Gone already, or to be asked for again.
                self._api.terminate_pod(each.pod.id)
        for recorded in decision.gone:
            self._world.note_gone(recorded)
        for reservation in self._world.budgets.list_open():
            name = reservation.pod
            if name in self._world.records.ended and name not in self._world.records.recorded_pods:
                # Its driver has stopped before anything was ordered.
                self._world.budgets.settle(name, 0)


@contextmanager
def repeating(work: Callable[[], None], seconds: float) -> Iterator[None]:
    """Do something over and over in another thread; raise what it raised."""
    is_over, errors = threading.Event(), []

    def repeat() -> None:
        while not is_over.wait(seconds):
            try:
                work()
            except TransientError:
                continue
            except Exception as error:
                errors.append(error)
                return

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
    if errors:
        raise errors[0]


@pytest.fixture
def emulator(tmp_path: Path) -> Iterator[EmulatorProcess]:
    emulator = EmulatorProcess(
        *(tmp_path, "--pods", "none", "--rate-limit", "none", "--page-size", "20"),
        *("--boot-seconds", "0.2", "--credit", "100000"),
    )
    try:
        emulator.start()
        emulator.admin.set_capacity(10_000, gpu=GPU)
        emulator.admin.set_account(spend_limit="100000")
        yield emulator
    finally:
        emulator.stop()


def read_ledger(emulator: EmulatorProcess) -> dict[str, tuple[str, int]]:
    """Return the name of each pod of ours, and what it has cost to the micro-dollar."""
    bills: dict[str, tuple[str, int]] = {}
    for span in emulator.admin.get_ledger()["spans"]:
        if span["name"].startswith("touchstone-dev-") and not span["name"].endswith("-orphan"):
            usd = Decimal(span["rate"]) * span["seconds"] / 3600
            before = bills.get(span["pod_id"], ("", 0))[1]
            bills[span["pod_id"]] = (span["name"], before + to_micros(usd))
    return bills


def run_attempts(world: Touchstone, count: int, seed: int) -> Reaper:
    """Run attempts until all are over, while the reaper reaps and the bill is watched."""
    limit = to_micros(world.limits.month or Decimal(0))
    [*_, month] = build_scopes(world.limits, submission_id="s-0", user="ann", at=datetime.now(UTC))

    def watch() -> None:
        [state] = world.budgets.read([month])
        assert state.left is not None
        assert state.left >= 0, "the budget is overshot"
        billed = sum(micros for _, micros in read_ledger(world.emulator).values())
        assert billed <= limit, "RunPod has billed more than was allowed"

    reaper = Reaper(world)
    drivers = [Driver(world, seed * 1000 + index) for index in range(DRIVERS)]

    def drive(index: int) -> None:
        for number in range(index, count, DRIVERS):
            drivers[index].run(number)

    with (
        repeating(reaper.tick, 0.5),
        repeating(watch, 0.2),
        ThreadPoolExecutor(DRIVERS) as pool,
    ):
        list(pool.map(drive, range(DRIVERS)))
    return reaper


def finish(world: Touchstone, reaper: Reaper) -> list[Entry]:
    """Let the reaper come to rest, then book RunPod's bill; return all meters' entries."""

    def tick_and_look() -> bool:
        with suppress(TransientError):
            reaper.tick()
        recorded_pods = world.records.list()
        return not world.budgets.list_open() and all(recorded.gone_at for recorded in recorded_pods)

    wait_for("all are gone and settled", tick_and_look, every=0.3)
    # Whatever came back after it was proven gone is seen, too, and so is an unknown one.
    for _ in range(int(THRESHOLDS.young_seconds / 0.3) + 2):
        time.sleep(0.3)
        with suppress(TransientError):
            reaper.tick()
    with world.open_api() as api:
        bills = {bill.pod_id: to_micros(bill.usd) for bill in api.list_bills()}
    now = datetime.now(UTC)
    for recorded in world.records.list():
        entries = world.meter.list_pod(recorded.name)
        for rental in {entry.rental.pod_id: entry.rental for entry in entries}.values():
            world.meter.bill(rental, at=now, micros=bills.get(rental.pod_id, 0))
        entries = world.meter.list_pod(recorded.name)
        world.budgets.correct(recorded.name, sum_all(entries, now=now).micros)
    return world.meter.list_month(build_month(now))


def check_the_books(world: Touchstone, count: int, seed: int, faults: Iterable[Fault]) -> Reaper:
    admin = world.emulator.admin
    with world.open_api() as api:
        foreign = [api.create_pod(PodOrder(name=name, image="x", gpu=GPU)).id for name in FOREIGN]
        orphan = api.create_pod(
            PodOrder(name="touchstone-dev-s-99-i1-1-1-orphan", image="x", gpu=GPU)
        )
    for kind, probability, params in faults:
        admin.add_fault(kind, count=None, probability=probability, params=params, seed=seed)
    reaper = run_attempts(world, count, seed)
    entries = finish(world, reaper)
    assert world.wrong == []
    assert {pod["id"] for pod in admin.list_pods()} == set(foreign), "and nothing of ours"
    assert admin.get_ledger(orphan.id)["open"] == 0
    ledger = read_ledger(world.emulator)
    metered = {e.rental.pod_id: (e.rental.pod, e.micros) for e in entries if "billed" in e.kind}
    assert metered == ledger, "every pod has a meter, and every meter says what RunPod says"
    [*_, month] = world.budgets.read(
        build_scopes(world.limits, submission_id="s-0", user="ann", at=datetime.now(UTC))
    )
    assert month.reserved == 0
    assert month.spent == sum(micros for _, micros in ledger.values())
    assert month.spent == sum_all(entries, now=datetime.now(UTC)).micros
    print(f"{len(ledger)} pods, {world.refused} refusals; reaped: {reaper.reasons}")
    return reaper


@pytest.fixture
def world(emulator: EmulatorProcess, budgets: Budgets, meter: Meter) -> Touchstone:
    # For the worst case of eight at a time, and ten want one.
    limits = BudgetLimits(month=Decimal(WORST * 8) / 1_000_000)
    return Touchstone(emulator, budgets, meter, limits)


def test_the_books_agree_with_runpods_when_drivers_stop_anywhere(world: Touchstone) -> None:
    faults = [("create.drop_after", 0.1, {}), ("terminate.ignored", 0.2, {})]
    reaper = check_the_books(world, 60, 1, faults)
    assert world.refused > 0
    assert reaper.reasons["its attempt has ended"] > 0


@pytest.mark.campaign
@pytest.mark.parametrize("seed", range(2, 8))
def test_the_books_agree_with_runpods_on_worse_days(world: Touchstone, seed: int) -> None:
    faults: list[Fault] = [
        ("create.drop_after", 0.15, {}),
        ("create.error_after", 0.1, {}),
        ("list.lag", 0.2, {"seconds": 1.0}),
        ("list.empty", 0.05, {}),
        ("list.error", 0.05, {}),
        ("terminate.ignored", 0.3, {}),
        ("terminate.delayed", 0.2, {"seconds": 1.0}),
        ("terminate.reappears", 0.1, {"seconds": 1.0}),
    ]
    check_the_books(world, 100, seed, faults)
