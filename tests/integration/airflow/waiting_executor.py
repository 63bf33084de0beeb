"""An executor whose tasks stay queued until somebody else, the test's worker, takes them."""

from __future__ import annotations

from typing import Any

from airflow.executors.base_executor import BaseExecutor


class WaitingExecutor(BaseExecutor):
    """Takes whatever the scheduler queues, and does nothing with it."""

    def queue_workload(self, workload: Any, session: Any) -> None:
        """Leave it where the scheduler has put it: in the database, queued."""

    def heartbeat(self) -> None:
        """There is nothing to look after."""

    def try_adopt_task_instances(self, tis: Any) -> list[Any]:
        """Leave another scheduler's task instances as they are, too."""
        return []

    def end(self) -> None:
        """There is nothing to wait for."""

    def terminate(self) -> None:
        """There is nothing to end."""
