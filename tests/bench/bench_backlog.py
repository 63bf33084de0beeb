"""
What hundreds of waiting submissions cost everybody else.

One submitter sends many submissions of five intervals each to a fleet whose training slots are
closed. Measures, beside the values of the same installation before: how long until the validation
of somebody else's fresh submission runs, right behind the crowd's last one and again when all has
settled; until a run of another DAG begins; and, with the slots open again, how long a freed slot
stands empty and when somebody else's first training runs.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from math import nan
from pathlib import Path
from typing import Any

from bench.peers.engine import ContainerLog, build_image, find_hand_overs, find_percentile
from bench.peers.ours import end_on_sigterm, run_installation
from bench.peers.patience import wait_within
from system.installation import EXAMPLES, Installation
from touchstone.client.api import Client
from touchstone.client.packing import pack
from waiting import InVain

SLOTS = 2
SERVERS = {"a": SLOTS, "b": 1, "c": 1}
"""Trainings run on the first; the others help with the crowd's validations."""
SECONDS = 4
LIMIT_SECONDS = 180
CROWD, GUEST = "admin", "engineer"
OTHER_DAGS = Path(__file__).parent / "peers" / "other"
VALIDATION_CLAIM, OTHER_CLAIM, HAND_OVER_CLAIM = 5.0, 10.0, 1.5


class Yard:
    """
    An installation with a training server of two slots and two users.

    :param installation: It runs.
    """

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        self._clients: dict[str, Client] = {}
        self._source = self.client(GUEST).upload(pack(EXAMPLES / "momentum", 1 << 20))

    def client(self, user: str) -> Client:
        if user not in self._clients:
            self._clients[user] = self.installation.client(user)
        return self._clients[user]

    def submit(self, user: str, intervals: Sequence[int]) -> str:
        """Submit by REST alone; return the submission's id."""
        submission_id = f"bench-{secrets.token_hex(5)}"
        conf = {
            "source": self._source,
            "intervals": ",".join(map(str, intervals)) or None,
            "passthrough_args": [f"seconds={SECONDS}"],
        }
        self.client(user).submit_as(submission_id, {k: v for k, v in conf.items() if v})
        return submission_id

    # --- latencies ---------------------------------------------------------------------------

    def time_task(self, task_id: str, intervals: Sequence[int]) -> float:
        """Return the seconds from a fresh submission to a task's running container."""
        began = datetime.now(UTC)
        submission_id = self.submit(GUEST, intervals)

        def find() -> str | None:
            found: str | None = self.installation.task(submission_id, task_id).get("running_at")
            return found

        return _since(began, _wait(f"{task_id} of a fresh submission runs", find))

    def time_validation(self) -> float:
        """Return how long a fresh submission's validation takes to run."""
        return self.time_task("validation", ())

    def time_first_training(self) -> float:
        """Return how long a fresh submission's only training takes to run, validation included."""
        return self.time_task("i1", (1,))

    def time_other_dag(self) -> float:
        """Return the seconds until the task of another DAG's new run begins."""
        airflow, began = self.installation.airflow, datetime.now(UTC)
        made = airflow.post("/dags/other/dagRuns", json={"logical_date": None}).raise_for_status()
        path = f"/dags/other/dagRuns/{made.json()['dag_run_id']}/taskInstances/probe"

        def find() -> str | None:
            found: str | None = airflow.get(path).raise_for_status().json()["start_date"]
            return found

        return _since(began, _wait("a run of another DAG begins", find))

    def watch_hand_overs(self, count: int, act: Callable[[], object]) -> list[float]:
        """Return the gaps that so many training containers after each other left."""
        prefix = f"touchstone-{self.installation.settings.env}-"

        def is_training(attributes: Mapping[str, str]) -> bool:
            name = attributes.get("name", "")
            return name.startswith(prefix) and "-validation-" not in name

        with ContainerLog(is_training) as log:
            act()
            _wait(
                f"{count} trainings have started",
                lambda: sum(event.action == "start" for event in log.events) >= count,
                seconds=60 + count * 15,
            )
            return find_hand_overs(log.events)

    # --- the backlog -------------------------------------------------------------------------

    def count_runs(self, state: str) -> int:
        return self._count("/dags/touchstone/dagRuns", state=state)

    def count_instances(self, *states: str) -> int:
        return self._count("/dags/touchstone/dagRuns/~/taskInstances", state=list(states))

    def _count(self, path: str, **query: Any) -> int:
        answer = self.installation.airflow.get(path, params={"limit": 1, **query})
        return int(answer.raise_for_status().json()["total_entries"])

    def settle(self, seconds: float) -> None:
        """Wait until nothing but waiting is left to do."""
        quiet_since: list[float] = []

        def is_quiet() -> bool:
            if self.count_instances("running", "queued", "deferred", "up_for_retry"):
                quiet_since.clear()
                return False
            quiet_since.append(time.monotonic())
            return quiet_since[-1] - quiet_since[0] > 15

        wait_within(seconds, "all has settled", is_quiet, every=2)


