"""
Train on this machine's GPU and on its CPU, and write down what came of it; standard library only.

    python tests/gpu/run.py OUT [--wheels FOLDER] [--cpu-only] [--minutes 8] [--epochs 8]

``mlp`` and ``transformer`` are trained twice on the GPU, once there without the flags that make it
deterministic, and once on the CPU; with ``--cpu-only`` twice on the CPU. With ``--wheels`` (what
``make wheels-cuda`` has fetched) an environment of its own is made first, without the internet;
otherwise this Python must have the trainer's packages. OUT gets ``table.md``, ``table.json`` and a
folder for each training.

Exit codes: 0 all is as promised, 1 it is not, 2 it cannot be run here.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

TRAINER = Path(__file__).resolve().parents[2] / "include" / "elnigma"
CONFIGS = {"mlp": "default.toml", "transformer": "transformer.toml"}
FLAGS_OFF = "--xla_gpu_deterministic_ops=false --xla_gpu_autotune_level=4"
LEAST_SECONDS = 20.0
"""No training is begun with less time left than that."""
RESERVE_SECONDS = 15.0
"""What a training that is ended for its time takes to end, and what comes after it."""

RANK_CORRELATION, SHARPE_DIFFERENCE = 0.9999, 0.02
"""Within these the outcomes of two determinism classes count as equivalent."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """
    One training that is to be.

    :param model: Which model structure.
    :param name: What it is called in the table.
    :param cuda: ``required`` or ``none``.
    :param flags: What XLA is told in place of the trainer's own flags; ``None`` for those.
    """

    model: str
    name: str
    cuda: str
    flags: str | None = None


@dataclass(kw_only=True)
class Row:
    """What came of one training; ``None`` is unknown."""

    model: str
    name: str
    outcome: str
    reason: str | None = None
    device: dict[str, Any] = field(default_factory=dict)
    wall_seconds: float | None = None
    cpu_seconds: float | None = None
    predictions_sha256: str | None = None
    models_sha256: dict[str, str] = field(default_factory=dict)
    net_sharpe: float | None = None
    gpu: dict[str, Any] = field(default_factory=dict)


def main(arguments: Sequence[str] | None = None) -> int:
    started = time.monotonic()
    options = build_parser().parse_args(arguments)
    if not options.cpu_only and shutil.which("nvidia-smi") is None:
        return complain("no GPU: nvidia-smi is not on the PATH; --cpu-only trains on the CPU alone")
    out = options.out.resolve()
    if out.exists() and any(out.iterdir()):
        return complain(f"{out} is not empty")
    out.mkdir(parents=True, exist_ok=True)
    ends = started + 60 * options.minutes
    with tempfile.TemporaryDirectory(prefix="touchstone-gpu-") as scratch:
        try:
            python = find_python(options.wheels, Path(scratch), is_cpu_only=options.cpu_only)
        except subprocess.CalledProcessError as error:
            return complain(f"the environment cannot be made: {error}")
        ready = time.monotonic() - started
        rows = []
        for run in plan(options.models, is_cpu_only=options.cpu_only):
            print(f"{run.model} {run.name} ...", flush=True)
            rows.append(train(run, out, python, epochs=options.epochs, ends=ends))
    findings = list(judge(rows, out))
    document = {
        "machine": describe_machine(is_cpu_only=options.cpu_only),
        "epochs": options.epochs,
        "seconds_until_ready": round(ready, 1),
        "seconds": round(time.monotonic() - started, 1),
        "trainings": [asdict(row) for row in rows],
        "findings": [asdict(finding) for finding in findings],
    }
    (out / "table.json").write_text(json.dumps(document, indent=1) + "\n")
    table = build_table(document)
    (out / "table.md").write_text(table)
    print(table)
    return 0 if all(finding.is_good for finding in findings) else 1


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--wheels", type=Path, default=None)
    parser.add_argument("--cpu-only", action="store_true")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--models", nargs="+", choices=sorted(CONFIGS), default=sorted(CONFIGS))
    return parser


def complain(text: str) -> int:
    print(f"tests/gpu/run.py: {text}", file=sys.stderr)
    return 2


def find_python(wheels: Path | None, scratch: Path, *, is_cpu_only: bool) -> str:
    """Return the Python that trains: this one, or that of an environment made of the wheels."""
    if wheels is None:
        return sys.executable
    subprocess.run([sys.executable, "-m", "venv", str(scratch / "venv")], check=True)
    python = scratch / "venv" / "bin" / "python"
    name = "requirements.txt" if is_cpu_only else "requirements-cuda.txt"
    subprocess.run(
        [
            *(str(python), "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"),
            *("--find-links", str(wheels.resolve()), "--require-hashes"),
            *("--disable-pip-version-check", "-r", str(TRAINER / name)),
        ],
        check=True,
    )
    (packages,) = (scratch / "venv" / "lib").glob("python3.*/site-packages")
    (packages / "elnigma.pth").write_text(f"{TRAINER / 'src'}\n")
    return str(python)


def plan(models: Sequence[str], *, is_cpu_only: bool) -> Iterator[Run]:
    for model in models:
        if is_cpu_only:
            yield Run(model=model, name="cpu 1", cuda="none")
            yield Run(model=model, name="cpu 2", cuda="none")
            continue
        yield Run(model=model, name="gpu 1", cuda="required")
        yield Run(model=model, name="gpu 2", cuda="required")
        yield Run(model=model, name="gpu, flags off", cuda="required", flags=FLAGS_OFF)
        yield Run(model=model, name="cpu", cuda="none")


def train(run: Run, out: Path, python: str, *, epochs: int, ends: float) -> Row:
    left = ends - RESERVE_SECONDS - time.monotonic()
    if left < LEAST_SECONDS:
        return Row(model=run.model, name=run.name, outcome="not run", reason="no time was left")
    folder = find_folder(out, run.model, run.name)
    folder.mkdir()
    environment = {
        **{name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ},
        "LANG": "C.UTF-8",
        "TOUCHSTONE_OUT": str(folder),
        "TOUCHSTONE_SUBMISSION_ID": "gpu-check",
        "TOUCHSTONE_TASK_ID": "i5",
        "TOUCHSTONE_SEED": "1",
        "TOUCHSTONE_THREADS": "1",
        "TOUCHSTONE_CUDA": run.cuda,
        "TOUCHSTONE_WALL_SECONDS": str(left),
        **({"XLA_FLAGS": run.flags} if run.flags else {}),
    }
    if run.cuda == "none":
        environment |= {"CUDA_VISIBLE_DEVICES": "", "NVIDIA_VISIBLE_DEVICES": "void"}
    command = [
        *(python, "-P", "-m", "elnigma_runner", "train", "--config", CONFIGS[run.model]),
        *("--feature-set", "elnigma.features.reference", "--prediction-interval", "5"),
        *("--out", str(folder), "--config_override", f"training.epochs={epochs}"),
        *("--config_override", f"training.patience={epochs}"),
    ]
    subprocess.run(command, env=environment, check=False)
    return read_row(run, folder)


def find_folder(out: Path, model: str, name: str) -> Path:
    return out / f"{model}-{name.replace(', ', '-').replace(' ', '-')}"


def read_row(run: Run, folder: Path) -> Row:
    verdict = read_json(folder / "verdict.json")
    result = read_json(folder / "result.json")
    usage = verdict.get("usage") or {}
    return Row(
        model=run.model,
        name=run.name,
        outcome=str(verdict.get("outcome") or "no verdict"),
        reason=verdict.get("reason"),
        device=result.get("device") or {},
        wall_seconds=usage.get("wall_seconds"),
        cpu_seconds=usage.get("cpu_seconds"),
        predictions_sha256=result.get("predictions_sha256"),
        models_sha256={
            str(item["path"]): str(item["sha256"])
            for item in verdict.get("files") or ()
            if str(item["path"]).startswith("models/")
        },
        net_sharpe=(result.get("metrics") or {}).get("net_sharpe"),
        gpu=usage.get("gpu") or {},
    )


def read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was promised, and whether it is so."""

    is_good: bool
    text: str


