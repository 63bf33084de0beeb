"""Worlds in which no feature can know anything: drawn, trained and judged by the real programs."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd

from touchstone_judge.judging import answer

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "include" / "examples"
BASELINE = "reference"
SUBMISSIONS = ("momentum", "mean_reversion", "volatility", "wide_mlp")
"""The honest examples, but for those whose models see windows: these cost ten times as much."""
STRUCTURES = frozenset({"wide_mlp"})
REFERENCE_FEATURES = "elnigma.features.reference"
ARRIVALS = 100
"""What an event expects that says nothing else."""

FILE = "bars.csv"
PRICES = ("Open", "High", "Low", "Close")
VALIDATION_FROM, TEST_FROM = "2011-01-01", "2014-01-01"
REFUSED = (3, 4)
"""Exit codes of a trainer that refuses a module, or diverges; any other is the machine's fault."""
GRACE_SECONDS = 10.0

TOML = """schema_version = 1
name = "placebo"
version = "w{world}"
title = "The canned market, each day another one drawn at random"
file = "bars.csv"
sha256 = "{sha256}"
frequency = "1d"
calendar = "XNYS"
time = "time"

[rows]
validation_from = 2011-01-01
test_from = 2014-01-01

[instruments.SP500]
role = "traded"
close = "close"

[instruments.NASDAQ]
role = "reference"
close = "nasdaq_close"
"""


class Stopped(Exception):
    """The campaign is to end; what was begun is thrown away."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """
    How all worlds of a campaign are trained and judged.

    :param seeds: Seeds of each training, whose predictions are averaged.
    :param intervals: Prediction intervals.
    :param config: The trainer's configuration.
    :param epochs: Most epochs; ``None`` for the configuration's.
    :param submissions: What is compared with the baseline, in the order of arrival.
    """

    seeds: int = 3
    intervals: tuple[int, ...] = (1, 5, 20)
    config: str = "fast.toml"
    epochs: int | None = None
    submissions: tuple[str, ...] = SUBMISSIONS

    def dump(self):
        """Return it as it stands in a line of outcomes."""
        return {
            "seeds": self.seeds,
            "intervals": list(self.intervals),
            "config": self.config,
            "epochs": self.epochs,
            "submissions": list(self.submissions),
        }


# --- the market ---------------------------------------------------------------------------------


@cache
def read_market():
    """Return the canned bars by column, as features know them, and their days."""
    frames = []
    for name, prefix in (("sp500", ""), ("nasdaq", "nasdaq_")):
        with gzip.open(files("arch") / f"data/{name}/{name}.csv.gz", "rt") as text:
            frame = pd.read_csv(text, index_col="Date")[[*PRICES, "Volume"]]
        frame.index = pd.to_datetime(frame.index, format="%m/%d/%Y")
        frames.append(frame.rename(columns=lambda column, prefix=prefix: prefix + column.lower()))
    market = pd.concat(frames, axis=1, join="inner").astype(float)
    for name in ("volume", "nasdaq_volume"):
        market[name] = market[name].where(market[name] > 0).ffill()
    return market


def draw_world(rng):
    """
    Return the canned market's days with other bars: each one drawn at random, with replacement.

    A bar keeps its prices relative to the close before it, and its volume; both indices are of one
    day. So returns are as large, and as alike, as they were, and no row tells anything of another.
    """
    market = read_market()
    rows = len(market)
    order = rng.integers(1, rows, rows)
    columns = {}
    for prefix in ("", "nasdaq_"):
        close = market[f"{prefix}close"].to_numpy()
        before = close[order - 1]
        path = close[0] * np.cumprod(close[order] / before)
        previous = np.concatenate([[close[0]], path[:-1]])
        for name in ("open", "high", "low", "close"):
            column = f"{prefix}{name}"
            columns[column] = previous * (market[column].to_numpy()[order] / before)
        columns[f"{prefix}volume"] = market[f"{prefix}volume"].to_numpy()[order]
    return pd.DataFrame(columns, index=market.index)


def write_world(folder, world):
    """
    Write a world as a data set of one's own.

    :param folder: Is made.
    :param world: Its number, which decides what is drawn.
    :return: The rules by which trainings on it are judged, as an event on it has them.
    """
    folder.mkdir()
    bars = draw_world(np.random.default_rng([world, 40]))
    content = bars.to_csv(index_label="time", lineterminator="\n").encode()
    (folder / FILE).write_bytes(content)
    text = TOML.format(world=world, sha256=hashlib.sha256(content).hexdigest())
    for column in bars.columns:
        instrument = "NASDAQ" if column.startswith("nasdaq_") else "SP500"
        text += f'\n[columns.{column}]\ninstrument = "{instrument}"\n'
    (folder / "data.toml").write_text(text)
    return {
        "version": 1,
        "data_name": f"placebo w{world}",
        "data_sha256": hashlib.sha256(text.encode() + content).hexdigest(),
        "validation_from": VALIDATION_FROM,
        "test_from": TEST_FROM,
        "test_to": None,
        "cost_bps": 1.0,
        "bars_per_year": 252,
        "resamples": 1000,
    }


# --- programs -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a program ended: its exit code, what it wrote, and the CPU seconds that it took."""

    exit_code: int
    output: bytes
    errors: str
    cpu_seconds: float


