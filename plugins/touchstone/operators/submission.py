"""The steps of a run that touch records only: register, accept, plan, evaluate."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from touchstone.core.actions import note_action
from touchstone.core.attempts import cut, is_ended
from touchstone.core.authority import Run
from touchstone.core.conf import (
    CONF_KEYS,
    RunConf,
    Schedule,
    build_conf,
    parse_conf,
)
from touchstone.core.names import (
    VALIDATION_TASK_ID,
    build_content_key,
    find_submission_of_run,
)
from touchstone.core.outcomes import Outcome
from touchstone.core.results import judge_submission, split_results
from touchstone.core.states import (
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
from touchstone.operators.authority import (
    change_submission_of_run,
    get_run,
    get_submission_of_run,
)
from touchstone.operators.checks import (
    check_baseline,
    check_branch,
    check_placeable,
    check_user,
    fetch_branch,
    may_schedule,
)
from touchstone.operators.claims import (
    NotItsOwn,
    check_content,
    check_run_id,
    check_schedulable,
    check_taken,
    describe_source,
    take_up,
)
from touchstone.settings import get_settings
from touchstone_agent.protocol.errors import ConfigurationError, PermanentError
from touchstone_agent.protocol.messages import Limits

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from airflow.sdk import Context

    from touchstone.hooks.git import Content
    from touchstone.hooks.records import Record, RecordStore


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
    Checks a run's conf and authority, fetches the source, and writes the submission's record.

    A new submission gets its content packed and stored under its digest, and its validation put on
    record. An accepted one is given the run's schedule. What is wrong is refused with the field's
    name, before any container starts. No other step adds a run to a submission.

    :return: (XCom) The submission's id, for people to read.
    """

    def execute(self, context: Context) -> str:
        """
        Register the run.

        :raises AirflowFailException: If the conf or the source is refused.
        """
        dag_run: Any = context["dag_run"]
        sent, params = dict(dag_run.conf or {}), dict(context["params"])
        # Params hold the defaults and drop nothing; keys no param knows are only in the conf.
        values = {key: params.get(key) for key in CONF_KEYS} | sent
        records, run = _connect(), get_run(context)
        try:
            conf = parse_conf(values)
            check_user(run.user)
            check_branch(get_settings(), conf.schedule, run.user)
            submission_id = check_run_id(records, conf, run)
            check_baseline(records, conf, run.user)
            check_placeable(records, conf, run.user)
            if conf.submission_id is None:
                is_cleared = dag_run.clear_number > 0
                submission = self._register(
                    records, conf, submission_id, run, is_cleared=is_cleared
                )
            else:
                submission = self._schedule(records, conf, run)
        except PermanentError as error:
            is_new = values.get("submission_id") in (None, "")
            if is_new and not isinstance(error, NotItsOwn):
                reason = str(cut(str(error)))
                self._refuse(records, find_submission_of_run(run.run_id), run, reason)
            raise AirflowFailException(f"refused: {error}") from error
        if not submission.get("accepted_at"):
            # On record before it waits: the dispatcher places by what is there.
            _prepare(records, [_build_validation(submission)], run)
        return submission_id

    def on_kill(self) -> None:
        """End what is being fetched or unpacked, git's own helpers included."""
        from touchstone.hooks.confined.running import end_all

        end_all()

    def _register(
        self,
        records: RecordStore,
        conf: RunConf,
        submission_id: str,
        run: Run,
        *,
        is_cleared: bool,
    ) -> Record:
        from touchstone.hooks.records import RecordExists

        source = conf.source
        assert source is not None  # noqa: S101 - parse_conf gives exactly one of the two
        record = {
            "submission_id": submission_id,
            **describe_source(source),
            "status": SubmissionStatus.SUBMITTED.value,
            "submitted_by": run.user,
            "created_at": _now(),
            "notes": conf.notes,
            "run_ids": [run.run_id],
            "conf": build_conf(conf),
            "model_group_id": submission_id,
            "baseline": conf.schedule.baseline if conf.schedule else None,
            "results": [],
            **note_action({}, at=datetime.now(UTC), by=run.user, action="submitted"),
        }
        # Whose it is, if it is there already, was checked before, and is again when it is changed.
        with contextlib.suppress(RecordExists):
            records.create_submission(record)
        found = records.get_submission(submission_id)
        check_taken(found, source, run)
        schedule = _plan_schedule(found, conf.schedule, run) if conf.schedule else {}
        if found.get("accepted_at") and not is_cleared:
            # Airflow forgets a run that is deleted, and takes its id for another one. This is one:
            # its own first run has come here before it was accepted. Clearing it changes nothing.
            found = records.change_submission(submission_id, lambda _: {"is_run_anew": True})
        content = (None if found.get("is_run_anew") else _find_content(found)) or (
            self._take_content(conf)
        )

        def decide(found: Record) -> Record:
            check_taken(found, source, run)
            check_content(found, str(content["content_sha256"]))
            # What was on record only as refused gets the rest of its record now.
            rest = {name: value for name, value in record.items() if name not in found}
            fields = {**rest, "cancel": None, "run_ids": take_up(found, run), **schedule}
            if found.get("accepted_at"):
                # What was accepted stays what it was, wherever its branch has gone since.
                return fields
            fields |= {**content, "reason": None}
            return _move(found, SubmissionStatus.VALIDATING, **fields)

        submission = records.change_submission(submission_id, decide)
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
        return submission

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

    def _schedule(self, records: RecordStore, conf: RunConf, run: Run) -> Record:
        assert conf.submission_id is not None  # noqa: S101 - parse_conf sees to both
        assert conf.schedule is not None  # noqa: S101
        planned = _plan_schedule(records.get_submission(conf.submission_id), conf.schedule, run)

        def decide(found: Record) -> Record:
            check_schedulable(found, run)
            fields = {
                "run_ids": take_up(found, run),
                "cancel": None,
                "reason": None,
                **planned,
                **note_action(
                    found,
                    at=datetime.now(UTC),
                    by=run.user,
                    action=f"scheduled as {run.run_id}",
                ),
            }
            return _move(found, SubmissionStatus.QUEUED, **fields)

        return records.change_submission(conf.submission_id, decide)

    def _refuse(self, records: RecordStore, submission_id: str, run: Run, reason: str) -> None:
        """Leave a record of a refused run, so that it can be found where people look."""
        from touchstone.hooks.records import RecordExists

        record = {
            "submission_id": submission_id,
            "status": SubmissionStatus.REJECTED.value,
            "submitted_by": run.user,
            "created_at": _now(),
            "ended_at": _now(),
            "run_ids": [run.run_id],
            "reason": reason,
            "model_group_id": submission_id,
            "results": [],
            "actions": [],
        }
        try:
            records.create_submission(record)
        except RecordExists:

            def decide(found: Record) -> Record | None:
                is_its_own = run.run_id in found["run_ids"] and may_schedule(found, run.user)
                if not is_its_own or found.get("accepted_at"):
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


