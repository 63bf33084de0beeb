"""
What verdicts cost: CPU seconds and memory of the judge's program, at an arrival and at closing.

Submissions are random, on as many rows and intervals as five folds of the canned data would have.
A shared machine stretches CPU seconds too; a run beside nothing else is the one to compare.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import subprocess
import tempfile
from io import TextIOWrapper
from pathlib import Path

import numpy as np

PYTHON = Path(__file__).parents[2] / "judge" / ".venv" / "bin" / "python"
INTERVALS = [1, 5, 20]


def pack(values: np.ndarray) -> str:
    """Return numbers as the judge takes them."""
    return base64.b64encode(np.ascontiguousarray(values, dtype="<f8").tobytes()).decode()


def build_question(submissions: int, rows: int) -> dict[str, object]:
    """Return a question about random submissions, without who is asked about."""
    rng = np.random.default_rng(submissions)
    shape = (rows, len(INTERVALS))

    def draw(spread: float) -> str:
        return pack(rng.normal(0, spread, shape))

    return {
        "baseline": "ref",
        "baseline_net": draw(0.01),
        "baseline_prediction": draw(1),
        "market": pack(rng.normal(0.0003, 0.01, rows)),
        "target": draw(0.01),
        "series": [
            {"name": f"s-{n}", "net": draw(0.01), "prediction": draw(1), "content": f"s-{n}"}
            for n in range(submissions)
        ],
        "rows": rows,
        "intervals": INTERVALS,
        "bars_per_year": 252,
        "seed": 0,
    }


def measure(question: dict[str, object]) -> tuple[float, float, int]:
    """Return the CPU seconds, the gigabytes and the bytes of the answer to a question."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as output:
        writer = TextIOWrapper(given, encoding="ascii")
        json.dump(question, writer)
        writer.detach()
        given.seek(0)
        command = [str(PYTHON), "-I", "-m", "touchstone_judge", "verdict"]
        environment = {"PATH": "/usr/bin:/bin", "OPENBLAS_NUM_THREADS": "1"}
        process = subprocess.Popen(command, stdin=given, stdout=output, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        if os.waitstatus_to_exitcode(status) != 0:
            raise SystemExit("the judge gave no answer")
        size = output.seek(0, os.SEEK_END)
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024**2, size


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--submissions", type=int, nargs="+", default=[50, 1000])
    parser.add_argument("--rows", type=int, default=3500)
    asked = parser.parse_args()
    for submissions in asked.submissions:
        question = build_question(submissions, asked.rows)
        last = f"s-{submissions - 1}"
        phases = {"arrival": {"arrivals": 100, "judged": [last]}, "closing": {"earlier": {}}}
        for phase, more in phases.items():
            seconds, gigabytes, size = measure(question | more)
            print(
                f"{submissions} submissions, {asked.rows} rows, {phase}: {seconds:.1f} CPU s, "
                f"{gigabytes:.1f} GB, answer of {size / 1024:.0f} KB"
            )


if __name__ == "__main__":
    main()