class Programs:
    """Runs programs in process groups of their own, and ends all of them at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen] = set()
        self.is_stopped = False

    def run(self, command: Sequence[str], *, question: bytes = b"", environment=None) -> Ended:
        """
        Run one to its end.

        :raises Stopped: If it was ended from here.
        """
        with (
            tempfile.TemporaryFile() as told,
            tempfile.TemporaryFile() as said,
            tempfile.TemporaryFile() as errors,
        ):
            told.write(question)
            told.seek(0)
            with self._lock:
                if self.is_stopped:
                    raise Stopped
                process = subprocess.Popen(
                    command,
                    stdin=told,
                    stdout=said,
                    stderr=errors,
                    env=environment,
                    start_new_session=True,
                )
                self._running.add(process)
            # Its number is nobody else's until it is reaped, which is done where nobody ends it.
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            with self._lock:
                self._running.discard(process)
                if self.is_stopped:
                    # Of what it has started, some may take no notice of a signal.
                    os.killpg(process.pid, signal.SIGKILL)
                _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if self.is_stopped:
                raise Stopped
            said.seek(0)
            errors.seek(0)
            return Ended(
                exit_code=process.returncode,
                output=said.read(),
                errors=errors.read().decode(errors="replace").strip()[-2000:],
                cpu_seconds=used.ru_utime + used.ru_stime,
            )

    def stop(self) -> None:
        """End all that run: with a signal, and after a while for good."""
        self.is_stopped = True
        self._signal(signal.SIGTERM)
        until = time.monotonic() + GRACE_SECONDS
        while self._running and time.monotonic() < until:
            time.sleep(0.05)
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with self._lock:
            for process in self._running:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)


# --- one world ----------------------------------------------------------------------------------


class Refused(Exception):
    """The trainer refuses an honest module, or the judge a training; the message says which."""


class Broken(Exception):
    """A program failed for no reason of the world's."""


class World:
    """
    One world: its data set, its trainings, and what is said of them.

    :param number: Decides its bars and seeds.
    :param setup: How it is trained.
    :param folder: For all of it; an empty one.
    :param kept: Keeps what trainings compile, as a server does for a submission; no other world
        works with it meanwhile.
    :param series: A file that gets its judged returns.
    :param trainer: The trainer's command, without arguments.
    :param programs: Runs it.
    """

    def __init__(
        self,
        number: int,
        setup: Setup,
        folder: Path,
        *,
        kept: Path,
        series: Path,
        trainer: Sequence[str],
        programs: Programs,
    ) -> None:
        self._number = number
        self._setup = setup
        self._folder = folder
        self._kept = kept
        self._series = series
        self._trainer = tuple(trainer)
        self._programs = programs
        self.cpu_seconds = 0.0

    def run(self):
        """
        Return what comes of it, as a line of outcomes.

        :raises Stopped: If the campaign is to end.
        :raises Broken: If a program fails for no reason of the world's.
        """
        line = {"world": self._number, "setup": self._setup.dump()}
        rules = write_world(self._folder / "data", self._number)
        try:
            series = {
                name: self._train(name, rules) for name in (BASELINE, *self._setup.submissions)
            }
        except Refused as refusal:
            return line | {"refused": str(refusal), "cpu_seconds": round(self.cpu_seconds, 1)}
        begun = time.thread_time()
        columns = {name: join_intervals(found, series) for name, found in series.items()}
        save_columns(self._series, columns)
        found = judge_world(columns, self._setup.intervals, self._number)
        found["turnover"] = find_turnover(series)
        self.cpu_seconds += time.thread_time() - begun
        return line | found | {"cpu_seconds": round(self.cpu_seconds, 1)}

    def _train(self, name, rules):
        """Train one submission over all intervals, and return its judged rows."""
        return {
            interval: self._train_interval(name, interval, rules)
            for interval in self._setup.intervals
        }

    def _train_interval(self, name, interval, rules):
        out = self._folder / f"{name}-{interval}"
        command = build_command(self._trainer, self._setup, name, interval, self._folder, out)
        ended = self._run(command, environment=self._build_environment(out))
        if ended.exit_code:
            error = out / "error.json"
            told = json.loads(error.read_text())["message"] if error.is_file() else ended.errors
            kind = Refused if ended.exit_code in REFUSED else Broken
            raise kind(f"{name}, interval {interval}: exit {ended.exit_code}: {told}")
        question = {
            "rules": rules,
            "interval": interval,
            "result": str(out / "result.json"),
            "predictions": str(out / "predictions.csv"),
            "data_dir": str(self._folder / "data"),
        }
        judge = [sys.executable, "-m", "touchstone_judge", "recompute"]
        ended = self._run(judge, question=json.dumps(question).encode())
        if ended.exit_code:
            raise Broken(f"{name}, interval {interval}: the judge: {ended.errors}")
        found = json.loads(ended.output)
        if not found["judged"]:
            raise Refused(f"{name}, interval {interval}: not judged: {found['reason']}")
        return found

    def _run(self, command, **how):
        ended = self._programs.run(command, **how)
        self.cpu_seconds += ended.cpu_seconds
        return ended

    def _build_environment(self, out):
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self._kept),
            "LANG": "C.UTF-8",
            "TMPDIR": str(self._folder),
            "TOUCHSTONE_OUT": str(out),
            # Others in each world, and the same for all in one, as in an event.
            "TOUCHSTONE_SEED": str(self._number * self._setup.seeds),
            # As the runner sets them.
            "JAX_COMPILATION_CACHE_DIR": str(self._kept / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": "none",
        }


