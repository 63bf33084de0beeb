"""
What one round of placement costs, and how well the rounds fill a fleet.

Plan: plans 5,000 waiting tasks over 100 servers, again and again; beside it, in the same minute, a
plain sort of the same list, which anybody's queue has to do. Both are pure computation.

Tick: a whole round of the dispatcher's on Airflow's real tables (SQLite), with as many waiting and
every slot held; beside it, the one query by which it reads them. Records and queues are in memory:
the dispatcher keeps the ones it has read, and sends nothing in such a round. Python's collector is
kept away from these stand-ins, which in an installation are other processes.

Makespan: lets a mix of tasks, the same for the same seed, arrive at a mixed fleet on a virtual
clock, and compares the end of the last with a bound that no schedule can beat: for every group of
machines, the work that only they can do divided by their slots; and the longest single task.
Beside it, the same mix from one submitter alone, which shows what fair shares cost, and list
scheduling (Graham 1966, Bounds for certain multiprocessing anomalies): whoever came first takes the
first slot that will do.
"""

from __future__ import annotations

import argparse
import datetime as dt
import itertools
import operator
import os
import random
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from fakes.planning import estimate, plan
from fakes.virtual_fleet import MORNING, Job, VirtualFleet
from touchstone.core.durations import Duration
from touchstone.core.placement import Capability, Needs, Resource, Running, Waiting, find_unfit
from touchstone.core.schedule import Placement, Platform
from touchstone_agent.protocol.messages import SlotClass

GPU = Capability(cuda=True, vram_gib=24, ram_gib=64)
SMALL_GPU = Capability(cuda=True, vram_gib=8, ram_gib=64)
CPU = Capability(ram_gib=64)


def in_seconds(seconds: float) -> dt.datetime:
    """Return a moment of the virtual day."""
    return MORNING + dt.timedelta(seconds=seconds)


def make_needs(source: random.Random, submitter: str, job: str, gpu: float = 0.4) -> Needs:
    """Return what a task asks for: CUDA in a share of cases, of any size, 8 or 24 GiB."""
    asks = source.choice([0, 8, 24]) if source.random() < gpu else None
    return Needs(
        kind=SlotClass.TRAINING,
        placement=Placement(
            require_cuda=asks is not None,
            prefer_cuda=source.random() < 0.2,
            min_vram_gib=asks or 0,
        ),
        labels=frozenset({f"user:{submitter}", "feature_set", job}),
    )


# --- tick -------------------------------------------------------------------------------------


def make_queue(source: random.Random, count: int) -> list[Waiting]:
    """Return tasks of twenty submitters, each of a job of its own: no two have equal needs."""
    queue = []
    for number in range(count):
        submitter = f"user{number % 20}"
        queue.append(
            Waiting(
                key=(f"s-{number // 5}", f"i{number % 5}"),
                needs=make_needs(source, submitter, f"job-{number}"),
                priority=source.choice([0, 0, 0, 1]),
                since=in_seconds(-source.randrange(4000)),
                order=number % 5,
                submitter=submitter,
                expected=Duration(p50_seconds=source.uniform(300, 3000), p90_seconds=6000),
            )
        )
    return queue


def make_servers(source: random.Random, count: int, *, free: float) -> list[Resource]:
    """Return servers of three slots each, of which about a share is free."""
    servers = []
    for number in range(count):
        held = [source.random() >= free for _ in range(3)].count(True)
        servers.append(
            Resource(
                name=f"rio{number}",
                slots=3,
                free=3 - held,
                capability=source.choice([GPU, SMALL_GPU, CPU]),
                deny=("user:user1",) if number % 10 == 0 else (),
                running=tuple(
                    Running(ends_p50=in_seconds(end), ends_p90=in_seconds(2 * end))
                    for end in (source.uniform(1, 3000) for _ in range(held))
                ),
            )
        )
    return servers


def measure(what: Callable[[], object], times: int) -> tuple[float, float]:
    """Return the median and the longest of some calls, in milliseconds."""
    spans = []
    for _ in range(times):
        started = time.perf_counter()
        what()
        spans.append((time.perf_counter() - started) * 1000)
    return statistics.median(spans), max(spans)


