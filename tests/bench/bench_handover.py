"""
How long a freed slot stands empty while tasks wait: a container's exit to the next one's start.

Runs the same work, many tasks of a few seconds over two slots, one after the other on ours, on a
plain Airflow with a DockerOperator (LocalExecutor), and on Airflow's EdgeExecutor with the same
operator. The times are the container engine's own. Peers run with Airflow's defaults, on SQLite as
ours does, from environments of their own below the user's cache folder.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.peers.engine import (
    ContainerEvent,
    ContainerLog,
    build_image,
    find_hand_overs,
    find_percentile,
)
from bench.peers.ours import end_on_sigterm, ignore_interrupts, run_installation, submit_trainings
from bench.peers.plain_airflow import EDGE, LOCAL, PeerAirflow, PeerKind

SLOTS = 2
TITLES = {
    "ours": "Touchstone (one server)",
    "docker": "Airflow, DockerOperator, LocalExecutor",
    "edge": "Airflow, DockerOperator, EdgeExecutor",
}


def run_ours(tasks: int, seconds: int) -> list[ContainerEvent]:
    """Return what the engine says of one submission's trainings."""
    with run_installation({"a": SLOTS}) as installation:
        prefix = f"touchstone-{installation.settings.env}-"

        def is_training(attributes: Mapping[str, str]) -> bool:
            name = attributes.get("name", "")
            return name.startswith(prefix) and "-validation-" not in name

        with ContainerLog(is_training) as log:
            submission_id = submit_trainings(installation, tasks, seconds)
            installation.wait_for_submission(submission_id, "success")
    return log.events


def run_peer(
    kind: PeerKind, tasks: int, seconds: int, settings: Mapping[str, str]
) -> list[ContainerEvent]:
    """Return what the engine says of a peer's run of the same tasks."""
    peer = PeerAirflow(kind, slots=SLOTS, tasks=tasks, seconds=seconds, settings=settings)

    def is_mine(attributes: Mapping[str, str]) -> bool:
        return attributes.get("bench") == peer.label

    with peer, ContainerLog(is_mine) as log:
        run_id = peer.trigger()
        peer.wait(run_id, seconds=120 + tasks * (seconds + 10))
    return log.events


def summarise(events: Sequence[ContainerEvent], tasks: int) -> dict[str, Any]:
    """Return the figures of one contestant."""
    starts = sum(event.action == "start" for event in events)
    if starts != tasks:
        raise AssertionError(f"{starts} containers were started for {tasks} tasks")
    spans = find_hand_overs(events)
    return {
        "n": len(spans),
        "p50": statistics.median(spans),
        "p90": find_percentile(spans, 0.9),
        "max": max(spans),
        "load": os.getloadavg()[0],
        "spans": [round(span, 3) for span in spans],
    }


def print_table(figures: Mapping[str, Mapping[str, Any]]) -> None:
    """Print everybody's figures, and ours as a share of each peer's."""
    print(f"{'exit to next start, seconds':<42}{'n':>4}{'p50':>8}{'p90':>8}{'max':>8}{'load':>7}")
    for name, figure in figures.items():
        print(
            f"{TITLES[name]:<42}{figure['n']:>4}{figure['p50']:>8.2f}{figure['p90']:>8.2f}"
            f"{figure['max']:>8.2f}{figure['load']:>7.1f}"
        )
    ours = figures.get("ours")
    for name, figure in figures.items():
        if ours is not None and name != "ours":
            print(
                f"ours / {name}: p50 {ours['p50'] / figure['p50']:.2f} "
                f"({figure['p50'] / ours['p50']:.1f} times faster), "
                f"p90 {ours['p90'] / figure['p90']:.2f}"
            )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=24)
    parser.add_argument("--seconds", type=int, default=4, help="how long each container runs")
    parser.add_argument("--only", default="ours,docker,edge", help="of ours, docker, edge")
    parser.add_argument(
        "--peer-setting",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="configuration of the peers beyond Airflow's defaults, as an environment variable",
    )
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    end_on_sigterm()
    settings = dict(pair.split("=", 1) for pair in given.peer_setting)
    tasks, seconds = given.tasks, given.seconds
    contestants: dict[str, Callable[[], list[ContainerEvent]]] = {
        "ours": lambda: run_ours(tasks, seconds),
        "docker": lambda: run_peer(LOCAL, tasks, seconds, settings),
        "edge": lambda: run_peer(EDGE, tasks, seconds, settings),
    }
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        build_image(Path(folder))
    for name in given.only.split(","):
        print(f"{TITLES[name]}: {tasks} tasks of {seconds} s in {SLOTS} slots", file=sys.stderr)
        figures[name] = summarise(contestants[name](), tasks)
    if given.json:
        print(json.dumps({"tasks": tasks, "peer_settings": settings, "figures": figures}))
    else:
        print_table(figures)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        with ignore_interrupts():
            sys.exit(130)
