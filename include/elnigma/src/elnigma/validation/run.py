"""The ``validate`` command: the checks of one module, and their record."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from elnigma.data_set import find_data_set, find_hidden
from elnigma.errors import ConfigError
from elnigma.loading import FEATURE_SET
from elnigma.outputs import utc_now, write_json
from elnigma.progress import Progress
from elnigma.task import CONTRACT, read_task
from elnigma.threads import limit_threads, prepare_device
from elnigma.validation.waivers import read_waived


def validate(
    system: str,
    module: str,
    out: Path,
    data: str | None = None,
    waived: Sequence[str] = (),
) -> None:
    """
    Check a module and write ``result.json``.

    :param system: ``feature_set`` or ``model_structure``.
    :param module: Folder or dotted name.
    :param out: Output folder.
    :param data: Folder of a data set, or ``canned``; ``None`` for what came with the task.
    :param waived: Columns of a feature set that may know later rows.
    :raises ConfigError: If these can be no columns.
    :raises SubmissionError: If the module does not pass.
    :raises DataError: If the data are missing or damaged.
    """
    waived = read_waived(waived)
    if waived and system != FEATURE_SET.name:
        raise ConfigError("--waive-column: a model structure has no columns; leave it out")
    task = read_task()
    limit_threads(task.threads)
    prepare_device(task.cuda, task.gpu_share)
    started_at = utc_now()
    progress = Progress(task.progress_file)
    seed = task.seed or 0
    data_set = find_data_set(data, task.data_folder)
    hidden = find_hidden(data_set, task.data_folder)
    columns: list[str] = []
    with progress.heartbeat():
        if system == "feature_set":
            from elnigma.validation.feature_set import FeatureSetCheck

            check = FeatureSetCheck(module, seed=seed, data_folder=hidden, waived=waived)
            columns, checks = check.run(progress, data_set)
        else:
            from elnigma.validation.model_structure import check_model_structure

            checks = check_model_structure(
                module,
                progress,
                seed=seed,
                memory_bytes=task.memory_bytes,
                data_folder=hidden,
            )
    progress.tell("done", 100)
    write_json(
        out / "result.json",
        {
            "contract": CONTRACT,
            "validated": True,
            "submission_id": task.submission_id,
            "task_id": task.task_id,
            "system": system,
            "columns": columns,
            "waived_columns": list(waived),
            "checks": checks,
            "started_at": started_at,
            "ended_at": utc_now(),
        },
    )
