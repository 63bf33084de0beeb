"""
How long the trainer fits a model, beside a plain Keras script that fits the same data.

Each fit is a process of its own and counts what a training pays for: compiling the steps, then all
epochs. The script has its windows made before it starts the clock; the trainer gathers them batch
by batch. Both take turns, each first in every other pair.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
from dataclasses import dataclass
from pathlib import Path

from system.installation import REPOSITORY

PYTHON = REPOSITORY / "include" / "elnigma" / ".venv" / "bin" / "python"
PEER = Path(__file__).parent / "peers" / "keras_fit.py"
STRUCTURES = ("mlp", "transformer")


@dataclass(frozen=True, kw_only=True)
class Fit:
    """
    What one fit took.

    :param seconds: By the clock.
    :param cpu_seconds: Of the CPU, which other work on the machine lengthens less.
    """

    seconds: float
    cpu_seconds: float


def time_fit(kind: str, structure: str, epochs: int) -> Fit:
    """Run one fit."""
    done = subprocess.run(
        [str(PYTHON), "-P", str(PEER), kind, structure, str(epochs)],
        check=True,
        stdout=subprocess.PIPE,
    )
    told = json.loads(done.stdout)
    return Fit(seconds=float(told["seconds"]), cpu_seconds=float(told["cpu_seconds"]))


def time_pair(number: int, structure: str, epochs: int) -> tuple[Fit, Fit]:
    """Return the trainer's fit and the script's."""
    kinds = ("ours", "plain") if number % 2 == 0 else ("plain", "ours")
    fits = {kind: time_fit(kind, structure, epochs) for kind in kinds}
    return fits["ours"], fits["plain"]


def summarise(pairs: list[tuple[Fit, Fit]]) -> dict[str, float]:
    """Return medians; a ratio is the median of the pairs' ratios."""
    ratios = [ours.seconds / plain.seconds for ours, plain in pairs]
    return {
        "ours": statistics.median(ours.seconds for ours, _ in pairs),
        "plain": statistics.median(plain.seconds for _, plain in pairs),
        "ratio": statistics.median(ratios),
        "least_ratio": min(ratios),
        "most_ratio": max(ratios),
        "cpu_ratio": statistics.median(o.cpu_seconds / p.cpu_seconds for o, p in pairs),
    }


def describe(found: dict[str, float]) -> str:
    """Return a line of figures."""
    return (
        f"fit {found['ours']:.2f} s, plain Keras {found['plain']:.2f} s, "
        f"ratio {found['ratio']:.3f} ({found['least_ratio']:.3f} to {found['most_ratio']:.3f}), "
        f"of CPU time {found['cpu_ratio']:.3f}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--structures", nargs="+", default=STRUCTURES)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    load = os.getloadavg()[0]
    figures = {}
    for structure in given.structures:
        pairs = [time_pair(number, structure, given.epochs) for number in range(given.pairs)]
        figures[structure] = summarise(pairs)
    if given.json:
        print(
            json.dumps(
                {"pairs": given.pairs, "epochs": given.epochs, "load": load, "figures": figures}
            )
        )
        return
    print(f"{given.pairs} pairs of {given.epochs} epochs each, load at the start {load:.1f}:")
    for structure, found in figures.items():
        print(f"  {structure}: {describe(found)}")


if __name__ == "__main__":
    main()
