"""The ``train`` command: the long and the short models of one prediction interval."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from elnigma import __version__
from elnigma.backtest import Backtest, Scale, fit_scale, run_backtest
from elnigma.config import Config, build_config, check_day, nest, with_seed
from elnigma.data import MarketData, load_market_data
from elnigma.data_set import DataSet, find_data_set, find_hidden
from elnigma.errors import ConfigError
from elnigma.fitting import Fitted, Learner, Prepared, list_models
from elnigma.metrics import ScoredRows, compute_metrics
from elnigma.model_child import ModelPool
from elnigma.outputs import describe_files, split_metrics, utc_now, write_json
from elnigma.progress import Progress
from elnigma.shelter import end_descendants
from elnigma.split import build_split
from elnigma.storage import storing
from elnigma.task import CONTRACT, Cuda, Task, read_task
from elnigma.threads import limit_threads, prepare_device
from elnigma.validation.feature_child import FeaturePool
from elnigma.validation.feature_set import FeatureSetCheck, Spans, Teller
from elnigma.validation.waivers import read_waived

MAX_INTERVAL = 250
OUTPUTS = ("predictions.csv", "returns.csv", "effective_config.json", "result.json")
CUDA_PACKAGES = ("jax-cuda12-plugin", "nvidia-cublas-cu12", "nvidia-cudnn-cu12")


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """
    The arguments of ``train``, as given.

    :param config: Configuration file, relative.
    :param feature_set: Folder or dotted name; ``None`` takes the configuration's.
    :param model_structure: The same for the model structure.
    :param prediction_interval: Bars that the models look ahead.
    :param data: Folder of a data set, or ``canned``; ``None`` for what came with the task.
    :param data_until: Last day of data; ``None`` for all.
    :param out: Output folder.
    :param overrides: ``key=value`` each.
    :param passthrough: What stood after ``--``.
    :param waived: Columns of the feature set that may know later rows.
    """

    config: str
    feature_set: str | None
    model_structure: str | None
    prediction_interval: int
    data: str | None
    data_until: str | None
    out: Path
    overrides: tuple[str, ...]
    passthrough: tuple[str, ...]
    waived: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Table:
    """
    Features that were checked, and targets.

    :param features: A row per row of data; NaN in the warm-up, and behind the last judged row.
    :param warm_up: Leading rows in which a feature is missing.
    :param target: Return over the horizon.
    :param next_returns: Return to the next close.
    :param columns: How many features there are.
    :param checks: What was checked of them.
    """

    features: np.ndarray
    warm_up: int
    target: pd.Series
    next_returns: np.ndarray
    columns: int
    checks: dict[str, Any]


def train(request: TrainRequest) -> None:
    """
    Train, score and write everything the contract asks for, ``result.json`` last.

    Submitted code is imported by children alone. None of them is there any more, nor anything that
    it left behind, when the first output is written.

    :raises ElnigmaError: See :mod:`elnigma.errors`; each has its exit code.
    """
    read_waived(request.waived)
    task = read_task()
    limit_threads(task.threads)
    prepare_device(task.cuda, task.gpu_share)
    started_at = utc_now()
    data_set = find_data_set(request.data, task.data_folder)
    config = resolve_config(request, task, data_set)
    progress = Progress(task.progress_file)
    try:
        with (
            progress.heartbeat(),
            tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        ):
            _train(request, task, config, data_set, progress, started_at, Path(folder))
    except BaseException:
        end_descendants()
        # A reader of a failed training wants to see its configuration; before, the file would
        # tell submitted code that this is a training.
        make_way(request.out, "effective_config.json")
        write_json(request.out / "effective_config.json", nest(config))
        raise


def _train(
    request: TrainRequest,
    task: Task,
    config: Config,
    data_set: DataSet | None,
    progress: Progress,
    started_at: str,
    folder: Path,
) -> None:
    horizon, out = request.prediction_interval, request.out
    hidden = find_hidden(data_set, task.data_folder)
    # Begun before this process has any data.
    with (
        build_model_pool(task, config, hidden, folder) as models,
        Learner(models, task) as learner,
    ):
        with FeaturePool(config["features.module"], hidden) as pool:
            if task.wants_gpu:
                # Before anything else, since without a GPU the rest may be in vain.
                progress.tell("looking for a GPU", 0.5)
                learner.begin()
                print(learner.note or learner.headline)
            elif task.threads > 1:
                models.begin_loading()
            progress.tell("loading data", 1)
            until = request.data_until
            data = load_market_data(until) if data_set is None else data_set.load(until)
            table = compute_table(
                data, horizon, config, pool, Share(progress), hidden, request.waived
            )
        progress.tell(learner.headline or "loading libraries", 14)
        # Keras takes seconds to load: after everything that can be refused without.
        learner.begin()
        config["model.window"] = learner.load(config)
        prepared = prepare(table, horizon, config)
        fitted = learner.fit(prepared, config, progress, folder)
    # What submitted code has left behind could change what is written from here on.
    end_descendants()
    progress.tell("scoring", 85)
    for name in (*OUTPUTS, "models", "charts"):
        make_way(out, name)
    write_json(out / "effective_config.json", nest(config))
    for name in ("models", "charts"):
        (out / name).mkdir()
    saved = [f"{name}.h5" for name in list_models(len(fitted.seeds))]
    for name in saved:
        with storing(out / "models" / name):
            shutil.copyfile(folder / name, out / "models" / name)
    scored = _score(prepared, fitted.scores, horizon, config, out)
    progress.tell("drawing", 92)
    from elnigma.charts import draw_charts

    charts = draw_charts(scored.frame, scored.rows, out)
    files = [f"models/{name}" for name in saved]
    files += ["predictions.csv", "returns.csv", "effective_config.json", *charts]
    write_json(
        out / "result.json",
        {
            "contract": CONTRACT,
            "submission_id": task.submission_id,
            "task_id": task.task_id,
            "model_group_id": task.model_group_id,
            "prediction_interval": horizon,
            "metrics": scored.metrics,
            "metric_notes": scored.notes,
            "params": {**config, **fitted.found},
            "scale": {"mean": scored.scale.mean, "std": scored.scale.std},
            "versions": find_versions(),
            "device": learner.device,
            "data": describe_data(data),
            "split": describe_split(prepared),
            "features": describe_features(table),
            "waived_columns": list(request.waived),
            "models": {
                "reproduced_rows": len(prepared.predicted),
                "largest_difference": fitted.difference,
            },
            "seed": config["training.seed"],
            "seed_count": len(fitted.seeds),
            "seeds": _describe_seeds(fitted),
            "predictions_sha256": scored.predictions_sha256,
            "files": describe_files(out, files),
            "timings": _describe_steps(fitted),
            "started_at": started_at,
            "ended_at": utc_now(),
        },
    )
    progress.tell("done", 100, {k: v for k, v in scored.metrics.items() if v is not None})


def build_model_pool(
    task: Task, config: Config, data_folder: str | None, folder: Path
) -> ModelPool:
    """
    Return what the process of a model comes from, with the walls that every command puts around it.

    :param data_folder: Where it must not read; ``None`` for no such folder.
    :param folder: Of the models' files, which it may read.
    """
    return ModelPool(
        data_folder,
        readable=[config["model.structure"], str(folder)],
        may_fork=task.cuda is not Cuda.NONE,
    )


def compute_table(
    data: MarketData,
    horizon: int,
    config: Config,
    pool: FeaturePool,
    progress: Teller,
    data_folder: str | None = None,
    waived: tuple[str, ...] = (),
) -> Table:
    """
    Compute features in children, check them, and compute targets.

    :param data: Market data.
    :param horizon: Rows that a target looks ahead.
    :param config: The effective configuration.
    :param pool: Children for the feature set, begun before there were any data.
    :param progress: Told how far the checks are.
    :param data_folder: Where the feature set must not read; ``None`` for no such folder.
    :param waived: Columns that may know later rows.
    :raises ConfigError: If the rows are too few, whatever the model.
    :raises SubmissionError: If the feature set fails, or does not pass.
    """
    frame, close = data.frame, data.close
    target = close.shift(-horizon) / close - 1
    # Too few days are no fault of the features.
    build_split(target, np.ones(len(frame), dtype=bool), horizon, config)
    spans = Spans.find(pd.DatetimeIndex(frame.index), config)
    check = FeatureSetCheck(
        config["features.module"],
        seed=config["training.seed"],
        data_folder=data_folder,
        waived=waived,
    )
    found = check.check(pool, data, spans, progress)
    build_split(target, np.arange(len(frame)) >= found.warm_up, horizon, config)
    features = np.full((len(frame), len(found.columns)), np.nan)
    features[: len(found.values)] = found.values
    return Table(
        features=features,
        warm_up=found.warm_up,
        target=target,
        next_returns=(close.shift(-1) / close - 1).to_numpy(),
        columns=len(found.columns),
        checks=found.checks,
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


class Share:
    """Tells of the checks of features as a part of a training, or of a scoring."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def tell(self, _phase: str, percent: float) -> None:
        """Tell how far they are."""
        self._progress.tell("computing features", 2 + 11 * percent / 100)


