"""Identifiers and object keys, derived and never made up twice."""

from __future__ import annotations

import hashlib
import re
from datetime import datetime

from touchstone_agent.protocol.messages import AttemptRef
from touchstone_agent.protocol.words import check_path

VALIDATION_TASK_ID = "validation"

_SUBMISSION_ID = re.compile(r"[a-z0-9][a-z0-9-]{1,46}[a-z0-9]")
_RUN_SUFFIX = re.compile(r"--\d+$")


def is_submission_id(text: str) -> bool:
    """Tell whether ``text`` can be a submission's id: 3 to 48 of ``a-z 0-9 -``."""
    return _SUBMISSION_ID.fullmatch(text) is not None and "--" not in text


def build_id(now: datetime, random: str) -> str:
    """Return a new submission's id: readable, in order of time, and unique."""
    return f"{now:%Y%m%d-%H%M%S}-{random}"


def build_submission_id(run_id: str) -> str:
    """
    Derive a submission's id from the run that brought it.

    A run id that can be one is taken as it is. Airflow's own (``manual__2026-...``) becomes a
    readable start and ten hex digits of its hash, so that the same run always means the same
    submission.
    """
    if is_submission_id(run_id):
        return run_id
    readable = re.sub(r"[^a-z0-9]+", "-", run_id.lower()).strip("-")[:24].strip("-")
    digest = hashlib.sha256(run_id.encode()).hexdigest()[:10]
    return f"{readable}-{digest}" if readable else f"run-{digest}"


def build_run_id(submission_id: str, number: int) -> str:
    """Return the run id of a submission's run, counted from 1: the id, then ``<id>--2``."""
    return submission_id if number == 1 else f"{submission_id}--{number}"


def find_submission_of_run(run_id: str) -> str:
    """Return the submission a run id stands for: ``<id>--2`` belongs to ``<id>``."""
    return build_submission_id(_RUN_SUFFIX.sub("", run_id))


def build_task_id(interval: int, fold: int | None = None) -> str:
    """
    Return the task id of a prediction interval, or of one fold of it.

    :param fold: Its number; ``None`` for a training without folds.
    """
    return f"i{interval}" if fold is None else f"i{interval}-f{fold}"


def find_interval_id(task_id: str) -> str:
    """Return the task id of the interval that a training, or a fold, is of: ``i5`` of ``i5-f0``."""
    return task_id.partition("-")[0]


def build_content_key(sha256: str) -> str:
    """Return the key of submitted content in the content bucket."""
    return f"content/{sha256}.tar.gz"


def build_data_key(sha256: str) -> str:
    """Return the key of a data set's archive in the content bucket."""
    return f"data/{sha256}.tar.gz"


def build_attempt_prefix(ref: AttemptRef) -> str:
    """Return what all object keys of an attempt begin with, ``/`` at the end."""
    return f"{ref.submission_id}/{ref.task_id}/{ref.attempt}-{ref.fence}/"


def build_output_key(ref: AttemptRef, path: str) -> str:
    """
    Return the key of an attempt's raw output in the content bucket.

    :raises UnsafePath: If the path could mean a key of somebody else's.
    """
    return f"attempts/{build_attempt_prefix(ref)}{check_path(path)}"


def build_console_key(ref: AttemptRef, offset: int) -> str:
    """
    Return the key of the console chunk that begins at byte ``offset``, in the logs bucket.

    :raises ValueError: If there can be none: keys are in order up to twelve digits.
    """
    if not 0 <= offset < 10**12:
        raise ValueError(f"no console has a byte {offset}")
    return f"{build_attempt_prefix(ref)}{offset:012d}.log"


def build_model_name(strategy: str, number: int) -> str:
    """
    Return the name of a model: its file's without ``.h5``, and the last part of its id.

    :param strategy: Which of the pair.
    :param number: Of the seed, from 0; the first one has the name that a single one has.
    """
    return strategy if number == 0 else f"{strategy}-{number + 1}"


def build_model_key(ref: AttemptRef, name: str) -> str:
    """
    Return the key of a published model in the models bucket.

    :param name: See :func:`build_model_name`.
    """
    return f"{build_attempt_prefix(ref)}{name}.h5"
