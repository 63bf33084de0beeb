"""The ``train`` command: the long and the short model of one prediction interval."""

from __future__ import annotations

import hashlib
import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from elnigma import __version__
from elnigma.backtest import Backtest, Scale, fit_scale, run_backtest
from elnigma.config import Config, build_config, check_day, nest, with_seed
from elnigma.data import DATA_NAME, MarketData, load_market_data
from elnigma.device import Device, find_device
from elnigma.errors import ConfigError
from elnigma.feature_frame import check_frame, compute_features, find_warm_up
from elnigma.loading import FEATURE_SET, load_entry_point
from elnigma.metrics import ScoredRows, compute_metrics
from elnigma.outputs import describe_files, split_metrics, utc_now, write_json
from elnigma.progress import Progress
from elnigma.split import Split, build_split
from elnigma.task import CONTRACT, Task, read_task
from elnigma.threads import limit_threads, prepare_device

if TYPE_CHECKING:
    from elnigma.networks import Structure

MAX_INTERVAL = 250
SIDES = ("long", "short")
CUDA_PACKAGES = ("jax-cuda12-plugin", "nvidia-cublas-cu12", "nvidia-cudnn-cu12")


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """
    The arguments of ``train``, as given.

    :param config: Configuration file, relative.
    :param feature_set: Folder or dotted name; ``None`` takes the configuration's.
    :param model_structure: The same for the model structure.
    :param prediction_interval: Trading days that the models look ahead.
    :param data_until: Last day of data; ``None`` for all.
    :param out: Output folder.
    :param overrides: ``key=value`` each.
    :param passthrough: What stood after ``--``.
    """

    config: str
    feature_set: str | None
    model_structure: str | None
    prediction_interval: int
    data_until: str | None
    out: Path
    overrides: tuple[str, ...]
    passthrough: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """
    Features and targets, as they were computed.

    :param features: A row per row of data; NaN in the warm-up.
    :param warm_up: Leading rows in which a feature is missing.
    :param target: Return over the horizon.
    :param next_returns: Return to the next close.
    """

    features: np.ndarray
    warm_up: int
    target: pd.Series
    next_returns: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """
    Numbers ready to be fitted.

    :param features: Standardised by the training rows; a row per row of data.
    :param target: Return over the horizon.
    :param next_returns: Return to the next close.
    :param threshold: What a move must exceed to count as one.
    :param split: Rows of each part.
    """

    features: np.ndarray
    target: pd.Series
    next_returns: np.ndarray
    threshold: float
    split: Split


def train(request: TrainRequest) -> None:
    """
    Train, score and write everything the contract asks for, ``result.json`` last.

    :raises ElnigmaError: See :mod:`elnigma.errors`; each has its exit code.
    """
    task = read_task()
    limit_threads(task.threads)
    prepare_device(task.cuda, task.gpu_share)
    started_at = utc_now()
    config = _resolve_config(request, task)
    (request.out / "charts").mkdir(parents=True, exist_ok=True)
    write_json(request.out / "effective_config.json", nest(config))
    progress = Progress(task.progress_file)
    with progress.heartbeat():
        device = _look_for_gpu(task, progress) if task.wants_gpu else None
        progress.tell("loading data", 1)
        data = load_market_data(request.data_until)
        progress.tell("computing features", 2)
        table = compute_table(data.frame, request.prediction_interval, config)
        progress.tell("loading libraries" if device is None else device.headline, 8)
        # Keras and its backend take seconds to load: after everything that can be refused without.
        from elnigma import networks

        structure = networks.Structure(config["model.structure"], config)
        config["model.window"] = structure.window
        write_json(request.out / "effective_config.json", nest(config))
        prepared = prepare(table, request.prediction_interval, config)
        scores, found = _train_models(prepared, structure, config, request.out, progress)
        progress.tell("scoring", 85)
        scored = _score(prepared, scores, request.prediction_interval, config, request.out)
        progress.tell("drawing", 92)
        from elnigma.charts import draw_charts

        charts = draw_charts(scored.frame, scored.rows, request.out)
        files = [f"models/{side}.h5" for side in SIDES]
        files += ["predictions.csv", "returns.csv", "effective_config.json", *charts]
        write_json(
            request.out / "result.json",
            {
                "contract": CONTRACT,
                "submission_id": task.submission_id,
                "task_id": task.task_id,
                "model_group_id": task.model_group_id,
                "prediction_interval": request.prediction_interval,
                "metrics": scored.metrics,
                "metric_notes": scored.notes,
                "params": {**config, **found},
                "scale": {"mean": scored.scale.mean, "std": scored.scale.std},
                "versions": find_versions(),
                "device": (device or find_device(task.cuda, task.threads)).describe(),
                "data": _describe_data(data),
                "seed": config["training.seed"],
                "predictions_sha256": scored.predictions_sha256,
                "files": describe_files(request.out, files),
                "started_at": started_at,
                "ended_at": utc_now(),
            },
        )
        progress.tell("done", 100, {k: v for k, v in scored.metrics.items() if v is not None})