def judge(rows: Sequence[Row], out: Path) -> Iterator[Finding]:
    for row in rows:
        if row.outcome != "succeeded":
            yield Finding(
                is_good=False, text=f"{row.model} {row.name}: {row.outcome}: {row.reason}"
            )
    ended = {(row.model, row.name): row for row in rows if row.outcome == "succeeded"}
    for model in dict.fromkeys(row.model for row in rows):
        found = {name: row for (of, name), row in ended.items() if of == model}
        for kind in ("cpu", "gpu"):
            first, second = found.get(f"{kind} 1"), found.get(f"{kind} 2")
            if first and second:
                same = is_same(first, second)
                told = "the same bits" if same else "DIFFERENT BITS"
                yield Finding(is_good=same, text=f"{model}: twice on the {kind.upper()}: {told}")
        first, cpu, off = found.get("gpu 1"), found.get("cpu"), found.get("gpu, flags off")
        if first and cpu:
            yield compare_classes(model, first, cpu, out)
        if first and off and first.wall_seconds and off.wall_seconds:
            ratio = first.wall_seconds / off.wall_seconds
            yield Finding(
                is_good=True,
                text=f"{model}: the flags for determinism make it {ratio:.2f} times as long",
            )


def is_same(first: Row, second: Row) -> bool:
    return (
        first.predictions_sha256 is not None
        and first.predictions_sha256 == second.predictions_sha256
        and first.models_sha256 == second.models_sha256
    )