def build_command(trainer, setup, name, interval, folder, out):
    """Return the command of one training, as the control plane gives it."""
    is_structure = name in STRUCTURES
    has_own_features = name != BASELINE and not is_structure
    command = [*trainer, "train", "--config", setup.config, "--data", str(folder / "data")]
    command += ["--feature-set", str(EXAMPLES / name) if has_own_features else REFERENCE_FEATURES]
    if is_structure:
        command += ["--model-structure", str(EXAMPLES / name)]
    command += ["--prediction-interval", str(interval), "--out", str(out)]
    if setup.seeds > 1:
        command += ["--config_override", f"training.seed_count={setup.seeds}"]
    if setup.epochs is not None:
        command += ["--config_override", f"training.epochs={setup.epochs}"]
    return command


# --- the verdicts -------------------------------------------------------------------------------


def judge_world(columns, intervals: Sequence[int], seed: int):
    """
    Judge each submission at its arrival, and all at closing, as the control plane asks for it.

    :param columns: By submission, the baseline first: see :func:`join_intervals`.
    :param intervals: The prediction intervals, ascending.
    :param seed: Of the drawing.
    :return: ``arrival`` and ``closing`` by submission.
    """
    question = build_question(columns, intervals, seed)
    listed = question["series"]
    arrivals, earlier = {}, {}
    for place, each in enumerate(listed, start=1):
        name = each["name"]
        said = answer(question | {"series": listed[:place], "arrivals": ARRIVALS, "judged": [name]})
        arrivals[name] = show_verdict(said["verdicts"][name])
        earlier[name] = arrivals[name]["outcome"]
    said = answer(question | {"earlier": earlier})
    # What stays as it was has its figures from the arrival.
    closing = {
        name: arrivals[name] | {k: v for k, v in show_verdict(verdict).items() if v is not None}
        for name, verdict in said["verdicts"].items()
    }
    return {"arrival": arrivals, "closing": closing}


def find_turnover(series):
    """Return how much each submission trades a year, in the mean over its intervals."""
    return {
        name: round(float(np.mean([each["metrics"]["turnover"] for each in found.values()])), 3)
        for name, found in series.items()
    }


def save_columns(path, columns):
    """Keep what a verdict needs of a world, so that it can be judged again by other rules."""
    market = next(iter(columns.values()))["market"]
    np.savez_compressed(path, market=market, **{f"net_{k}": v["net"] for k, v in columns.items()})


def load_columns(path):
    """Return what :func:`save_columns` has kept; predictions, which decide nothing, are not."""
    with np.load(path) as kept:
        return {
            name.removeprefix("net_"): {"net": kept[name], "market": kept["market"]}
            for name in kept.files
            if name != "market"
        }


def join_intervals(found, series):
    """Return a submission's columns on the rows that all intervals of all have in common."""
    rows = set.intersection(
        *(set(each["time"]) for one in series.values() for each in one.values())
    )
    columns = {}
    for name in ("net", "market", "score", "target"):
        listed = [
            [value for at, value in zip(each["time"], each[name], strict=True) if at in rows]
            for _, each in sorted(found.items())
        ]
        columns[name] = np.array(listed).T
    return columns


def build_question(columns, intervals, seed):
    """Return what the judge is asked, but for whom, and when."""
    baseline, *others = columns
    first = columns[baseline]
    return {
        "baseline": baseline,
        "baseline_net": pack(first["net"]),
        "baseline_prediction": pack(first.get("score")),
        "market": pack(first["market"][:, 0]),
        "target": pack(first.get("target")),
        "series": [
            {
                "name": name,
                "net": pack(columns[name]["net"]),
                "prediction": pack(columns[name].get("score")),
                "content": name,
            }
            for name in others
        ],
        "rows": len(first["net"]),
        "intervals": list(intervals),
        "bars_per_year": 252,
        "seed": seed,
    }


def pack(values):
    """Return numbers as the judge's programs take them; ``None`` for none."""
    if values is None:
        return None
    return b64encode(np.ascontiguousarray(values, dtype="<f8").tobytes()).decode()


def show_verdict(verdict):
    """Return what is kept of a verdict; ``None`` for figures that it has not."""
    edge = verdict["edge"] or {}
    names = ("difference", "standard_error", "low", "high", "p_own", "p_adjusted")
    return {"outcome": verdict["outcome"]} | {name: edge.get(name) for name in names}
