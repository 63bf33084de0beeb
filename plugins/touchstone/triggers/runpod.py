"""Waits for an attempt in a pod, and drives the pod meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime

from airflow.triggers.base import TriggerEvent

from touchstone.core.attempts import is_ended
from touchstone.core.conf import Platform
from touchstone.core.pod_attempts import Problem, close_attempt, find_pod, is_rented
from touchstone.hooks.pods.connect import connect_desk
from touchstone.hooks.pods.desk import PodDesk, TaskKey
from touchstone.hooks.records import Record
from touchstone.triggers.agent import BACKOFF, AgentTrigger
from touchstone.triggers.pods.driver import PodDriver
from touchstone.triggers.watch import get_records
from touchstone_agent.protocol.errors import PermanentError, TouchstoneError
from touchstone_agent.protocol.words import build_line

_desks: dict[asyncio.AbstractEventLoop, PodDesk] = {}


async def get_desk() -> PodDesk:
    """Return what renting works with in the running event loop, connected on first use."""
    loop = asyncio.get_running_loop()
    if loop not in _desks:
        # Another trigger may have connected meanwhile; one list of pods is the point.
        _desks.setdefault(loop, await connect_desk())
    return _desks[loop]


class RunPodTrigger(AgentTrigger):
    """
    Waits as :class:`AgentTrigger` does, and drives the attempt's pod meanwhile.

    A task that stands on deck waits with this as well: only when it is given a slot is it known
    whether that is a server's or RunPod's.

    :param submission_id: The submission.
    :param touchstone_task_id: The task within it.
    :param fence: The attempt that is waited for; the next one, if the task stands on deck.
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
            # What is left undone somebody does who begins anew: another trigger, or the reaper.
            if self._driving is not None:
                self._driving.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await self._driving
            self._driver = self._driving = None

    def _see(self, record: Record) -> None:
        if self._driving is None and self._is_ours(record):
            self._driving = asyncio.create_task(self._drive())
        is_unwanted = record["fence"] > self.fence or bool(record.get("cancel"))
        if self._driver is not None and is_unwanted:
            self._driver.stop()

    def _is_ours(self, record: Record) -> bool:
        return bool(record["fence"] == self.fence and record.get("platform") == Platform.RUNPOD)

    async def _drive(self) -> None:
        key = TaskKey(submission_id=self.submission_id, task_id=self.touchstone_task_id)
        failures = 0
        while True:
            try:
                desk = await get_desk()
                self._driver = PodDriver(desk, key, self.fence)
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

        def decide(record: Record) -> Record | None:
            if is_rented(find_pod(record, self.fence) or {}):
                # It lives on for no longer than its lease; whoever mends the connection ends it.
                return None
            return close_attempt(record, fence=self.fence, now=datetime.now(UTC), problem=problem)

        try:
            record = await asyncio.to_thread(
                get_records().change_task, self.submission_id, self.touchstone_task_id, decide
            )
        except TouchstoneError as error:
            self.log.warning("%s: %s; trying again", self._name, error)
            return False
        return record["fence"] != self.fence or is_ended(record)

    async def _follow_up(self, record: Record) -> None:
        if self._is_ours(record):
            await self._drive()
