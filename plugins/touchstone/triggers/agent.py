"""Waits for an attempt on an on-prem server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict
from functools import lru_cache

from airflow.triggers.base import BaseTrigger, TaskFailedEvent, TaskSuccessEvent, TriggerEvent
from asgiref.sync import sync_to_async

from touchstone.core.records.tasks import Task
from touchstone.core.retries import WaitEnd, build_failure, find_end
from touchstone.core.states import TaskStatus
from touchstone.hooks.agent import AgentHook, cancel_task
from touchstone.triggers.watch import get_records, get_watcher
from touchstone_agent.core.backoff import Backoff

BACKOFF = Backoff(first_seconds=2, cap_seconds=15)

_kills: set[asyncio.Future[None]] = set()
"""Kills under way; the loop itself keeps only weak references to them."""


@lru_cache(maxsize=1)
def get_agent() -> AgentHook:
    """Return this process's one connection to agents."""
    return AgentHook()


class AgentTrigger(BaseTrigger):
    """
    Waits until an attempt has ended, and ends the task itself where it can.

    Success and what another attempt may mend end from here, because a task that resumes on a
    worker needs a slot of its pool, which may be drained by then. Only what must not be retried
    resumes, to raise.

    :param submission_id: The submission.
    :param task_id: The task within it.
    :param fence: The attempt that is waited for; the next one, if the task is prestaged.
    :param run_id: The DAG run that waits.
    """

    def __init__(
        self, submission_id: str, touchstone_task_id: str, fence: int, run_id: str
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.submission_id = submission_id
        self.touchstone_task_id = touchstone_task_id
        self.fence = fence
        self.run_id = run_id

    def serialize(self) -> tuple[str, dict[str, object]]:
        """Return the class path and everything the constructor takes."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "submission_id": self.submission_id,
                "touchstone_task_id": self.touchstone_task_id,
                "fence": self.fence,
                "run_id": self.run_id,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield exactly one event, when the attempt has ended; never raise."""
        failures = 0
        while True:
            try:
                event = await self._wait()
                break
            except Exception:
                # Raising would resume the task, or fail it, while its container is well.
                self.log.exception("waiting for %s failed, trying again", self._name)
            failures += 1
            await asyncio.sleep(BACKOFF.after(failures))
        yield event

    async def _wait(self) -> TriggerEvent:
        watcher = await get_watcher()
        told: tuple[object, ...] = ()
        async for task in watcher.changes((self.submission_id, self.touchstone_task_id)):
            now = (task.status, task.newest.phase, task.newest.progress_phase)
            if now != told:
                told = now
                self._report(task)
            self._observe(task)
            end = find_end(task, fence=self.fence, run_id=self.run_id)
            if end is not None:
                return build_event(end, task)
        raise RuntimeError("the watcher ended")  # pragma: no cover - it never does

    def _observe(self, task: Task) -> None:
        """Act on what has changed; waiting itself needs nothing done."""

    def _report(self, task: Task) -> None:
        newest = task.newest
        if task.fence < self.fence:
            self.log.info("%s is ready, and waits for a slot", self._name)
            return
        self.log.info(
            "%s attempt %s (fence %s) on %s: %s, %s %s %%",
            self._name,
            newest.number,
            task.fence,
            newest.server,
            task.status,
            newest.progress_phase or newest.phase or "waiting for the agent",
            newest.percent,
        )

    async def on_kill(self) -> None:
        """Cancel the attempt, unless Airflow is wrong about the kill."""
        kill = asyncio.ensure_future(self._kill())
        _kills.add(kill)
        kill.add_done_callback(_kills.discard)
        # Airflow cancels this coroutine again after about a second; the kill itself goes on.
        await asyncio.shield(kill)

    async def _kill(self) -> None:
        if await self._is_still_deferred():
            self.log.warning("%s is still deferred: not killed by anybody, ignored", self._name)
            return
        task = await asyncio.to_thread(self._cancel)
        self.log.info("cancel of %s is on record: %s", self._name, task.status)
        await self._follow_up(task)

    async def _follow_up(self, task: Task) -> None:
        """Do what the cancel request alone does not; on a server the agent does all of it."""

    async def _is_still_deferred(self) -> bool:
        """A triggerer that was stopped for a while sees kills that never happened."""
        ti = self.task_instance
        if ti is None:
            return False
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

        states = await sync_to_async(RuntimeTaskInstance.get_task_states)(
            dag_id=ti.dag_id,
            task_ids=[ti.task_id],
            run_ids=[ti.run_id],
            map_index=ti.map_index,
        )
        found = [str(state) for state in (states.get(ti.run_id) or {}).values()]
        task = await asyncio.to_thread(self.read)
        return found == ["deferred"] and task.fence <= self.fence

    def read(self) -> Task:
        """Return the task as it is."""
        return get_records().get_task(self.submission_id, self.touchstone_task_id)

    def _cancel(self) -> Task:
        return cancel_task(
            get_records(),
            get_agent(),
            submission_id=self.submission_id,
            task_id=self.touchstone_task_id,
            by="airflow",
            reason="its Airflow task was marked or cleared",
            only_fence=self.fence,
        )

    @property
    def _name(self) -> str:
        return f"{self.submission_id}/{self.touchstone_task_id}"


def build_event(end: WaitEnd, task: Task) -> TriggerEvent:
    """
    Return the one event that ends a wait.

    :param end: How it ends.
    :param task: The task as it ended.
    """
    if end is WaitEnd.SUCCEED:
        return TaskSuccessEvent(xcoms={"return_value": task.task_id})
    if end is WaitEnd.RETRY:
        return TaskFailedEvent()
    return TriggerEvent(asdict(build_failure(task)))  # type: ignore[no-untyped-call]


class UploadTrigger(BaseTrigger):
    """
    Waits until the files of an attempt that ended well are uploaded.

    :param submission_id: The submission.
    :param touchstone_task_id: The task within it.
    :param fence: The attempt.
    """

    def __init__(self, submission_id: str, touchstone_task_id: str, fence: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.submission_id = submission_id
        self.touchstone_task_id = touchstone_task_id
        self.fence = fence

    def serialize(self) -> tuple[str, dict[str, object]]:
        """Return the class path and everything the constructor takes."""
        return (
            "touchstone.triggers.agent.UploadTrigger",
            {
                "submission_id": self.submission_id,
                "touchstone_task_id": self.touchstone_task_id,
                "fence": self.fence,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield one event, when the files are there or never will be; the task then looks."""
        failures = 0
        while True:
            try:
                await self._wait()
                break
            except Exception:
                self.log.exception("waiting for uploads failed, trying again")
            failures += 1
            await asyncio.sleep(BACKOFF.after(failures))
        yield TriggerEvent({"fence": self.fence})  # type: ignore[no-untyped-call]

    async def _wait(self) -> None:
        watcher = await get_watcher()
        async for task in watcher.changes((self.submission_id, self.touchstone_task_id)):
            if task.fence != self.fence or task.newest.uploaded_at:
                return
            if task.status not in {TaskStatus.UPLOADING, TaskStatus.SUCCESS}:
                return
