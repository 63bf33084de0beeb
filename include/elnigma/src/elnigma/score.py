"""The ``score`` command: models that a training has left predict rows that it did not have."""

from __future__ import annotations

import hashlib
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from elnigma.config import Config, nest
from elnigma.data import load_market_data
from elnigma.data_set import DataSet, find_data_set, find_hidden
from elnigma.errors import ConfigError
from elnigma.fitting import Learner, list_models
from elnigma.outputs import describe_files, utc_now, write_json
from elnigma.progress import Progress
from elnigma.shelter import end_descendants
from elnigma.storage import storing
from elnigma.task import CONTRACT, Task, read_task
from elnigma.threads import limit_threads, prepare_device
from elnigma.train import (
    Share,
    TrainRequest,
    build_model_pool,
    compute_table,
    describe_data,
    describe_features,
    describe_split,
    find_versions,
    make_way,
    prepare,
    resolve_config,
    write_predictions,
)
from elnigma.validation.feature_child import FeaturePool
from elnigma.validation.waivers import read_waived

MAX_MODEL_BYTES: Final = 1024**3
"""Of one model; what a training may leave in all."""
OUTPUTS: Final = ("predictions.csv", "effective_config.json", "result.json")


@dataclass(frozen=True, kw_only=True)
class ScoreRequest:
    """
    The arguments of ``score``.

    :param training: Those of the training that has left the models.
    :param models: Folder with its models, named as it named them.
    """

    training: TrainRequest
    models: Path


def score(request: ScoreRequest) -> None:
    """
    Let saved models predict validation and test rows, and write what the contract asks for.

    Nothing is fitted. Features are computed and checked as for a training, and standardised by the
    same training rows. No process that came of submitted code has an outcome, or is there any more
    when the first output is written.

    :raises ElnigmaError: See :mod:`elnigma.errors`; each has its exit code.
    """
    training = request.training
    read_waived(training.waived)
    task = read_task()
    limit_threads(task.threads)
    prepare_device(task.cuda, task.gpu_share)
    started_at = utc_now()
    data_set = find_data_set(training.data, task.data_folder)
    config = resolve_config(training, task, data_set)
    progress = Progress(task.progress_file)
    with progress.heartbeat(), tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        try:
            folder = take_models(request.models, config["training.seed_count"], Path(name))
            _score(training, task, config, data_set, progress, started_at, folder)
        except BaseException:
            end_descendants()
            raise


def take_models(source: Path, count: int, target: Path) -> Path:
    """
    Copy the models of each seed, and return where they are: what reads them cannot change the rest.

    :param source: Where a training has left them.
    :param count: Seeds.
    :param target: Folder to copy to.
    :raises ConfigError: If one is missing, is no plain file or is too large.
    """
    for name in list_models(count):
        path = source / f"{name}.h5"
        try:
            facts = path.lstat()
        except OSError as error:
            raise ConfigError(
                f"--models: {path.name} cannot be read ({error.strerror}); a training with "
                f"training.seed_count={count} leaves {', '.join(list_models(count))}"
            ) from error
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > MAX_MODEL_BYTES:
            raise ConfigError(
                f"--models: {path.name} is no plain file of at most {MAX_MODEL_BYTES} bytes"
            )
        with storing(target / path.name):
            shutil.copyfile(path, target / path.name, follow_symlinks=False)
    return target


def _score(
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
                learner.begin()
            progress.tell("loading data", 1)
            until = request.data_until
            data = load_market_data(until) if data_set is None else data_set.load(until)
            table = compute_table(
                data, horizon, config, pool, Share(progress), hidden, request.waived
            )
        progress.tell("loading libraries", 14)
        learner.begin()
        config["model.window"] = learner.load(config)
        prepared = prepare(table, horizon, config)
        scored = learner.score(prepared, config, progress, folder)
    # What submitted code has left behind could change what is written from here on.
    end_descendants()
    progress.tell("writing", 92)
    for name in OUTPUTS:
        make_way(out, name)
    write_json(out / "effective_config.json", nest(config))
    write_predictions(prepared, scored.scores, out)
    digest = hashlib.sha256((out / "predictions.csv").read_bytes()).hexdigest()
    write_json(
        out / "result.json",
        {
            "contract": CONTRACT,
            "scored": True,
            "submission_id": task.submission_id,
            "task_id": task.task_id,
            "model_group_id": task.model_group_id,
            "prediction_interval": horizon,
            "versions": find_versions(),
            "device": learner.device,
            "data": describe_data(data),
            "split": describe_split(prepared),
            "features": describe_features(table),
            "waived_columns": list(request.waived),
            "models": {
                "reproduced_rows": len(prepared.predicted),
                "largest_difference": scored.difference,
                "sha256": scored.digests,
            },
            "seed": config["training.seed"],
            "seed_count": config["training.seed_count"],
            "predictions_sha256": digest,
            "files": describe_files(out, ["predictions.csv", "effective_config.json"]),
            "started_at": started_at,
            "ended_at": utc_now(),
        },
    )
    progress.tell("done", 100)
