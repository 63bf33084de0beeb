"""Run one attempt: on an on-prem server, in a pod, or wherever there is room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowRescheduleException,
    AirflowSkipException,
)

from touchstone.core.records.tasks import AttemptPlacement
from touchstone.core.retries import Failure, WaitEnd, build_failure, find_settled
from touchstone.core.schedule import Platform
from touchstone.core.sealing import open_note
from touchstone.operators.authority import (
    get_map_index,
    get_run,
    get_submission_of_run,
    get_task_of_instance,
    read_interval,
)
from touchstone.settings import get_settings

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.sdk.types import RuntimeTaskInstanceProtocol

    from touchstone.core.records.tasks import Task
    from touchstone.stores.records import RecordStore
    from touchstone.triggers.agent import AgentTrigger
    from touchstone_agent.protocol.messages import AttemptRef


RESCHEDULE_SECONDS = 10
"""How long a try that was placed nowhere stays away; the dispatcher places it meanwhile."""


class AttemptOperator(BaseOperator):
    """
    Runs one task of a submission as an attempt on a server, deferred while it runs.

    Which server, the dispatcher has decided before this runs. The intent is on record before
    anything is sent, so a death in between leaves a record that says what to look for; a
    retry gets a higher fence, which outranks what was started.

    The task's record says what runs; its own run has written that record for this instance.

    :param interval: (templated) What ``plan`` has left of a training, usually an upstream task's
        output; ``None`` for the validation. All it does is choose among the records of the run.
    """

    template_fields: Sequence[str] = ("interval",)
    ui_color = "#e8f0fe"

    def __init__(self, *, interval: object = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.interval = interval
        self._started: AttemptRef | None = None

    def execute(self, context: Context) -> None:
        """
        Start the attempt where it was placed, or only defer if the task is prestaged.

        :raises AirflowSkipException: If there is nothing to validate.
        :raises AirflowFailException: If the last attempt was the last one there may be, or the run
            has nothing on record for this instance that it may work on.
        :raises AirflowRescheduleException: If this try was placed nowhere: it came here by a
            retry that was faster than the dispatcher, and goes back to wait.
        """
        from touchstone.services.starts import Starter, StartOrder
        from touchstone.stores.records import RecordStore

        settings, ti = get_settings(), context["ti"]
        task = self._get_task(RecordStore.connect(settings), context)
        if self._is_settled(task, ti):
            return
        placement = self._find_placement(context)
        if placement is None:
            self.log.warning("try %s was not placed: it is pending again", ti.try_number)
            again_at = datetime.now(UTC) + timedelta(seconds=RESCHEDULE_SECONDS)
            raise AirflowRescheduleException(again_at)  # type: ignore[no-untyped-call]
        run_id, fence = task.run_id, task.fence + 1
        if placement.is_on_deck or placement.server is None:
            self.log.info("%s stands ready for a slot", task.name)
        else:
            started = Starter.connect(settings).start(
                StartOrder(
                    submission_id=task.submission_id,
                    task_id=task.task_id,
                    run_id=run_id,
                    attempt=ti.try_number,
                    server=placement.server,
                    gpus=placement.gpus or 0,
                    placement=placement,
                    platform=placement.platform or Platform.ON_PREM,
                )
            )
            if started.run_id != run_id:
                raise AirflowFailException(f"{task.name} was taken over by run {started.run_id}")
            self._started = ref = started.ref
            fence = ref.fence
            self.log.info(
                "%s attempt %s (fence %s) goes to %s as %s: %s",
                ref.task_key,
                ref.attempt,
                ref.fence,
                started.newest.server,
                started.newest.container,
                placement.reason,
            )
        trigger = self._find_trigger(placement)
        self.defer(
            trigger=trigger(task.submission_id, task.task_id, fence, run_id),
            method_name="raise_failure",
        )

    def _get_task(self, records: RecordStore, context: Context) -> Task:
        """Return what this instance is to run."""
        run = get_run(context)
        if self.interval is None and get_submission_of_run(records, run).accepted_at:
            raise AirflowSkipException("it was validated before, and accepted")
        if self.interval is not None:
            # Also for the label in the grid: whatever else stands there is none.
            self.interval = read_interval(self.interval)
        return get_task_of_instance(
            records, run, interval=self.interval, map_index=get_map_index(context["ti"])
        )

    def _find_placement(self, context: Context) -> AttemptPlacement | None:
        """Return what the dispatcher has decided for this try; ``None`` if it has not."""
        from touchstone.hooks.agent import AgentHook

        ti = context["ti"]
        note = open_note(
            context["task_state_store"].get("placement"),
            of=ti.id,
            key=AgentHook(settings=get_settings()).placement_key,
        )
        placement = AttemptPlacement.load(note) if note else None
        return placement if placement and placement.try_number == ti.try_number else None

    def _find_trigger(self, placement: AttemptPlacement) -> type[AgentTrigger]:
        """Return what waits for the attempt."""
        from touchstone.triggers.agent import AgentTrigger

        platform = placement.platform or Platform.ON_PREM
        if platform is not Platform.ON_PREM:
            raise AirflowFailException(f"{self.task_id} was placed on {platform}, not on a server")
        return AgentTrigger

    def _is_settled(self, task: Task, ti: RuntimeTaskInstanceProtocol) -> bool:
        """Tell whether the last attempt ended well; raise its failure if no other may follow."""
        end = find_settled(
            task, run_id=str(ti.run_id), attempt=ti.try_number, max_tries=ti.max_tries
        )
        if end is WaitEnd.FAIL:
            raise build_exception(build_failure(task))
        return end is WaitEnd.SUCCEED

    def raise_failure(
        self,
        context: Context,  # noqa: ARG002 - Airflow's signature
        event: dict[str, object] | None = None,
    ) -> None:
        """
        End an attempt that no retry can mend.

        :raises AirflowFailException: Always; its message is the reason.
        """
        told = event or {}
        raise build_exception(
            Failure(
                outcome=_read_text(told, "outcome"),
                failure_class=_read_text(told, "failure_class"),
                reason=_read_text(told, "reason"),
            )
        )

    def on_kill(self) -> None:
        """Cancel what was started, if the task is killed before it is deferred."""
        if self._started is not None:
            cancel_started(self._started)


class PlacedOperator(AttemptOperator):
    """
    Runs one task wherever the dispatcher has placed it: on a server or in a pod.

    Which of the two is known only when it runs, and a task cannot change its operator then: so
    this one is both.

    :param interval: (templated) What to run, as for :class:`AttemptOperator`.
    """

    def _find_trigger(self, placement: AttemptPlacement) -> type[AgentTrigger]:
        # While it is prestaged it is not known yet which of the two it will be.
        platform = placement.platform or Platform.ON_PREM
        if not placement.is_on_deck and platform is Platform.ON_PREM:
            return super()._find_trigger(placement)
        from touchstone.triggers.runpod import RunPodTrigger

        return RunPodTrigger


def _read_text(told: Mapping[str, object], name: str) -> str | None:
    value = told.get(name)
    return None if value is None else str(value)


def cancel_started(ref: AttemptRef) -> None:
    """End an attempt whose Airflow task is killed before it is deferred."""
    from touchstone.hooks.agent import AgentHook, cancel_task
    from touchstone.stores.records import RecordStore

    settings = get_settings()
    cancel_task(
        RecordStore.connect(settings),
        AgentHook(settings=settings),
        submission_id=ref.submission_id,
        task_id=ref.task_id,
        by="airflow",
        reason="its Airflow task was killed while it started",
        only_fence=ref.fence,
    )


def build_exception(failure: Failure) -> AirflowFailException:
    """Return what ends a task that no retry can mend, with its reason as the message."""
    why = failure.reason or failure.failure_class
    return AirflowFailException(f"{failure.outcome}: {why}")
