"""What a crash or a kill leaves undone of the programs of other DAGs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from touchstone.core.program_attempts import close_program, find_instance
from touchstone.core.programs import ProgramInstance
from touchstone.core.records.tasks import Task
from touchstone.core.states import TaskStatus
from touchstone.hooks.agent import AgentHook, cancel_task
from touchstone.services.troubles import Troubles
from touchstone.stores.records import RecordStore

log = logging.getLogger(__name__)


GRACE = timedelta(seconds=30)
"""How long a try may have begun before nobody waiting for it means something."""


class Airflow(Protocol):
    """What this needs of Airflow."""

    def find_gone(self, instances: Collection[ProgramInstance]) -> set[ProgramInstance]:
        """Return the task instances, of any DAG, that have ended or are not there."""


class ProgramReconciler:
    """
    Ends programs that no task instance waits for.

    :param records: The records.
    :param agent: Speaks to agents.
    :param airflow: Knows Airflow's task instances.
    :param clock: The time, UTC.
    :param troubles: Where is counted what could not be ended.
    """

    def __init__(
        self,
        *,
        records: RecordStore,
        agent: AgentHook,
        airflow: Airflow,
        clock: Callable[[], datetime],
        troubles: Troubles,
    ) -> None:
        self._records = records
        self._agent = agent
        self._airflow = airflow
        self._clock = clock
        self._troubles = troubles

    def end_orphans(self, tasks: Sequence[Task]) -> None:
        """
        End what no task instance waits for, and close what has ended well meanwhile.

        :param tasks: All programs that are at work.
        """
        waited_for: dict[ProgramInstance, Task] = {}
        for task in tasks:
            with self._troubles.guard("find the task instance of", task.key):
                began = task.newest.intent_at
                if task.has_attempt and began is not None and self._clock() - began > GRACE:
                    waited_for[find_instance(task)] = task
        if not waited_for:
            return
        for instance in self._airflow.find_gone(waited_for):
            task = waited_for[instance]
            with self._troubles.guard("end the program", task.key):
                self._end(task)

    def _end(self, task: Task) -> None:
        if task.status is TaskStatus.UPLOADING:
            # It has come to what it was for; who would have said so is gone.
            self._records.change_task(
                task.submission_id,
                task.task_id,
                lambda found: close_program(found, fence=task.fence, now=self._clock()),
            )
        elif task.newest.cancel is None:
            log.warning("nobody waits for %s any more: it is ended", task.name)
            cancel_task(
                self._records,
                self._agent,
                submission_id=task.submission_id,
                task_id=task.task_id,
                by="airflow",
                reason="its Airflow task has ended",
                only_fence=task.fence,
            )
