"""The steps of a run that touch records only: register, accept, plan, evaluate."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from touchstone.core.actions import note_action
from touchstone.core.attempts import cut, is_ended
from touchstone.core.conf import CONF_KEYS, MAX_RUNS, RunConf, Schedule, build_conf, parse_conf
from touchstone.core.names import VALIDATION_TASK_ID, build_content_key, find_submission_of_run
from touchstone.core.outcomes import Outcome
from touchstone.core.results import judge_submission, split_results
from touchstone.core.states import (
    SCHEDULABLE,
    IllegalMove,
    SubmissionStatus,
    TaskStatus,
    check_submission_move,
)
from touchstone.core.tasks import (
    Checkout,
    TaskSpec,
    build_training_specs,
    build_validation_spec,
)
from touchstone.operators.checks import (
    check_baseline,
    check_placeable,
    check_user,
    fetch_branch,
    may_schedule,
)
from touchstone.settings import get_settings
from touchstone_agent.protocol.errors import ConfigurationError, PermanentError
from touchstone_agent.protocol.messages import Limits

if TYPE_CHECKING:
    from airflow.sdk import Context

    from touchstone.hooks.git import Content
    from touchstone.hooks.records import Record, RecordStore


VALIDATION_KEY = "validation"
"""XCom key of the validation's spec."""


def _now() -> str:
    return datetime.now(UTC).isoformat()


def _connect() -> RecordStore:
    # Connecting imports boto3, which DAG parsing must not pay for.
    from touchstone.hooks.records import RecordStore

    return RecordStore.connect(get_settings())


def _move(record: Record, status: SubmissionStatus, **fields: Any) -> Record:
    check_submission_move(record["submission_id"], SubmissionStatus(record["status"]), status)
    return {"status": status.value, **fields}


