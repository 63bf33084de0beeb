"""
How long a training takes to its first optimiser step: with nothing compiled, and with what the
submission's training before has left.

Each pair is two attempts, launched by the agent's own runtime and with its own cache, without the
queues: the first finds the cache empty. The clock runs from the container's start, as the engine
tells it; without an engine from the start of the process. The trainer itself notes when its first
step is done, and how long all steps take.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

from bench.bench_windows import PYTHON, STRUCTURES, Fit, time_pair
from bench.bench_windows import describe as describe_fits
from bench.bench_windows import summarise as summarise_fits
from touchstone_agent.adapters.compiled import FILE, CompiledCache, read_boot
from touchstone_agent.adapters.docker import DockerRuntime
from touchstone_agent.adapters.files import make_attempt_folder
from touchstone_agent.adapters.process import ProcessRuntime
from touchstone_agent.contract import (
    build_compiled_variables,
    build_gpu_variables,
    build_limit_variables,
)
from touchstone_agent.core.ports import LaunchSpec, Runtime
from touchstone_agent.protocol.messages import AttemptRef, Limits
from touchstone_agent.settings import DockerSettings, ProcessSettings

CONFIGS = {"mlp": "default.toml", "transformer": "transformer.toml"}
ENV = f"b{secrets.token_hex(3)}"
SERVER = "bench"


class Bench:
    """
    Runs attempts below a folder.

    :param folder: The folder; its parents can be entered by everybody.
    :param image: The trainer's image; ``None`` runs plain processes.
    """

    def __init__(self, folder: Path, image: str | None) -> None:
        self._folder = folder
        self._image = image
        self._number = 0
        self._runtime = self._build_runtime()

    def _build_runtime(self) -> Runtime:
        if self._image is not None:
            return DockerRuntime(DockerSettings(pull=False), env=ENV, server=SERVER)
        command = (str(PYTHON), "-P", "-m", "elnigma_runner")
        settings = ProcessSettings(command=command)
        return ProcessRuntime(settings, env=ENV, server=SERVER, attempts_dir=self._folder)

    def run_pair(self, structure: str) -> tuple[dict[str, float], dict[str, float]]:
        """Return the figures of a training that finds nothing, and of the one after it."""
        cache = CompiledCache(
            self._folder / f"compiled-{self._number}",
            most_bytes=1024**3,
            free_bytes=0,
            devices=list,
            boot=read_boot(),
        )
        cold, warm = self._run(structure, cache), self._run(structure, cache)
        if cold.pop("predictions") != warm.pop("predictions"):
            raise SystemExit(f"{structure}: warm and cold predict otherwise")
        if not warm["was_given"] or cold["was_given"]:
            raise SystemExit(f"{structure}: the cache did not do what is measured")
        return cold, warm

    def _run(self, structure: str, cache: CompiledCache) -> dict[str, float]:
        self._number += 1
        ref = AttemptRef(submission_id="bench", task_id="i5", attempt=1, fence=self._number)
        name = ref.container_name(ENV)
        folder = self._folder / name
        make_attempt_folder(folder)
        cache.give(folder, "bench", [], str(self._image), ())
        was_given = (folder / "in" / FILE).exists()
        config = CONFIGS[structure]
        limits = Limits()
        spec = LaunchSpec(
            ref=ref,
            name=name,
            labels={"touchstone.env": ENV, "touchstone.server": SERVER},
            image=self._image or "none",
            argv=("train", "--config", config, "--prediction-interval", "5", "--out", "{out}"),
            environment={
                **build_limit_variables(limits),
                **build_gpu_variables(requires_gpu=False, gpus=0),
                **build_compiled_variables(cache.entry_bytes),
            },
            folder=folder,
            limits=limits,
        )
        started = time.time()
        self._runtime.launch(spec)
        try:
            ended = self._runtime.wait(name)
            over = time.time()
            if ended is None or ended.exit_code != 0:
                raise SystemExit((folder / "out/console.log").read_text()[-2000:])
            if self._image is not None:
                started, over = self._ask_engine(name)
        finally:
            self._runtime.remove(name)
        result = json.loads((folder / "out/result.json").read_text())
        verdict = json.loads((folder / "out/verdict.json").read_text())
        cache.take(folder)
        shutil.rmtree(folder)
        first = datetime.fromisoformat(result["timings"]["first_step_at"]).timestamp()
        return {
            "first_step_seconds": first - started,
            "seconds": over - started,
            "share": result["timings"]["step_seconds"] / (over - started),
            "cpu_seconds": verdict["usage"]["cpu_seconds"],
            "was_given": was_given,
            "predictions": result["predictions_sha256"],
        }

    @staticmethod
    def _ask_engine(name: str) -> tuple[float, float]:
        form = "{{.State.StartedAt}} {{.State.FinishedAt}}"
        done = subprocess.run(
            ["docker", "inspect", "--format", form, name],
            check=True,
            capture_output=True,
            text=True,
        )
        # Nanoseconds, of which Python reads six digits.
        begin, end = (
            datetime.fromisoformat(text[:26].rstrip("Z") + "+00:00").timestamp()
            for text in done.stdout.split()
        )
        return begin, end


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=30, help="of the fits beside plain Keras")
    parser.add_argument("--structures", nargs="+", default=STRUCTURES, choices=sorted(CONFIGS))
    parser.add_argument("--image", help="image of the trainer; without it, plain processes")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    # Whoever ends it this way wants nothing of it left, either.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    load = os.getloadavg()[0]
    figures: dict[str, dict[str, float]] = {}
    fit_figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="touchstone-bench-") as name:
        Path(name).chmod(0o755)
        bench = Bench(Path(name), given.image)
        for structure in given.structures:
            runs = []
            fits: list[tuple[Fit, Fit]] = []
            for number in range(given.pairs):
                runs.append(bench.run_pair(structure))
                cold, warm = runs[-1]
                print(
                    f"{structure} {number + 1}: {cold['first_step_seconds']:.1f} s cold, "
                    f"{warm['first_step_seconds']:.1f} s warm",
                    file=sys.stderr,
                )
                if given.epochs:
                    fits.append(time_pair(number, structure, given.epochs))
            figures[structure] = summarise(runs)
            if fits:
                fit_figures[structure] = summarise_fits(fits)
    if given.json:
        told = {"pairs": given.pairs, "epochs": given.epochs, "load": load}
        told |= {"figures": figures, "fits": fit_figures}
        print(json.dumps(told))
        return
    where = given.image or "plain processes"
    print(f"{given.pairs} pairs, {where}, load at the start {load:.1f}; medians:")
    for structure, found in figures.items():
        print(
            f"  {structure}: first step {found['cold_first_step']:.2f} s cold, "
            f"{found['warm_first_step']:.2f} s warm, ratio {found['first_step_ratio']:.3f}; "
            f"all {found['cold_seconds']:.1f} and {found['warm_seconds']:.1f} s, "
            f"{found['cold_share']:.0%} and {found['warm_share']:.0%} of it steps; CPU "
            f"{found['cold_cpu_seconds']:.1f} and {found['warm_cpu_seconds']:.1f} s, ratio "
            f"{found['cpu_ratio']:.3f}"
        )
        if structure in fit_figures:
            print(f"    {describe_fits(fit_figures[structure])}")


def summarise(
    runs: list[tuple[dict[str, float], dict[str, float]]],
) -> dict[str, float]:
    """Return the medians; ratios are medians of the pairs' ratios."""
    key = "first_step_seconds"
    figures = {
        "first_step_ratio": statistics.median(w[key] / c[key] for c, w in runs),
        "cpu_ratio": statistics.median(w["cpu_seconds"] / c["cpu_seconds"] for c, w in runs),
    }
    for number, kind in enumerate(("cold", "warm")):
        found = [pair[number] for pair in runs]
        figures[f"{kind}_first_step"] = statistics.median(run[key] for run in found)
        figures[f"{kind}_seconds"] = statistics.median(run["seconds"] for run in found)
        figures[f"{kind}_cpu_seconds"] = statistics.median(run["cpu_seconds"] for run in found)
        figures[f"{kind}_share"] = statistics.median(run["share"] for run in found)
    return figures


if __name__ == "__main__":
    main()