def _wait(what: str, ask: Callable[[], Any], *, seconds: float = LIMIT_SECONDS) -> Any:
    try:
        return wait_within(seconds, what, ask, every=0.2)
    except InVain:
        return None


def _since(began: datetime, moment: str | None) -> float:
    if moment is None:
        return float("inf")
    return (datetime.fromisoformat(moment) - began).total_seconds()


def measure(yard: Yard, times: int) -> dict[str, list[float]]:
    """Return the latencies of the moment."""
    return {
        "validation": [yard.time_validation() for _ in range(times)],
        "other": [yard.time_other_dag() for _ in range(times)],
    }


def measure_all(yard: Yard, given: argparse.Namespace) -> dict[str, Any]:
    """Return the latencies without and with the backlog."""
    training = tuple(range(1, given.intervals + 1))

    def say(what: str) -> None:
        print(f"{datetime.now(UTC):%H:%M:%S} {what}", file=sys.stderr)

    def open_slots() -> None:
        yard.installation.set_slots("a", SLOTS)

    for server in list(SERVERS)[1:]:
        yard.installation.set_slots(server, 0)
    yard.time_validation()  # the first of everything is slower
    yard.time_other_dag()
    say("idle")
    idle: dict[str, list[float]] = measure(yard, given.times)
    idle["first"] = [yard.time_first_training() for _ in range(given.times)]
    alone = tuple(range(1, given.tasks + 1))
    idle["hand_over"] = yard.watch_hand_overs(given.tasks, lambda: yard.submit(CROWD, alone))
    yard.settle(seconds=300)
    yard.installation.set_slots("a", 0)
    say(f"{given.submissions} submissions of {given.intervals} intervals")
    for _ in range(given.submissions):
        yard.submit(CROWD, training)
    burst = [yard.time_validation()]
    yard.settle(seconds=given.settle)
    state = {name: yard.count_runs(name) for name in ("running", "queued")}
    state["waiting"] = yard.count_instances("scheduled")
    say(f"settled: {state}")
    busy = {**measure(yard, given.times), "burst": burst}
    say("slots open")
    busy["hand_over"] = yard.watch_hand_overs(given.tasks, open_slots)
    busy["first"] = [yard.time_first_training() for _ in range(given.times)]
    return {"state": state, "idle": idle, "busy": busy, "load": os.getloadavg()[0]}


def print_table(found: Mapping[str, Any]) -> None:
    """Print the latencies beside each other, and whether the claims hold."""
    idle, busy = found["idle"], found["busy"]
    print(f"with the backlog: {found['state']}; load {found['load']:.1f}")
    print(f"{'seconds':<46}{'idle p50':>10}{'p50':>8}{'p90':>8}{'max':>8}")
    for key, title in (
        ("validation", "fresh submission to its validation's container"),
        ("burst", "the same right behind the crowd's last one"),
        ("other", "another DAG's run to its task's start"),
        ("hand_over", "exit to the next container's start"),
        ("first", "fresh submission to its training's container"),
    ):
        before, values = idle.get(key) or [nan], busy[key] or [float("inf")]
        print(
            f"{title:<46}{statistics.median(before):>10.2f}{statistics.median(values):>8.2f}"
            f"{find_percentile(values, 0.9):>8.2f}{max(values):>8.2f}"
        )
    ratio = statistics.median(busy["hand_over"] or [float("inf")]) / statistics.median(
        idle["hand_over"]
    )
    for claim, is_kept in (
        (
            f"validation within {VALIDATION_CLAIM:.0f} s",
            max(busy["validation"]) <= VALIDATION_CLAIM,
        ),
        (f"another DAG within {OTHER_CLAIM:.0f} s", max(busy["other"]) <= OTHER_CLAIM),
        (f"hand-over p50 {ratio:.2f} times its idle value", ratio <= HAND_OVER_CLAIM),
    ):
        print(f"{'holds' if is_kept else 'DOES NOT HOLD'}: {claim}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--submissions", type=int, default=300)
    parser.add_argument("--intervals", type=int, default=5)
    parser.add_argument("--times", type=int, default=3, help="measurements of each latency")
    parser.add_argument("--tasks", type=int, default=24, help="trainings to see hand-overs of")
    parser.add_argument("--settle", type=int, default=3600, help="longest wait for the backlog")
    parser.add_argument(
        "--setting",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the installation, as an environment variable",
    )
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    end_on_sigterm()
    with tempfile.TemporaryDirectory() as folder:
        build_image(Path(folder))
    options = dict(pair.split("=", 1) for pair in given.setting)
    with run_installation(SERVERS, options, other_dags=OTHER_DAGS) as installation:
        wait_within(
            120,
            "the other DAG is there",
            lambda: installation.airflow.get("/dags/other").status_code == 200,
        )
        found = measure_all(Yard(installation), given)
    if given.json:
        print(json.dumps(found))
    else:
        print_table(found)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