class RegisterOperator(BaseOperator):
    """
    Checks a run's conf, fetches the source, and writes the submission's record.

    A new submission gets its content packed and stored under its digest. An accepted one is
    given the run's schedule. What is wrong is refused with the field's name, before any
    container starts.

    :return: (XCom) The submission's id; under :data:`VALIDATION_KEY` what ``validate`` has to
        run, which is nothing if the submission was accepted before.
    """

    def execute(self, context: Context) -> str:
        """
        Register the run.

        :raises AirflowFailException: If the conf or the source is refused.
        """
        from touchstone.hooks.starts import prepare_task

        run: Any = context["dag_run"]
        sent, params = dict(run.conf or {}), dict(context["params"])
        # Params hold the defaults and drop nothing; keys no param knows are only in the conf.
        values = {key: params.get(key) for key in CONF_KEYS} | sent
        user = getattr(run, "triggering_user_name", None) or "unknown"
        records = _connect()
        submission_id = str(values.get("submission_id") or find_submission_of_run(run.run_id))
        try:
            conf = parse_conf(values)
            check_user(user)
            check_baseline(records, conf, user)
            check_placeable(records, conf, user)
            if conf.submission_id is None:
                self._register(records, conf, submission_id, run.run_id, user)
            else:
                self._schedule(records, conf, run.run_id, user)
        except PermanentError as error:
            if not values.get("submission_id"):
                self._refuse(records, submission_id, run.run_id, user, str(cut(str(error))))
            raise AirflowFailException(f"refused: {error}") from error
        spec = find_validation(records.get_submission(submission_id))
        if spec:
            # On record before it waits: the dispatcher places by what is there.
            prepare_task(
                records,
                TaskSpec.model_validate(spec),
                run_id=str(run.run_id),
                map_index=-1,
                now=datetime.now(UTC),
                is_new=True,
            )
        context["ti"].xcom_push(key=VALIDATION_KEY, value=spec)
        return submission_id

    def on_kill(self) -> None:
        """End what is being fetched or unpacked, git's own helpers included."""
        from touchstone.hooks.confined.running import end_all

        end_all()

    def _register(
        self, records: RecordStore, conf: RunConf, submission_id: str, run_id: str, user: str
    ) -> None:
        from touchstone.hooks.records import RecordExists

        source = conf.source
        assert source is not None  # noqa: S101 - parse_conf gives exactly one of the two
        record = {
            "submission_id": submission_id,
            "system": source.system.value,
            "status": SubmissionStatus.SUBMITTED.value,
            "submitted_by": user,
            "created_at": _now(),
            "notes": conf.notes,
            "run_ids": [run_id],
            "conf": build_conf(conf),
            "source_url": source.url,
            "source_ref": source.ref,
            "source_path": source.path,
            "model_group_id": submission_id,
            "baseline": conf.schedule.baseline if conf.schedule else None,
            "results": [],
            **note_action({}, at=datetime.now(UTC), by=user, action="submitted"),
        }
        try:
            records.create_submission(record)
        except RecordExists:
            found = records.get_submission(submission_id)
            if run_id not in found["run_ids"]:
                raise ConfigurationError(
                    f"run_id: submission {submission_id} exists already; choose another run id"
                ) from None
        found = records.get_submission(submission_id)
        schedule = _plan_schedule(found, conf.schedule, run_id, user) if conf.schedule else {}
        content = _find_content(found) or self._take_content(conf)

        def decide(found: Record) -> Record:
            if found.get("accepted_at"):
                # What was accepted stays what it was, wherever its branch has gone since.
                return {"cancel": None, **schedule}
            fields = {**content, "reason": None, "cancel": None, **schedule}
            return _move(found, SubmissionStatus.VALIDATING, **fields)

        records.change_submission(submission_id, decide)
        self.log.info(
            "submission %s: %s content %s (%s bytes), commit %s",
            submission_id,
            source.system,
            content["content_sha256"],
            content["content_size"],
            content["commit"],
        )
        for remark in content["remarks"]:
            self.log.warning("submission %s: %s", submission_id, remark)

    def _take_content(self, conf: RunConf) -> Record:
        """Fetch and store the content, and return what is on record of it."""
        content = self._fetch(conf)
        _store(content)
        return {
            "commit": content.commit,
            "content_sha256": content.sha256,
            "content_size": len(content.archive),
            "remarks": list(content.remarks),
        }

    def _fetch(self, conf: RunConf) -> Content:
        from touchstone.hooks.confined.archives import repack
        from touchstone.hooks.git import Content, GitSource, find_credentials
        from touchstone.hooks.objects import ObjectNotFound, ObjectStore

        settings, source = get_settings(), conf.source
        assert source is not None  # noqa: S101
        if source.upload_sha256 is None:
            git = GitSource(
                hosts=settings.git_hosts,
                allow_local=settings.allow_local_sources,
                max_bytes=settings.content_bytes,
                credentials=find_credentials(settings.git_conn_id),
            )
            return git.fetch(source.url, source.ref, source.path)
        key = build_content_key(source.upload_sha256)
        try:
            uploaded = ObjectStore.connect(settings).get(
                settings.content_bucket, key, sha256=source.upload_sha256
            )
        except ObjectNotFound as error:
            raise ConfigurationError(f"source: nothing was uploaded as {source.url}") from error
        if source.ref is not None:
            raise ConfigurationError("ref: an uploaded archive has no refs")
        archive = repack(uploaded, "source", path=source.path, max_bytes=settings.content_bytes)
        return Content(archive=archive, commit=None)

    def _schedule(self, records: RecordStore, conf: RunConf, run_id: str, user: str) -> None:
        assert conf.submission_id is not None  # noqa: S101 - parse_conf sees to both
        assert conf.schedule is not None  # noqa: S101
        planned = _plan_schedule(
            records.get_submission(conf.submission_id), conf.schedule, run_id, user
        )

        def decide(found: Record) -> Record:
            if not may_schedule(found, user):
                raise ConfigurationError(f"submission_id: there is no {conf.submission_id!r}")
            status = SubmissionStatus(found["status"])
            is_again = run_id in found["run_ids"]
            if not is_again and (status not in SCHEDULABLE or not found.get("accepted_at")):
                raise ConfigurationError(
                    f"submission_id: {conf.submission_id} is {status}"
                    + ("" if found.get("accepted_at") else " and was never accepted")
                    + "; only an accepted submission without a run at work can be scheduled"
                )
            if not is_again and len(found["run_ids"]) >= MAX_RUNS:
                raise ConfigurationError(
                    f"submission_id: {conf.submission_id} has had {MAX_RUNS} runs, which is all "
                    "that one may have; submit it anew"
                )
            fields = {
                "run_ids": list(dict.fromkeys([*found["run_ids"], run_id])),
                "cancel": None,
                "reason": None,
                **planned,
                **note_action(
                    found, at=datetime.now(UTC), by=user, action=f"scheduled as {run_id}"
                ),
            }
            return _move(found, SubmissionStatus.QUEUED, **fields)

        records.change_submission(conf.submission_id, decide)

    def _refuse(
        self, records: RecordStore, submission_id: str, run_id: str, user: str, reason: str
    ) -> None:
        """Leave a record of a refused run, so that it can be found where people look."""
        from touchstone.hooks.records import RecordExists

        record = {
            "submission_id": submission_id,
            "status": SubmissionStatus.REJECTED.value,
            "submitted_by": user,
            "created_at": _now(),
            "ended_at": _now(),
            "run_ids": [run_id],
            "reason": reason,
            "model_group_id": submission_id,
            "results": [],
            "actions": [],
        }
        try:
            records.create_submission(record)
        except RecordExists:

            def decide(found: Record) -> Record | None:
                if run_id not in found["run_ids"] or found.get("accepted_at"):
                    return None
                return _move(found, SubmissionStatus.REJECTED, reason=reason, ended_at=_now())

            with contextlib.suppress(IllegalMove):
                records.change_submission(submission_id, decide)


