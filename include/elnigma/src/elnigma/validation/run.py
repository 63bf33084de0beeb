"""The ``validate`` command: the checks of one module, and their record."""

from __future__ import annotations

from pathlib import Path

from elnigma.data_set import find_data_set, find_hidden
from elnigma.outputs import utc_now, write_json
from elnigma.progress import Progress
from elnigma.task import CONTRACT, read_task
from elnigma.threads import limit_threads, prepare_device


def validate(system: str, module: str, out: Path, data: str | None = None) -> None:
    """
    Check a module and write ``result.json``.

    :param system: ``feature_set`` or ``model_structure``.
    :param module: Folder or dotted name.
    :param out: Output folder.
    :param data: Folder of a data set, or ``canned``; ``None`` for what came with the task.
    :raises SubmissionError: If the module does not pass.
    :raises DataError: If the data are missing or damaged.
    """
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

            columns, checks = FeatureSetCheck(module, seed=seed, data_folder=hidden).run(
                progress, data_set
            )
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
            "checks": checks,
            "started_at": started_at,
            "ended_at": utc_now(),
        },
    )
