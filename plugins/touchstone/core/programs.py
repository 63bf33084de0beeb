"""
What a task of somebody's own DAG runs in a container: a program, and by what its record is found.

Such a task has a record like any other, in which a DAG run stands where a submission does. No
submission can have the id of one: those have no two dashes in a row.
"""

from __future__ import annotations

import hashlib
import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

MAX_WORDS = 200
MAX_WORD = 2000
MAX_NAME = 250
"""Characters of a DAG's or a task's id, as in Airflow."""

_PREFIX = "dag--"
_READABLE = 26

Word = Annotated[str, StringConstraints(max_length=MAX_WORD, pattern=r"^[^\x00]*$")]

ProgramInstance = tuple[str, str, str, int]
"""A task instance of any DAG: the DAG's id, the run's, the task's, and the map index."""


class Program(BaseModel):
    """
    A program that a task of somebody's own DAG runs.

    :param dag_id: The DAG.
    :param task_id: The task within it, as Airflow calls it.
    :param command: Arguments to the image's entry point; ``{in}`` and ``{out}`` stand for the
        input and the output folder.
    :param executable: What is started with them in place of the image's own trainer; ``None`` for
        that.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    dag_id: str = Field(min_length=1, max_length=MAX_NAME)
    task_id: str = Field(min_length=1, max_length=MAX_NAME)
    command: tuple[Word, ...] = Field(min_length=1, max_length=MAX_WORDS)
    executable: Annotated[Word, Field(min_length=1)] | None = None


def build_program_ids(dag_id: str, run_id: str, task_id: str, map_index: int) -> tuple[str, str]:
    """
    Return under which ids the record of a task instance is kept: of its run, and within that.

    The same instance always has the same; of two instances no two are the same.
    """
    readable = re.sub(r"[^a-z0-9]+", "-", dag_id.lower()).strip("-")[:_READABLE].strip("-")
    of_run = _digest(dag_id, run_id)
    # A task's id holds no dash: the name of a container can be taken apart again.
    within = f"t{_digest(task_id, str(map_index))}"
    return f"{_PREFIX}{readable}-{of_run}" if readable else f"{_PREFIX}{of_run}", within


def is_program_id(submission_id: str) -> bool:
    """Tell whether what stands where a submission does is a run of somebody's own DAG."""
    return submission_id.startswith(_PREFIX)


def build_program_user(dag_id: str) -> str:
    """Return on whose account a DAG's programs run: the DAG's, which is no user's name."""
    return f"dag:{dag_id}"


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