def compare_classes(model: str, gpu: Row, cpu: Row, out: Path) -> Finding:
    """Compare what a GPU predicts with what the CPU does: within the bounds, or not."""
    one, other = (
        read_scores(find_folder(out, model, row.name) / "predictions.csv") for row in (gpu, cpu)
    )
    correlation = min(correlate_ranks(one[side], other[side]) for side in one)
    difference = abs((gpu.net_sharpe or 0.0) - (cpu.net_sharpe or 0.0))
    is_good = correlation >= RANK_CORRELATION and difference <= SHARPE_DIFFERENCE
    word = "equivalent" if is_good else "DIFFERENT"
    return Finding(
        is_good=is_good,
        text=f"{model}: GPU and CPU are {word}: rank correlation {correlation:.6f}, net Sharpe "
        f"ratios {difference:.4f} apart",
    )


def read_scores(path: Path) -> dict[str, list[float]]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {side: [float(row[side]) for row in rows] for side in ("score_long", "score_short")}


def correlate_ranks(one: Sequence[float], other: Sequence[float]) -> float:
    """Return Spearman's rank correlation; 1 where both are constant, 0 where one is."""
    a, b = rank(one), rank(other)
    mean = (len(a) + 1) / 2
    covariance = sum((x - mean) * (y - mean) for x, y in zip(a, b, strict=True))
    spread = sum((x - mean) ** 2 for x in a) * sum((y - mean) ** 2 for y in b)
    if not spread:
        return float(a == b)
    return covariance / spread**0.5


def rank(values: Sequence[float]) -> list[float]:
    """Return ranks from 1; equal values share the mean of theirs."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and values[order[end + 1]] == values[order[start]]:
            end += 1
        for place in order[start : end + 1]:
            ranks[place] = (start + end) / 2 + 1
        start = end + 1
    return ranks


def describe_machine(*, is_cpu_only: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"cpus": os.cpu_count(), "python": sys.version.split()[0]}
    if not is_cpu_only:
        asked = [
            "nvidia-smi",
            "--query-gpu=name,driver_version,memory.total",
            "--format=csv,noheader",
        ]
        try:
            done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=30)
            found["gpus"] = done.stdout.strip().splitlines()[:16]
        except (OSError, subprocess.TimeoutExpired) as error:
            found["gpus"] = [f"unknown: {error}"]
    return found


def build_table(document: Mapping[str, Any]) -> str:
    machine = ", ".join(f"{name}: {value}" for name, value in document["machine"].items())
    lines = [
        f"{machine}; {document['epochs']} epochs; {document['seconds']} s in all, "
        f"{document['seconds_until_ready']} s until the environment was ready",
        "",
        "| model | run | on | wall s | CPU s | GPU % | GPU MiB | joules | Sharpe | predictions |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in document["trainings"]:
        device, gpu = row["device"], row["gpu"]
        cells = (
            *(row["model"], row["name"], device.get("name") or row["outcome"]),
            *(tell(row["wall_seconds"]), tell(row["cpu_seconds"])),
            *(tell(gpu.get("mean_utilisation_percent")), tell(gpu.get("peak_memory_mib"))),
            *(tell(gpu.get("energy_joules")), tell(row["net_sharpe"], 4)),
            (row["predictions_sha256"] or "-")[:12],
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += ["", *(f"- {finding['text']}" for finding in document["findings"]), ""]
    return "\n".join(lines)


def tell(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


if __name__ == "__main__":
    sys.exit(main())