def _plan_schedule(found: Record, schedule: Schedule, run: Run) -> Record:
    """
    Return the fields of a submission that its schedule decides.

    A branch of el-nigma is resolved and stored here, once per run: what was looked at is what
    runs, however often a step is repeated.

    :raises ConfigurationError: If the branch cannot be had.
    """
    elnigma = found.get("elnigma") or {}
    if (elnigma.get("branch"), elnigma.get("run_id")) != (schedule.branch, run.run_id):
        checkout = _store_branch(schedule)
        elnigma = checkout and {
            **checkout.model_dump(mode="json"),
            "branch": schedule.branch,
            "run_id": run.run_id,
        }
    return {
        "schedule": schedule.model_dump(mode="json"),
        "schedule_run_id": run.run_id,
        "elnigma": elnigma or None,
        "scheduled_by": run.user,
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


def _find_schedule(submission: Record, run: Run) -> Record | None:
    """Return what a run is to train; ``None`` if it carries no schedule."""
    schedule: Record | None = submission.get("schedule")
    # Until now nobody wrote down whose it is.
    return schedule if submission.get("schedule_run_id", run.run_id) == run.run_id else None


def _prepare(records: RecordStore, specs: Iterable[TaskSpec], run: Run) -> None:
    """Put a run's tasks on record; a validation is waited for by a task of no index."""
    from touchstone.hooks.starts import prepare_task

    for index, spec in enumerate(specs):
        prepare_task(
            records,
            spec,
            run_id=run.run_id,
            map_index=-1 if spec.interval is None else index,
            now=datetime.now(UTC),
        )


def _build_validation(submission: Record) -> TaskSpec:
    settings = get_settings()
    return build_validation_spec(
        submission["submission_id"],
        system=submission["system"],
        image=settings.trainer_image,
        content_sha256=submission["content_sha256"],
        content_size=submission["content_size"],
        limits=settings.validation_limits,
        submitted_by=submission["submitted_by"],
    )


def accept_submission(**context: Any) -> bool:
    """
    Accept or reject a submission by its validation's record.

    :param context: Airflow's, for the run.
    :return: Whether the run carries a schedule, so that it goes on.
    :raises AirflowFailException: If it is rejected, with the first line of why.
    """
    records, run = _connect(), get_run(context)
    submission = get_submission_of_run(records, run)
    if not submission.get("accepted_at"):
        task = records.find_task(submission["submission_id"], VALIDATION_TASK_ID) or {}

        def decide(found: Record) -> Record:
            if reason := _find_rejection(found, task, run):
                return _move(found, SubmissionStatus.REJECTED, reason=reason, ended_at=_now())
            goes_on = _find_schedule(found, run) is not None
            status = SubmissionStatus.QUEUED if goes_on else SubmissionStatus.ACCEPTED
            return _move(found, status, accepted_at=_now(), reason=None)

        submission = change_submission_of_run(records, run, decide)
        if not submission.get("accepted_at"):
            raise AirflowFailException(f"rejected: {submission['reason']}")
    return _find_schedule(submission, run) is not None


def _find_rejection(submission: Record, validation: Record, run: Run) -> str | None:
    """Say why a submission is rejected; ``None`` if its own content was validated well."""
    content = (validation.get("config") or {}).get("content_sha256")
    if validation.get("run_id") != run.run_id or content != submission.get("content_sha256"):
        return "what it brought was not validated"
    if validation.get("outcome") == Outcome.SUCCEEDED:
        return None
    return validation.get("reason") or "the validation has no verdict"


class PlanOperator(BaseOperator):
    """
    Turns a submission's schedule into one training per prediction interval.

    :return: (XCom) The intervals, to be expanded over; what each of them runs is on record.
    """

    def execute(self, context: Context) -> list[int]:
        """
        Write the tasks' records, move the submission to ``queued``, return the intervals.

        :raises AirflowFailException: If the run may not train the submission.
        """
        from touchstone.hooks.agent import AgentHook, cancel_tasks

        records, settings, run = _connect(), get_settings(), get_run(context)
        submission = get_submission_of_run(records, run)
        submission_id, planned = submission["submission_id"], _find_schedule(submission, run)
        if planned is None or not submission.get("accepted_at"):
            raise AirflowFailException(
                f"nothing was planned: submission {submission_id} "
                + ("was never accepted" if planned else f"has no schedule of run {run.run_id}")
            )
        schedule = Schedule.model_validate(planned)
        specs = build_training_specs(
            _build_validation(submission),
            schedule,
            limits=Limits(
                cpus=settings.training_cpus,
                memory_mib=settings.training_memory_mib,
                wall_seconds=settings.training_wall_seconds,
                console_bytes=settings.console_bytes,
            ),
            image_cuda=settings.trainer_image_cuda or None,
            elnigma=_find_checkout(submission, schedule),
        )
        check_submission_move(
            submission_id, SubmissionStatus(submission["status"]), SubmissionStatus.QUEUED
        )
        # Cleared while its trainings run: their records are taken over, so they must end first.
        cancel_tasks(records, AgentHook(settings=settings), submission_id)
        _prepare(records, specs, run)
        change_submission_of_run(
            records,
            run,
            lambda found: _move(found, SubmissionStatus.QUEUED, tasks=[s.task_id for s in specs]),
        )
        return [spec.interval for spec in specs if spec.interval is not None]


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


def evaluate_submission(**context: Any) -> None:
    """
    Close a scheduled submission: aggregate its model group, or say why there is nothing to.

    :param context: Airflow's, for the run; another run's submission is none of its business.
    :raises AirflowFailException: If it did not succeed, with the reason.
    """
    records, run = _connect(), get_run(context)
    submission = get_submission_of_run(records, run)
    submission_id = submission["submission_id"]
    if submission.get("accepted_at") is None:
        # Validation ended without a verdict, or nobody accepted: there is nothing to aggregate.
        found = records.find_task(submission_id, VALIDATION_TASK_ID)
        validation = found if found is not None and found["run_id"] == run.run_id else {}
        closed = change_submission_of_run(
            records, run, lambda found: _close_unvalidated(found, validation)
        )
        raise AirflowFailException(f"{closed['status']}: {closed.get('reason')}")
    if _find_schedule(submission, run) is None:
        raise AirflowFailException(
            f"nothing was changed: submission {submission_id} has no schedule of run {run.run_id}"
        )
    tasks = [
        _end_abandoned(records, task)
        for task in records.list_tasks(submission_id)
        if task["task_id"] in (submission.get("tasks") or []) and task["run_id"] == run.run_id
    ]
    fields = _judge(submission_id, tasks)
    status = SubmissionStatus(fields.pop("status"))
    closed = change_submission_of_run(
        records, run, lambda found: _move(found, status, ended_at=_now(), **fields)
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
        reason=validation.get("reason")
        or ("the validation ended without a verdict" if validation else "it was never validated"),
        ended_at=_now(),
    )
