"""
What a training costs Airflow's machine while it runs: memory and CPU, ours and a DockerOperator's.

Ours waits in the triggerer: measures a real one with one training in flight, and with 500. The
further ones are copies of that one, in Airflow's database and among the records, so that nothing
but the triggerer has to carry them. A DockerOperator blocks a worker process: measures those of a
plain Airflow (LocalExecutor) with none and with several trainings in flight.

Resident memory counts what processes share in each of them; the proportional share (PSS) counts
it once.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from bench.peers.engine import build_image
from bench.peers.ours import end_on_sigterm, run_installation, submit_trainings
from bench.peers.patience import wait_within
from bench.peers.plain_airflow import LOCAL, PeerAirflow
from system.installation import Installation
from touchstone.core.records.tasks import Task

LONG = 3600
FIRST_MAP_INDEX = 1000
MIB = 1024**2
CLONE = Path(__file__).parent / "peers" / "clone_deferred.py"
OTHERS = ("airflow-scheduler", "dispatcher")
"""What would wonder about the copies; it stands still meanwhile."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """
    What a process and all below it take.

    :param in_flight: Trainings at that time.
    :param rss_mib: Resident memory.
    :param pss_mib: The same with shared pages counted once.
    :param cpu: Share of one CPU.
    """

    in_flight: int
    rss_mib: float
    pss_mib: float
    cpu: float


def measure(find: Callable[[], Sequence[psutil.Process]], in_flight: int, seconds: float) -> Cost:
    """Return what some processes take, over a while."""
    before = _count_cpu(find())
    time.sleep(seconds)
    processes = find()
    memory = [process.memory_full_info() for process in processes]
    return Cost(
        in_flight=in_flight,
        rss_mib=sum(info.rss for info in memory) / MIB,
        pss_mib=sum(info.pss for info in memory) / MIB,
        cpu=(_count_cpu(processes) - before) / seconds,
    )


def _count_cpu(processes: Sequence[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


# --- ours -------------------------------------------------------------------------------------


def measure_ours(count: int, seconds: float) -> list[Cost]:
    """Return the triggerer's cost with one training in flight, and with many."""
    with run_installation({"a": 1}) as installation:
        pid = int(installation.part("airflow-triggerer")["pid"])

        def find() -> list[psutil.Process]:
            process = psutil.Process(pid)
            return [process, *process.children(recursive=True)]

        submission_id = submit_trainings(installation, 1, LONG)
        installation.wait_for_task(submission_id, "i1", "running")
        wait_within(120, "one trigger runs", lambda: _find_count(installation) == 1)
        with _standing_still(installation):
            one = measure(find, 1, seconds)
            _clone(installation, submission_id, count - 1)
            wait_within(240, "all triggers run", lambda: _find_count(installation) == count)
            many = measure(find, count, seconds)
            # A trigger that had failed would have left.
            if _count_triggers(installation) != count:
                raise AssertionError("some triggers have ended")
        return [one, many]


def _find_count(installation: Installation) -> int | None:
    """Return how many triggers run, as the triggerer itself tells once a minute."""
    log = (installation.state_dir / "logs" / "airflow-triggerer.log").read_text(errors="replace")
    found = re.findall(r"(\d+) triggers currently running", log)
    return int(found[-1]) if found else None


def _count_triggers(installation: Installation) -> int:
    with sqlite3.connect(_database(installation), timeout=60) as database:
        return int(database.execute("SELECT count(*) FROM trigger").fetchone()[0])


def _database(installation: Installation) -> Path:
    return installation.state_dir / "airflow" / "airflow.db"


def _clone(installation: Installation, submission_id: str, count: int) -> None:
    record = installation.task(submission_id, "i1")
    for number in range(count):
        task_id = f"i{FIRST_MAP_INDEX + number}"
        installation.records.create_task(Task.load({**record, "task_id": task_id}))
    environment = json.loads(
        next(installation.state_dir.glob("*/airflow-triggerer.json")).read_text()
    )
    subprocess.run(
        [sys.executable, str(CLONE), str(FIRST_MAP_INDEX), str(count)], env=environment, check=True
    )