def _find_content(found: Record) -> Record | None:
    """
    Return what the submission's ref was resolved to; ``None`` if that is to be done (again).

    A step that is repeated takes what it took before. Only what was refused is looked at anew: its
    author has mended it, and cleared the step.
    """
    is_settled = found.get("accepted_at") or found["status"] == SubmissionStatus.VALIDATING
    if not is_settled or not found.get("content_sha256"):
        return None
    keys = ("commit", "content_sha256", "content_size")
    return {key: found.get(key) for key in keys} | {"remarks": found.get("remarks") or []}


def _plan_schedule(found: Record, schedule: Schedule, run_id: str, user: str) -> Record:
    """
    Return the fields of a submission that its schedule decides.

    A branch of el-nigma is resolved and stored here, once per run: what was looked at is what
    runs, however often a step is repeated.

    :raises ConfigurationError: If the branch cannot be had.
    """
    elnigma = found.get("elnigma") or {}
    if (elnigma.get("branch"), elnigma.get("run_id")) != (schedule.branch, run_id):
        checkout = _store_branch(schedule)
        elnigma = checkout and {
            **checkout.model_dump(mode="json"),
            "branch": schedule.branch,
            "run_id": run_id,
        }
    return {
        "schedule": schedule.model_dump(mode="json"),
        "elnigma": elnigma or None,
        "scheduled_by": user,
        "queued_at": _now(),
        "tasks": [],
        "ended_at": None,
        "score": None,
        "verdict": None,
        "verdict_reason": None,
        "results": [],
        "results_part": None,
        "chart_links": [],
    }


def find_validation(submission: Record) -> dict[str, Any]:
    """Return the spec of a submission's validation; an empty one if it was accepted before."""
    if submission.get("accepted_at"):
        return {}
    return _build_validation(submission).model_dump(mode="json")


def _build_validation(submission: Record) -> TaskSpec:
    settings = get_settings()
    return build_validation_spec(
        submission["submission_id"],
        system=submission["system"],
        image=settings.trainer_image,
        content_sha256=submission["content_sha256"],
        content_size=submission["content_size"],
        limits=Limits(
            memory_mib=settings.validation_memory_mib,
            wall_seconds=settings.validation_wall_seconds,
            cpu_seconds=settings.validation_cpu_seconds,
            pids=128,
            console_bytes=settings.console_bytes,
            output_bytes=64 * 1024**2,
        ),
        submitted_by=submission["submitted_by"],
    )


def accept_submission(submission_id: str) -> bool:
    """
    Accept or reject a submission by its validation's record.

    :return: Whether there is a schedule, so that the run goes on.
    :raises AirflowFailException: If it is rejected, with the first line of why.
    """
    records = _connect()
    submission = records.get_submission(submission_id)
    if not submission.get("accepted_at"):
        task = records.get_task(submission_id, VALIDATION_TASK_ID)
        is_accepted = task.get("outcome") == Outcome.SUCCEEDED
        reason = None if is_accepted else task.get("reason") or "the validation has no verdict"

        def decide(found: Record) -> Record:
            if not is_accepted:
                return _move(found, SubmissionStatus.REJECTED, reason=reason, ended_at=_now())
            status = SubmissionStatus.QUEUED if found.get("schedule") else SubmissionStatus.ACCEPTED
            return _move(found, status, accepted_at=_now(), reason=None)

        submission = records.change_submission(submission_id, decide)
        if not is_accepted:
            raise AirflowFailException(f"rejected: {reason}")
    return submission.get("schedule") is not None