def compute_table(frame: pd.DataFrame, horizon: int, config: Config) -> Table:
    """
    Compute features and targets.

    :param frame: Market data.
    :param horizon: Rows that a target looks ahead.
    :param config: The effective configuration.
    :raises ConfigError: If the rows are too few, whatever the model.
    :raises SubmissionError: If the feature set fails or returns something it must not.
    """
    reference = config["features.module"]
    close = frame["close"]
    target = close.shift(-horizon) / close - 1
    # Too few days are nobody's features' fault.
    build_split(target, np.ones(len(frame), dtype=bool), horizon, config)
    folder = Path(reference) if Path(reference).is_dir() else None
    function = load_entry_point(FEATURE_SET, reference)
    features = check_frame(compute_features(function, frame, folder), frame)
    warm_up = find_warm_up(features)
    build_split(target, np.arange(len(frame)) >= warm_up, horizon, config)
    return Table(
        features=features.to_numpy(),
        warm_up=warm_up,
        target=target,
        next_returns=(close.shift(-1) / close - 1).to_numpy(),
    )


def prepare(table: Table, horizon: int, config: Config) -> Prepared:
    """
    Split the rows, and standardise the features by those of the training.

    A row whose window reaches into the warm-up is in no part.

    :param table: Features and targets.
    :param horizon: Rows that a target looks ahead.
    :param config: The effective configuration, with the window that the model gets.
    :raises ConfigError: If the window leaves too few rows.
    """
    numbers, window = table.features, config["model.window"]
    usable = np.arange(len(numbers)) >= table.warm_up + window - 1
    split = build_split(table.target, usable, horizon, config, window)
    mean = numbers[split.train].mean(axis=0)
    std = numbers[split.train].std(axis=0)
    # A column that never moves in training carries nothing; dividing by zero would.
    standardised = (numbers - mean) / np.where(std > 0, std, 1.0)
    return Prepared(
        # Far outliers of later years would saturate a model fitted on calmer ones.
        features=np.clip(standardised, -8, 8).astype("float32"),
        target=table.target,
        next_returns=table.next_returns,
        threshold=config["backtest.cost_bps"] / 1e4,
        split=split,
    )


@dataclass(frozen=True, kw_only=True)
class _Scored:
    rows: ScoredRows
    frame: pd.DataFrame
    scale: Scale
    metrics: dict[str, float | None]
    notes: dict[str, str]
    predictions_sha256: str


def _resolve_config(request: TrainRequest, task: Task) -> Config:
    if not 1 <= request.prediction_interval <= MAX_INTERVAL:
        raise ConfigError(
            f"--prediction-interval must be from 1 to {MAX_INTERVAL}, "
            f"not {request.prediction_interval}"
        )
    if request.data_until is not None:
        check_day("--fetched-data-end-to", request.data_until)
    config = build_config(request.config, request.passthrough, request.overrides)
    # What an argument names outranks what a file names.
    if request.feature_set is not None:
        config["features.module"] = request.feature_set
    if request.model_structure is not None:
        config["model.structure"] = request.model_structure
    return with_seed(config, task.seed)


def _look_for_gpu(task: Task, progress: Progress) -> Device:
    """Load the backend before anything else, since without a GPU the rest may be in vain."""
    progress.tell("looking for a GPU", 0.5)
    device = find_device(task.cuda, task.threads)
    print(device.note or device.headline)
    return device