@contextmanager
def _standing_still(installation: Installation) -> Iterator[None]:
    """Hold what would interfere, though not while it holds SQLite's one lock."""
    held: list[int] = []
    try:
        for name in OTHERS:
            pid = int(installation.part(name)["pid"])
            while True:
                os.kill(pid, signal.SIGSTOP)
                time.sleep(0.2)
                try:
                    database = sqlite3.connect(_database(installation), timeout=2)
                    database.execute("BEGIN IMMEDIATE")
                    database.close()
                    break
                except sqlite3.OperationalError:
                    os.kill(pid, signal.SIGCONT)
                    time.sleep(0.3)
            held.append(pid)
        yield
    finally:
        for pid in held:
            os.kill(pid, signal.SIGCONT)


# --- the peer ---------------------------------------------------------------------------------


def measure_peer(count: int, seconds: float) -> list[Cost]:
    """Return what LocalExecutor's processes take with no training in flight, and with several."""
    with PeerAirflow(LOCAL, slots=count, tasks=count, seconds=LONG, settings={}) as peer:

        def find() -> list[psutil.Process]:
            return peer.find_processes("scheduler")

        none = measure(find, 0, seconds)
        peer.trigger()
        wait_within(60 + 20 * count, "all run", lambda: peer.count_containers() == count)
        time.sleep(5)
        return [none, measure(find, count, seconds)]


# --- both -------------------------------------------------------------------------------------


def find_share(costs: Sequence[Cost]) -> Cost:
    """Return what one more training in flight costs."""
    few, many = costs
    more = many.in_flight - few.in_flight
    return Cost(
        in_flight=1,
        rss_mib=(many.rss_mib - few.rss_mib) / more,
        pss_mib=(many.pss_mib - few.pss_mib) / more,
        cpu=(many.cpu - few.cpu) / more,
    )


def print_table(found: dict[str, list[Cost]]) -> None:
    """Print what was measured, and what each further training costs."""
    print(f"{'':<36}{'in flight':>10}{'RSS MiB':>10}{'PSS MiB':>10}{'CPU %':>8}")
    titles = {"ours": "Touchstone: triggerer", "docker": "DockerOperator: LocalExecutor"}
    for name, costs in found.items():
        share = find_share(costs)
        for cost in costs:
            print(
                f"{titles[name]:<36}{cost.in_flight:>10}{cost.rss_mib:>10.1f}{cost.pss_mib:>10.1f}"
                f"{100 * cost.cpu:>8.1f}"
            )
        print(
            f"{'  each further one':<46}{share.rss_mib:>10.3f}{share.pss_mib:>10.3f}"
            f"{100 * share.cpu:>8.3f}"
        )
    if len(found) == 2:
        ours, peer = find_share(found["ours"]), find_share(found["docker"])
        print(f"ours / docker: PSS {ours.pss_mib / peer.pss_mib:.4f}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--deferred", type=int, default=500, help="trainings in our triggerer")
    parser.add_argument("--blocking", type=int, default=8, help="trainings in the peer's workers")
    parser.add_argument("--seconds", type=float, default=30, help="how long CPU is counted")
    parser.add_argument("--only", default="ours,docker", help="of ours, docker")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    end_on_sigterm()
    with tempfile.TemporaryDirectory() as folder:
        build_image(Path(folder))
    found: dict[str, list[Cost]] = {}
    for name in given.only.split(","):
        print(f"measuring {name}", file=sys.stderr)
        found[name] = (
            measure_ours(given.deferred, given.seconds)
            if name == "ours"
            else measure_peer(given.blocking, given.seconds)
        )
    if given.json:
        told: dict[str, Any] = {name: [asdict(c) for c in costs] for name, costs in found.items()}
        print(json.dumps({**told, "load": os.getloadavg()[0]}))
    else:
        print_table(found)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