class PlanOperator(BaseOperator):
    """
    Turns a submission's schedule into one training per prediction interval.

    :param submission_id: (templated) The submission.
    :return: (XCom) A list of task specs, to be expanded over.
    """

    template_fields: Sequence[str] = ("submission_id",)

    def __init__(self, *, submission_id: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.submission_id = submission_id

    def execute(self, context: Context) -> list[dict[str, Any]]:
        """Write the tasks' records, move the submission to ``queued``, return the specs."""
        from touchstone.hooks.agent import AgentHook, cancel_tasks
        from touchstone.hooks.starts import prepare_task

        records, settings = _connect(), get_settings()
        submission = records.get_submission(self.submission_id)
        schedule = Schedule.model_validate(submission["schedule"])
        specs = build_training_specs(
            _build_validation(submission),
            schedule,
            limits=Limits(
                cpus=settings.training_cpus,
                memory_mib=settings.training_memory_mib,
                wall_seconds=settings.training_wall_seconds,
                console_bytes=settings.console_bytes,
            ),
            elnigma=_find_checkout(submission, schedule),
        )
        run_id = str(context["ti"].run_id)
        check_submission_move(
            self.submission_id,
            SubmissionStatus(submission["status"]),
            SubmissionStatus.QUEUED,
        )
        # Cleared while its trainings run: their records are taken over, so they must end first.
        cancel_tasks(records, AgentHook(settings=settings), self.submission_id)
        for index, spec in enumerate(specs):
            prepare_task(
                records, spec, run_id=run_id, map_index=index, now=datetime.now(UTC), is_new=True
            )
        records.change_submission(
            self.submission_id,
            lambda found: _move(found, SubmissionStatus.QUEUED, tasks=[s.task_id for s in specs]),
        )
        return [spec.model_dump(mode="json") for spec in specs]


def _store(content: Content) -> None:
    from touchstone.hooks.objects import ObjectStore

    settings = get_settings()
    ObjectStore.connect(settings).put_new(
        settings.content_bucket,
        build_content_key(content.sha256),
        content.archive,
        content_type="application/gzip",
    )


def _find_checkout(submission: Record, schedule: Schedule) -> Checkout | None:
    if submission.get("elnigma"):
        return Checkout.model_validate(submission["elnigma"])
    # Only one that the version before has registered still has to be resolved.
    return _store_branch(schedule)


def _store_branch(schedule: Schedule) -> Checkout | None:
    content = fetch_branch(get_settings(), schedule)
    if content is None:
        return None
    _store(content)
    return Checkout(commit=str(content.commit), sha256=content.sha256, size=len(content.archive))


def evaluate_submission(submission_id: str | None, closing_run_id: str) -> None:
    """
    Close a scheduled submission: aggregate its model group, or say why there is nothing to.

    :param submission_id: What ``register`` returned; ``None`` if it refused the run, which has
        then touched no submission but the one it was to bring.
    :param closing_run_id: The run that closes it; another run's tasks are none of its business.
    :raises AirflowFailException: If it did not succeed, with the reason.
    """
    if submission_id is None:
        raise AirflowFailException("the run was refused: see the task 'register'")
    records = _connect()
    submission = records.get_submission(submission_id)
    if submission.get("accepted_at") is None:
        # Validation ended without a verdict, or nobody accepted: there is nothing to aggregate.
        validation = records.find_task(submission_id, VALIDATION_TASK_ID) or {}
        closed = records.change_submission(
            submission_id, lambda found: _close_unvalidated(found, validation)
        )
        raise AirflowFailException(f"{closed['status']}: {closed.get('reason')}")
    tasks = [
        _end_abandoned(records, task)
        for task in records.list_tasks(submission_id)
        if task["task_id"] in (submission.get("tasks") or []) and task["run_id"] == closing_run_id
    ]
    fields = _judge(submission_id, tasks)
    status = SubmissionStatus(fields.pop("status"))
    closed = records.change_submission(
        submission_id, lambda found: _move(found, status, ended_at=_now(), **fields)
    )
    if status is not SubmissionStatus.SUCCESS:
        raise AirflowFailException(f"{status}: {closed.get('reason')}")


def _judge(submission_id: str, tasks: Sequence[Record]) -> Record:
    """Return what the trainings came to; what is too large for the record is stored beside it."""
    from touchstone.hooks.parts import Parts, read_published

    parts = Parts.connect(get_settings())
    full = [{**task, "published": read_published(task, parts)} for task in tasks]
    fields, document = split_results(judge_submission(full))
    return fields | {"results_part": parts.put(f"results/{submission_id}/", document)}


def _end_abandoned(records: RecordStore, task: Record) -> Record:
    """
    Cancel an attempt that goes on although its Airflow task is over, and return its record.

    Only a hand does that: somebody marked the task, and the trigger that ends the attempt has
    not been told yet. Every other end is on record before Airflow knows of it.
    """
    if is_ended(task) or task["status"] == TaskStatus.UPLOADING:
        return task
    from touchstone.hooks.agent import AgentHook, cancel_task

    return cancel_task(
        records,
        AgentHook(),
        submission_id=task["submission_id"],
        task_id=task["task_id"],
        by="airflow",
        reason="its Airflow task was marked or has ended",
        only_fence=task["fence"],
    )


def _close_unvalidated(found: Record, validation: Record) -> Record | None:
    if found["status"] in {SubmissionStatus.REJECTED, SubmissionStatus.CANCELLED}:
        return None
    is_cancelled = validation.get("outcome") == Outcome.CANCELLED
    return _move(
        found,
        SubmissionStatus.CANCELLED if is_cancelled else SubmissionStatus.ERROR,
        reason=validation.get("reason") or "the validation ended without a verdict",
        ended_at=_now(),
    )
