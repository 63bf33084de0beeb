"""Waits for an attempt in a pod, and drives the pod meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime

from airflow.triggers.base import TriggerEvent

from touchstone.core.pod_attempts import Problem, close_attempt, find_pod
from touchstone.core.records.tasks import Task
from touchstone.core.schedule import Platform
from touchstone.services.pods.context import PodContext, TaskRef, connect_pods
from touchstone.triggers.agent import BACKOFF, AgentTrigger
from touchstone.triggers.pods.driver import PodDriver
from touchstone.triggers.watch import get_records
from touchstone_agent.protocol.errors import PermanentError, TouchstoneError
from touchstone_agent.protocol.words import build_line

_contexts: dict[asyncio.AbstractEventLoop, PodContext] = {}


async def get_context() -> PodContext:
    """Return what renting works with in the running event loop, connected on first use."""
    loop = asyncio.get_running_loop()
    if loop not in _contexts:
        # Another trigger may have connected meanwhile; one list of pods is the point.
        _contexts.setdefault(loop, await connect_pods())
    return _contexts[loop]


class RunPodTrigger(AgentTrigger):
    """
    Waits as :class:`AgentTrigger` does, and drives the attempt's pod meanwhile.

    A prestaged task waits with this as well: only when it is given a slot is it known
    whether that is a server's or RunPod's.

    :param submission_id: The submission.
    :param touchstone_task_id: The task within it.
    :param fence: The attempt that is waited for; the next one, if the task is prestaged.
    :param run_id: The DAG run that waits.
    """

    def __init__(
        self, submission_id: str, touchstone_task_id: str, fence: int, run_id: str
    ) -> None:
        super().__init__(submission_id, touchstone_task_id, fence, run_id)
        self._driver: PodDriver | None = None
        self._driving: asyncio.Task[None] | None = None

    async def _wait(self) -> TriggerEvent:
        try:
            return await super()._wait()
        finally:
            # Another trigger, or the reaper, does the rest.
            if self._driving is not None:
                self._driving.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await self._driving
            self._driver = self._driving = None

    def _observe(self, task: Task) -> None:
        if self._driving is None and self._is_ours(task):
            self._driving = asyncio.create_task(self._drive())
        is_unwanted = task.fence > self.fence or task.newest.cancel is not None
        if self._driver is not None and is_unwanted:
            self._driver.stop()

    def _is_ours(self, task: Task) -> bool:
        return task.fence == self.fence and task.newest.platform is Platform.RUNPOD

    async def _drive(self) -> None:
        key = TaskRef(submission_id=self.submission_id, task_id=self.touchstone_task_id)
        failures = 0
        while True:
            try:
                context = await get_context()
                self._driver = PodDriver(context, key, self.fence)
                await self._driver.run()
                return
            except PermanentError as error:
                # Nothing can be rented here: a connection is missing, or holds no key.
                self.log.error("the pod of %s cannot be driven: %s", self._name, error)
                if await self._refuse(Problem("account", build_line(str(error)))):
                    return
            except Exception:
                self.log.exception("driving the pod of %s failed, trying again", self._name)
            failures += 1
            await asyncio.sleep(BACKOFF.after(failures))

    async def _refuse(self, problem: Problem) -> bool:
        """End the attempt, unless it has a pod already; return whether nothing is left to drive."""

        def decide(task: Task) -> Task | None:
            pod = find_pod(task, self.fence)
            if pod is not None and pod.is_rented:
                # It lives no longer than its lease; a repaired connection ends it sooner.
                return None
            return close_attempt(task, fence=self.fence, now=datetime.now(UTC), problem=problem)

        try:
            task = await asyncio.to_thread(
                get_records().change_task, self.submission_id, self.touchstone_task_id, decide
            )
        except TouchstoneError as error:
            self.log.warning("%s: %s; trying again", self._name, error)
            return False
        return task.fence != self.fence or task.is_ended

    async def _follow_up(self, task: Task) -> None:
        if self._is_ours(task):
            await self._drive()