@dataclass(frozen=True, kw_only=True)
class _Scored:
    rows: ScoredRows
    frame: pd.DataFrame
    scale: Scale
    metrics: dict[str, float | None]
    notes: dict[str, str]
    predictions_sha256: str


def resolve_config(request: TrainRequest, task: Task, data_set: DataSet | None) -> Config:
    """
    Return the effective configuration of a request.

    :raises ConfigError: If something in it is impossible.
    """
    if not 1 <= request.prediction_interval <= MAX_INTERVAL:
        raise ConfigError(
            f"--prediction-interval must be from 1 to {MAX_INTERVAL}, "
            f"not {request.prediction_interval}"
        )
    if request.data_until is not None:
        check_day("--fetched-data-end-to", request.data_until)
    defaults = None if data_set is None else data_set.settings
    config = build_config(request.config, request.passthrough, request.overrides, defaults)
    # What an argument names outranks what a file names.
    if request.feature_set is not None:
        config["features.module"] = request.feature_set
    if request.model_structure is not None:
        config["model.structure"] = request.model_structure
    return with_seed(config, task.seed)


def make_way(out: Path, name: str) -> None:
    """Remove what stands under the name of an output; submitted code may have put it there."""
    path = out / name
    with storing(path):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


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
    frame = _write_tables(prepared, scores, backtest, out)
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


