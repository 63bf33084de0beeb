"""
How long a DAG file takes to parse, beyond importing Airflow itself.

Each file is parsed in processes of its own, as Airflow's DAG processor does. Airflow's own part is
imported first. CPU seconds say the same on a busy machine. ``--most`` fails beyond so many of them.

usage: python tests/bench/bench_parse.py [--times=5] [--most=1.0]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

DAGS = Path(__file__).parents[2] / "dags"
PROGRAM = """
import json, runpy, sys, time
from airflow.sdk import DAG, BaseOperator, Param
wall, cpu = time.perf_counter(), time.process_time()
runpy.run_path(sys.argv[1], run_name="dag_file")
print(json.dumps({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}))
"""


def parse(file: Path) -> dict[str, float]:
    """Parse a file in a process of its own; return the seconds beyond Airflow."""
    command = [sys.executable, "-c", PROGRAM, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> int:
    """Print the median of each file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--most", type=float, default=1.0)
    arguments = parser.parse_args()
    slowest = 0.0
    for file in sorted(DAGS.rglob("*.py")):
        rounds = [parse(file) for _ in range(arguments.times)]
        cpu, wall = (statistics.median(r[kind] for r in rounds) for kind in ("cpu", "wall"))
        slowest = max(slowest, cpu)
        print(f"{file.relative_to(DAGS)!s:<32} {cpu:6.2f} s of CPU {wall:6.2f} s", flush=True)
    return int(slowest > arguments.most)


if __name__ == "__main__":
    raise SystemExit(main())