def measure_plans(*, ticks: int, waiting: int, servers: int) -> None:
    """Print the times of rounds with full, partly and wholly free fleets."""
    source = random.Random(1)
    queue = make_queue(source, waiting)

    def sort() -> object:
        return sorted(queue, key=lambda task: (-task.priority, task.since, task.order, task.key))

    print(f"{waiting} waiting tasks, {servers} servers, {ticks} times each:")
    for free in (0.0, 0.05, 1.0):
        fleet = make_servers(source, servers, free=free)
        placed = len(plan(queue, fleet, now=MORNING).placements)
        middle, longest = measure(lambda fleet=fleet: plan(queue, fleet, now=MORNING), ticks)
        plain, _ = measure(sort, ticks)
        print(
            f"  plan, {placed:3} slots free: p50 {middle:.1f} ms, max {longest:.1f} ms; "
            f"a plain sort {plain:.1f} ms, ratio {middle / plain:.1f}"
        )
    fleet = make_servers(source, servers, free=0)
    middle, longest = measure(lambda: estimate(queue, fleet, now=MORNING), max(3, ticks // 10))
    print(f"  estimate of every start: p50 {middle:.0f} ms, max {longest:.0f} ms")


def measure_ticks(*, ticks: int, waiting: int, servers: int) -> None:
    """Print the times of whole rounds, and of reading what they are about."""
    with tempfile.TemporaryDirectory(prefix="touchstone-bench-") as folder:
        # Airflow looks for these when it is imported, and not again.
        os.environ["AIRFLOW_HOME"] = folder
        os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
        from fakes.placement_world import World
        from integration.airflow.database import RealAirflow, migrate, use_database
        from touchstone.memory import spare_collector

        with use_database(migrate(f"sqlite:///{folder}/airflow.db")):
            airflow = RealAirflow()
            airflow.empty()
            world = World(lambda *_: None)
            for number in range(servers):
                world.add_server(f"rio{number}", slots=3)
                airflow.create_pool(f"rio{number}", 3, "")
            world.airflow = airflow  # type: ignore[assignment]
            dispatcher = world.make_dispatcher()
            dispatcher.tick()
            for number in range((waiting + 3 * servers) // 5):
                submitter = f"user{number % 20}"
                world.submit(f"s-{number}", 1, 2, 3, 4, 5, submitted_by=submitter, job=f"j{number}")
            # As the dispatcher does after its first round; and the stores that stand in for real
            # ones would not be in this process.
            spare_collector()
            dispatcher.tick()
            for placed in airflow.read_instances():
                if placed.placement is not None:
                    airflow.change(placed.key, state="deferred")
            # The records of what waits are read, and the runs that only wait are suspended.
            for _ in range(3):
                dispatcher.tick()
            left = len(dispatcher.view.waiting)
            middle, longest = measure(dispatcher.tick, ticks)
            plain, _ = measure(airflow.read_instances, ticks)
    print(
        f"  whole tick, {left} wait: p50 {middle:.0f} ms, max {longest:.0f} ms; reading the "
        f"instances {plain:.0f} ms, ratio {middle / plain:.1f}"
    )


# --- makespan ---------------------------------------------------------------------------------


def make_fleet() -> list[Resource]:
    """Return twelve slots on five machines and two pods."""
    return [
        Resource(name="rio1", slots=1, capability=GPU),
        Resource(name="rio2", slots=2, capability=GPU),
        Resource(name="rio3", slots=2, capability=SMALL_GPU),
        Resource(name="zeus", slots=3, capability=CPU),
        Resource(name="hera", slots=2, capability=CPU),
        Resource(name="runpod", slots=2, capability=GPU, platform=Platform.RUNPOD),
    ]


def make_mix(seed: int, count: int, gpu: float) -> list[Job]:
    """Return submissions of five tasks that arrive during the first quarter of the work."""
    source, jobs = random.Random(seed), []
    for number in range(count):
        if number % 5 == 0:
            since = in_seconds(source.uniform(0, count * 15))
            submitter = source.choice(["ada", "bob", "bob", "cyd"])
            needs = make_needs(source, submitter, f"job-{number}", gpu)
        task = Waiting(
            key=(f"s-{number // 5}", f"i{number % 5}"),
            needs=needs,
            since=since,
            order=number % 5,
            submitter=submitter,
        )
        jobs.append(Job(task=task, seconds=600 * source.lognormvariate(0, 0.5)))
    return jobs


def find_bound(jobs: Sequence[Job], servers: Sequence[Resource]) -> float:
    """Return seconds that no schedule can do with less."""
    bound = max((job.task.since - MORNING).total_seconds() + job.seconds for job in jobs)
    by_group: dict[frozenset[str], list[Job]] = defaultdict(list)
    for job in jobs:
        fits = [s.name for s in servers if find_unfit(job.task.needs, s) is None]
        by_group[frozenset(fits)].append(job)
    slots = {server.name: server.slots for server in servers}
    for count in range(1, len(by_group) + 1):
        for groups in itertools.combinations(by_group, count):
            machines = frozenset().union(*groups)
            inside = [job for fits, some in by_group.items() if fits <= machines for job in some]
            inside.sort(key=lambda job: job.task.since, reverse=True)
            # What arrives after a moment cannot be begun before it.
            work = 0.0
            for job in inside:
                work += job.seconds
                arrival = (job.task.since - MORNING).total_seconds()
                bound = max(bound, arrival + work / sum(slots[name] for name in machines))
    return bound


def run_fleet(jobs: Iterable[Job], servers: Sequence[Resource]) -> float:
    """Return the seconds until the last task has ended."""
    fleet = VirtualFleet(servers)
    fleet.run(jobs)
    end = max(held.ends for held in fleet.started.values())
    return (end - MORNING).total_seconds()


def take_over(job: Job) -> Job:
    """Return a job as one submitter's that has them all."""
    return replace(job, task=replace(job.task, submitter="ada"))


def schedule_list(jobs: Sequence[Job], servers: Sequence[Resource]) -> float:
    """Return the seconds that list scheduling takes, in the order of arrival."""
    slots = [(0.0, server) for server in servers for _ in range(server.slots)]
    waiting = sorted(jobs, key=lambda job: (job.task.since, job.task.key))
    end = 0.0
    for job in waiting:
        arrival = (job.task.since - MORNING).total_seconds()
        fits = [n for n, (_, s) in enumerate(slots) if find_unfit(job.task.needs, s) is None]
        # Of those that are free by then any will do: the first one of the list.
        number = min(fits, key=lambda n: (max(arrival, slots[n][0]), n))
        free, server = slots[number]
        slots[number] = (max(arrival, free) + job.seconds, server)
        end = max(end, slots[number][0])
    return end


def measure_makespan(*, seeds: int, count: int) -> None:
    """Print how long mixes take beside the bound."""
    servers = make_fleet()
    slots = sum(server.slots for server in servers)
    print(f"{count} tasks over {slots} slots of {len(servers)} resources, seven of them with CUDA:")
    # With 0.55 CUDA is what the fleet is short of: tasks that need none take it in their turn.
    for gpu in (0.0, 0.3, 0.55):
        ratios, alone, listed = [], [], []
        for seed in range(1, seeds + 1):
            jobs = make_mix(seed, count, gpu)
            bound = find_bound(jobs, servers)
            ratios.append(run_fleet(jobs, servers) / bound)
            alone.append(run_fleet(map(take_over, jobs), servers) / bound)
            listed.append(schedule_list(jobs, servers) / bound)
        told = ", ".join(f"{ratio:.3f}" for ratio in ratios)
        beside = statistics.median(map(operator.truediv, ratios, listed))
        print(
            f"  {gpu:.0%} need CUDA: makespan over the bound, median "
            f"{statistics.median(ratios):.3f} of {told}; one submitter "
            f"{statistics.median(alone):.3f}, list scheduling {statistics.median(listed):.3f}; "
            f"ours over list scheduling's {beside:.3f}"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ticks", type=int, default=50)
    parser.add_argument("--waiting", type=int, default=5000)
    parser.add_argument("--servers", type=int, default=100)
    parser.add_argument("--mixes", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=600)
    given = parser.parse_args()
    measure_plans(ticks=given.ticks, waiting=given.waiting, servers=given.servers)
    measure_ticks(ticks=given.ticks, waiting=given.waiting, servers=given.servers)
    measure_makespan(seeds=given.mixes, count=given.tasks)


if __name__ == "__main__":
    main()