def _write_tables(
    prepared: Prepared, scores: dict[str, np.ndarray], backtest: Backtest, out: Path
) -> pd.DataFrame:
    times = prepared.target.index[prepared.split.test]
    returns = pd.DataFrame(
        {
            "time": [time.isoformat() for time in times],
            "position": backtest.position,
            "gross": backtest.gross,
            "net": backtest.net,
        }
    )
    write_predictions(prepared, scores, out)
    returns.to_csv(out / "returns.csv", index=False, lineterminator="\n")
    return returns.set_index(times)


def write_predictions(prepared: Prepared, scores: dict[str, np.ndarray], out: Path) -> None:
    """Write ``predictions.csv``: the rows of the validation, then those of the test."""
    index, split = prepared.target.index, prepared.split
    predictions = pd.DataFrame(
        {
            "time": [time.isoformat() for time in index[prepared.predicted]],
            "part": ["validation"] * len(split.validation) + ["test"] * len(split.test),
            "score_long": scores["long"],
            "score_short": scores["short"],
        }
    )
    # repr of a float64 reads back as the same float64.
    predictions.to_csv(out / "predictions.csv", index=False, lineterminator="\n")


def _describe_steps(fitted: Fitted) -> dict[str, Any]:
    first = fitted.first_step_at
    return {
        "first_step_at": None if first is None else first.isoformat(timespec="milliseconds"),
        "step_seconds": round(fitted.step_seconds, 3),
    }


def _describe_seeds(fitted: Fitted) -> list[dict[str, Any]]:
    return [
        {"seed": each.seed, **each.found, "largest_difference": each.difference}
        for each in fitted.seeds
    ]


def describe_split(prepared: Prepared) -> dict[str, dict[str, Any]]:
    """Return the first and the last row of each part, and how many there are."""
    index, split = prepared.target.index, prepared.split
    return {
        name: {
            "first": index[rows[0]].isoformat(),
            "last": index[rows[-1]].isoformat(),
            "rows": len(rows),
        }
        for name, rows in vars(split).items()
    }


def describe_features(table: Table) -> dict[str, Any]:
    """Return what was checked of the features."""
    prefix = "look_ahead_"
    return {
        "columns": table.columns,
        "warm_up_rows": table.warm_up,
        "cpu_seconds": table.checks["feature_cpu_seconds"],
        "look_ahead": {
            name.removeprefix(prefix): value
            for name, value in table.checks.items()
            if name.startswith(prefix)
        }
        | {"fresh_processes": table.checks["fresh_process_cuts"]},
    }


def describe_data(data: MarketData) -> dict[str, Any]:
    """Return which data they are."""
    index = data.frame.index
    return {
        "name": data.name,
        "sha256": data.sha256,
        "rows": len(index),
        "first": _tell_time(index[0], index),
        "last": _tell_time(index[-1], index),
    }


def _tell_time(time: pd.Timestamp, index: pd.Index) -> str:
    """Return a row's day, or its time where not all rows are of midnight."""
    is_daily = bool((index == pd.DatetimeIndex(index).normalize()).all())
    return str(time.date()) if is_daily else str(time.isoformat())


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