def _train_models(
    prepared: Prepared, structure: Structure, config: Config, out: Path, progress: Progress
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Return the scores by side, and what only a model tells: its epochs and parameters."""
    from elnigma import networks

    split, target = prepared.split, prepared.target.to_numpy()
    choose = structure.hold(prepared.features)
    outcomes = {
        "long": (target > prepared.threshold).astype("float32"),
        "short": (target < -prepared.threshold).astype("float32"),
    }
    scores: dict[str, np.ndarray] = {}
    found: dict[str, int] = {}
    for number, side in enumerate(SIDES):
        networks.set_seed(config["training.seed"] + number)
        model = structure.build(prepared.features.shape[1])

        def tell(epoch: int, total: int, losses: dict[str, float], number: int = number) -> None:
            done = (number + epoch / total) / len(SIDES)
            progress.tell(f"training {SIDES[number]} model, epoch {epoch}", 15 + 65 * done, losses)

        outcome = outcomes[side]
        found[f"parameters_{side}"] = int(model.count_params())
        found[f"epochs_{side}"] = structure.fit(
            model,
            (choose(split.train), outcome[split.train]),
            (choose(split.validation), outcome[split.validation]),
            tell,
        )
        rows = np.concatenate([split.validation, split.test])
        scores[side] = structure.predict(model, choose(rows))
        structure.save(model, out / "models" / f"{side}.h5")
    return scores, found


def _score(
    prepared: Prepared, scores: dict[str, np.ndarray], horizon: int, config: Config, out: Path
) -> _Scored:
    n_validation = len(prepared.split.validation)
    difference = scores["long"] - scores["short"]
    scale = fit_scale(difference[:n_validation])
    test = prepared.split.test
    rows = ScoredRows(
        target=prepared.target.to_numpy()[test],
        score_long=scores["long"][n_validation:],
        score_short=scores["short"][n_validation:],
        threshold=prepared.threshold,
    )
    backtest = run_backtest(
        difference[n_validation:],
        prepared.next_returns[test],
        scale,
        horizon,
        config["backtest.cost_bps"] / 1e4,
    )
    frame = _write_tables(prepared.target.index[test], rows, backtest, out)
    metrics, notes = split_metrics(
        compute_metrics(
            rows,
            backtest,
            horizon=horizon,
            bars_per_year=config["backtest.bars_per_year"],
            n_resamples=config["backtest.n_resamples"],
            seed=config["training.seed"],
        )
    )
    digest = hashlib.sha256((out / "predictions.csv").read_bytes()).hexdigest()
    return _Scored(
        rows=rows, frame=frame, scale=scale, metrics=metrics, notes=notes, predictions_sha256=digest
    )


def _write_tables(times: pd.Index, rows: ScoredRows, backtest: Backtest, out: Path) -> pd.DataFrame:
    stamps = [time.isoformat() for time in times]
    predictions = pd.DataFrame(
        {
            "time": stamps,
            "target": rows.target,
            "score_long": rows.score_long,
            "score_short": rows.score_short,
        }
    )
    returns = pd.DataFrame(
        {
            "time": stamps,
            "position": backtest.position,
            "gross": backtest.gross,
            "net": backtest.net,
        }
    )
    # repr of a float64 reads back as the same float64.
    predictions.to_csv(out / "predictions.csv", index=False, lineterminator="\n")
    returns.to_csv(out / "returns.csv", index=False, lineterminator="\n")
    return returns.set_index(times)


def _describe_data(data: MarketData) -> dict[str, Any]:
    index = data.frame.index
    return {
        "name": DATA_NAME,
        "sha256": data.sha256,
        "rows": len(index),
        "first": str(index[0].date()),
        "last": str(index[-1].date()),
    }


def find_versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    versions = {"elnigma": __version__, "python": platform.python_version()}
    for name in ("jax", "jaxlib", "keras", "numpy", "pandas", *CUDA_PACKAGES):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    commit = os.environ.get("TOUCHSTONE_ELNIGMA_COMMIT")
    if commit:
        versions["elnigma_commit"] = commit
    return versions
