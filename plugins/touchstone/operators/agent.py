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

from touchstone.core.attempts import WaitEnd, build_failure, find_settled, get_ref
from touchstone.core.conf import Platform
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

    from touchstone.hooks.records import Record, RecordStore
    from touchstone.triggers.agent import AgentTrigger
    from touchstone_agent.protocol.messages import AttemptRef


RESCHEDULE_SECONDS = 10
"""How long a try that was placed nowhere stays away; the dispatcher places it meanwhile."""


class AgentOperator(BaseOperator):
    """
    Runs one task of a submission as an attempt on a server, deferred while it runs.

    Which server, the dispatcher has decided before this runs. The intent is on record before
    anything is sent, so whoever dies in between leaves a record that says what to look for; a
    retry gets a higher fence, which outranks what was started.

    What is run is on record: the record that its own run has written for this very instance.

    :param interval: (templated) Prediction interval, usually an upstream task's output; ``None``
        for the validation. All it does is choose among the records of the run.
    """

    template_fields: Sequence[str] = ("interval",)
    ui_color = "#e8f0fe"

    def __init__(self, *, interval: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.interval = interval
        self._started: AttemptRef | None = None

    def execute(self, context: Context) -> None:
        """
        Start the attempt where it was placed, or stand ready on deck; defer.

        :raises AirflowSkipException: If there is nothing to validate.
        :raises AirflowFailException: If the last attempt was the last one there may be, or the run
            has nothing on record for this instance that it may work on.
        :raises AirflowRescheduleException: If this try was placed nowhere: it came here by a
            retry that was faster than the dispatcher, and goes back to wait.
        """
        from touchstone.hooks.records import RecordStore
        from touchstone.hooks.starts import Starter, StartOrder

        settings, ti = get_settings(), context["ti"]
        record = self._get_record(RecordStore.connect(settings), context)
        if self._is_settled(record, ti):
            return
        placement = self._find_placement(context)
        if placement is None:
            self.log.warning("try %s was placed nowhere: back to the waiting room", ti.try_number)
            again_at = datetime.now(UTC) + timedelta(seconds=RESCHEDULE_SECONDS)
            raise AirflowRescheduleException(again_at)  # type: ignore[no-untyped-call]
        submission_id, task_id = str(record["submission_id"]), str(record["task_id"])
        run_id = str(record["run_id"])
        if placement["is_on_deck"]:
            fence = int(record["fence"]) + 1
            self.log.info("%s/%s stands ready for a slot", submission_id, task_id)
        else:
            record = Starter.connect(settings).start(
                StartOrder(
                    submission_id=submission_id,
                    task_id=task_id,
                    run_id=run_id,
                    attempt=ti.try_number,
                    server=placement["server"],
                    gpus=placement["gpus"],
                    placement=placement,
                    platform=_find_platform(placement),
                )
            )
            if record["run_id"] != run_id:
                raise AirflowFailException(
                    f"{submission_id}/{task_id} was taken over by run {record['run_id']}"
                )
            self._started = ref = get_ref(record)
            fence = ref.fence
            self.log.info(
                "%s attempt %s (fence %s) goes to %s as %s: %s",
                ref.task_key,
                ref.attempt,
                ref.fence,
                record["server"],
                record["container"],
                placement["reason"],
            )
        trigger = self._find_trigger(placement)
        self.defer(
            trigger=trigger(submission_id, task_id, fence, run_id),
            method_name="raise_failure",
        )

    def _get_record(self, records: RecordStore, context: Context) -> Record:
        """Return what this instance is to run."""
        run = get_run(context)
        if self.interval is None and get_submission_of_run(records, run).get("accepted_at"):
            raise AirflowSkipException("it was validated before, and accepted")
        if self.interval is not None:
            # Also for the label in the grid: whatever else stands there is none.
            self.interval = read_interval(self.interval)
        return get_task_of_instance(
            records, run, interval=self.interval, map_index=get_map_index(context["ti"])
        )

    def _find_placement(self, context: Context) -> dict[str, Any] | None:
        """Return what the dispatcher has decided for this try; ``None`` if it has not."""
        from touchstone.hooks.agent import AgentHook

        ti: Any = context["ti"]
        placement = open_note(
            context["task_state_store"].get("placement"),
            of=ti.id,
            key=AgentHook(settings=get_settings()).placement_key,
        )
        return placement if placement and placement["try"] == ti.try_number else None

    def _find_trigger(self, placement: Mapping[str, Any]) -> type[AgentTrigger]:
        """Return what waits for the attempt."""
        from touchstone.triggers.agent import AgentTrigger

        platform = _find_platform(placement)
        if platform is not Platform.ON_PREM:
            raise AirflowFailException(f"{self.task_id} was placed on {platform}, not on a server")
        return AgentTrigger

    def _is_settled(self, record: Record, ti: Any) -> bool:
        """Tell whether the last attempt ended well; raise its failure if no other may follow."""
        end = find_settled(
            record, run_id=str(ti.run_id), attempt=ti.try_number, max_tries=ti.max_tries
        )
        if end is WaitEnd.FAIL:
            raise build_exception(build_failure(record))
        return end is WaitEnd.SUCCEED

    def raise_failure(
        self,
        context: Context,  # noqa: ARG002 - Airflow's signature
        event: dict[str, Any] | None = None,
    ) -> None:
        """
        End an attempt that no retry can mend.

        :raises AirflowFailException: Always; its message is the reason.
        """
        raise build_exception(event or {})

    def on_kill(self) -> None:
        """Cancel what was started, if the task is killed before it is deferred."""
        if self._started is None:
            return
        from touchstone.hooks.agent import AgentHook, cancel_task
        from touchstone.hooks.records import RecordStore

        settings = get_settings()
        cancel_task(
            RecordStore.connect(settings),
            AgentHook(settings=settings),
            submission_id=self._started.submission_id,
            task_id=self._started.task_id,
            by="airflow",
            reason="its Airflow task was killed while it started",
            only_fence=self._started.fence,
        )


class RunPodOperator(AgentOperator):
    """
    Runs one task of a submission in a pod of its own, deferred while it runs.

    Nothing is rented here: this writes the wish on record, and its trigger does the rest, so that
    a worker's end costs nothing and no worker waits for a boot.

    :param interval: (templated) What to run, as for :class:`AgentOperator`.
    """

    def _find_trigger(self, placement: Mapping[str, Any]) -> type[AgentTrigger]:
        from touchstone.triggers.runpod import RunPodTrigger

        platform = _find_platform(placement)
        if platform is not Platform.RUNPOD:
            raise AirflowFailException(f"{self.task_id} was placed on {platform}, not on RunPod")
        return RunPodTrigger


class PlacedOperator(AgentOperator):
    """
    Runs one task wherever the dispatcher has placed it: on a server or in a pod.

    Which of the two is known only when it runs, and a task cannot change its operator then: so
    this one is both.

    :param interval: (templated) What to run, as for :class:`AgentOperator`.
    """

    def _find_trigger(self, placement: Mapping[str, Any]) -> type[AgentTrigger]:
        # On deck it is not known yet which of the two it will be.
        if not placement["is_on_deck"] and _find_platform(placement) is Platform.ON_PREM:
            return super()._find_trigger(placement)
        from touchstone.triggers.runpod import RunPodTrigger

        return RunPodTrigger


def _find_platform(placement: Mapping[str, Any]) -> Platform:
    return Platform(placement.get("platform") or Platform.ON_PREM)


def build_exception(failure: Mapping[str, Any]) -> AirflowFailException:
    """Return what ends a task that no retry can mend, with its reason as the message."""
    why = failure.get("reason") or failure.get("failure_class")
    return AirflowFailException(f"{failure.get('outcome')}: {why}")
