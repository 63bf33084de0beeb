"""Wait for a program of somebody's own DAG, and tell what it prints."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from airflow.triggers.base import TaskFailedEvent, TaskSuccessEvent, TriggerEvent

from touchstone.core.names import build_output_key
from touchstone.core.program_attempts import close_program
from touchstone.core.records.tasks import Task
from touchstone.core.states import TaskStatus
from touchstone.settings import get_settings
from touchstone.stores.objects import ObjectStore
from touchstone.triggers.agent import AgentTrigger
from touchstone.triggers.console import ConsoleRelay
from touchstone.triggers.runpod import RunPodTrigger
from touchstone.triggers.watch import get_records
from touchstone_agent.protocol.errors import TouchstoneError
from touchstone_agent.protocol.messages import FINAL_PHASES

LOOK_SECONDS: Final = 2.0
"""Between two looks at the console."""
LATE_LOOKS: Final = 15
"""So often the end of a failed program's console is looked for."""


@lru_cache(maxsize=1)
def get_objects() -> ObjectStore:
    """Return this process's one connection to the object store."""
    return ObjectStore.connect(get_settings())


class _ProgramWait:
    """What the two triggers below have in common: around their own wait."""

    def __init__(self, trigger: AgentTrigger) -> None:
        self._trigger = trigger
        self._relay: ConsoleRelay | None = None
        self._following: asyncio.Task[None] | None = None

    async def wait(self, wait: Callable[[], Awaitable[TriggerEvent]]) -> TriggerEvent:
        """Wait for the end as the trigger does, and return the event that ends the task."""
        try:
            event = await wait()
            task = await self._settle(is_good=isinstance(event, TaskSuccessEvent))
        finally:
            await self._stop()
        await self._tell_rest()
        if isinstance(event, TaskSuccessEvent) and task.status is TaskStatus.SUCCESS:
            return TaskSuccessEvent(xcoms={"return_value": _describe(task)})
        newest = task.newest
        self._trigger.log.error("%s: %s", newest.failure_class or newest.outcome, newest.reason)
        # What resumes to raise would need a slot of its server's once more. A try that follows
        # finds on record that there is to be none.
        return TaskFailedEvent()

    def observe(self, task: Task) -> None:
        """Begin to follow the console as soon as there is an attempt."""
        if self._following is None and task.has_attempt and task.fence == self._trigger.fence:
            self._relay = ConsoleRelay(
                get_objects(),
                get_settings().logs_bucket,
                task.ref,
                lambda line: self._trigger.log.info("%s", line),
            )
            self._following = asyncio.create_task(self._follow(self._relay))

    async def _follow(self, relay: ConsoleRelay) -> None:
        while True:
            try:
                await relay.relay()
            except Exception:
                # A log that cannot be told must not end what it is of.
                self._trigger.log.exception("the console cannot be read just now")
            await asyncio.sleep(LOOK_SECONDS)

    async def _stop(self) -> None:
        if self._following is not None:
            self._following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._following
        self._following = None

    async def _tell_rest(self) -> None:
        if self._relay is not None:
            with contextlib.suppress(TouchstoneError):
                await self._relay.relay()
            self._relay.finish()

    async def _settle(self, *, is_good: bool) -> Task:
        """
        Wait until all that an attempt has left is stored, and put on record that it is.

        Of one that has failed only its console is of use; it is waited for as long as it may take.
        """
        looks = 0
        while True:
            task = await asyncio.to_thread(self._trigger.read)
            if task.fence != self._trigger.fence:
                return task
            if is_good and task.status is TaskStatus.UPLOADING:
                if task.newest.uploaded_at is not None:
                    task = await asyncio.to_thread(self._close)
            elif is_good or _is_told(task) or looks >= LATE_LOOKS:
                return task
            looks += 1
            await asyncio.sleep(LOOK_SECONDS / 2)

    def _close(self) -> Task:
        trigger = self._trigger
        return get_records().change_task(
            trigger.submission_id,
            trigger.touchstone_task_id,
            lambda found: close_program(found, fence=trigger.fence, now=datetime.now(UTC)),
        )


class _ProgramTrigger(AgentTrigger):
    """
    A trigger that waits for a program until its files are stored, and logs its console meanwhile.

    :param submission_id: The DAG run, which takes the place of a submission.
    :param touchstone_task_id: The task within it.
    :param fence: The attempt that is waited for.
    :param run_id: The DAG run's own id.
    """

    def __init__(
        self, submission_id: str, touchstone_task_id: str, fence: int, run_id: str
    ) -> None:
        super().__init__(submission_id, touchstone_task_id, fence, run_id)
        self._program = _ProgramWait(self)

    async def _wait(self) -> TriggerEvent:
        return await self._program.wait(super()._wait)

    def _observe(self, task: Task) -> None:
        super()._observe(task)
        self._program.observe(task)


class AgentProgramTrigger(_ProgramTrigger):
    """Waits for a program on a server; takes the same as its base."""


class RunPodProgramTrigger(_ProgramTrigger, RunPodTrigger):
    """Waits for a program in a pod, and drives the pod; takes the same as its bases."""


def _is_told(task: Task) -> bool:
    """Tell whether nothing is added to the console of an attempt that has failed."""
    newest = task.newest
    return newest.pod is not None or newest.phase is None or newest.phase in FINAL_PHASES


def _describe(task: Task) -> dict[str, str | int | None]:
    """Return what downstream tasks get: where its files are, where it ran, and what that cost."""
    newest = task.newest
    folder = build_output_key(task.ref, "x").removesuffix("x")
    pod = newest.pod
    return {
        "outputs": f"s3://{get_settings().content_bucket}/{folder}",
        "server": newest.server,
        "exit_code": newest.exit_code,
        "usd": None if pod is None or pod.usd is None else str(pod.usd),
    }
