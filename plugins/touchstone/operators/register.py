"""The first step of a run: register."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from touchstone.core.attempts import MAX_REASON
from touchstone.core.authority import Run
from touchstone.core.conf import CONF_KEYS, RunConf, build_conf, parse_conf
from touchstone.core.names import build_content_key, find_submission_of_run
from touchstone.core.records.actions import add_action
from touchstone.core.records.stored import RecordUnreadable, set_all
from touchstone.core.records.submissions import PinnedBranch, PinnedImage, Submission
from touchstone.core.records.tasks import cut
from touchstone.core.schedule import Schedule
from touchstone.core.states import IllegalMove, SubmissionStatus
from touchstone.operators.authority import get_run
from touchstone.operators.forward import note_refusal
from touchstone.operators.judging import enter_event, find_event_data
from touchstone.operators.preparing import (
    build_validation,
    connect_records,
    prepare_tasks,
    store_branch,
    store_content,
)
from touchstone.operators.replay import register_replay
from touchstone.services.checks import (
    check_baseline,
    check_branch,
    check_placeable,
    check_user,
    may_schedule,
)
from touchstone.services.ownership import (
    NotItsOwn,
    check_content,
    check_run_id,
    check_schedulable,
    check_taken,
)
from touchstone.settings import get_settings
from touchstone_agent.protocol.errors import ConfigurationError, PermanentError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.sdk import Context

    from touchstone.core.data_sets import PinnedData
    from touchstone.hooks.repository import Content
    from touchstone.stores.records import RecordStore


@dataclass(frozen=True, kw_only=True)
class _StoredContent:
    """
    Content that is stored.

    :param commit: What its ref stood at; ``None`` for an upload.
    :param sha256: Its digest.
    :param size: Its size in bytes.
    :param remarks: What was left out of it, a line each.
    """

    commit: str | None
    sha256: str
    size: int
    remarks: tuple[str, ...]


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
        dag_run = context["dag_run"]
        sent, params = dict(dag_run.conf or {}), dict(context["params"])
        # Params hold the defaults and drop nothing; keys no param knows are only in the conf.
        values = {key: params.get(key) for key in CONF_KEYS} | sent
        records, run = connect_records(), get_run(context)
        conf = None
        try:
            conf = parse_conf(values)
            check_user(run.user)
            if conf.replay is not None:
                return register_replay(records, conf, run).submission_id
            check_branch(get_settings(), conf.schedule, run.user)
            submission_id = check_run_id(records, conf, run)
            check_baseline(records, conf, run.user)
            data = find_event_data(records, conf)
            check_placeable(records, conf, run.user, data=data)
            data = enter_event(records, conf, submission_id, run)
            if conf.submission_id is None:
                is_cleared = (dag_run.clear_number or 0) > 0
                submission = self._register(
                    records, conf, submission_id, run, data, is_cleared=is_cleared
                )
            else:
                submission = self._schedule(records, conf, run, data)
        except PermanentError as error:
            is_new = values.get("submission_id") in (None, "")
            # What cannot be read is left alone, whatever it says.
            if is_new and not isinstance(error, NotItsOwn | RecordUnreadable):
                reason = str(cut(str(error), MAX_REASON))
                note_refusal(records, conf.replay if conf else None, run, reason)
                self._refuse(records, find_submission_of_run(run.run_id), run, reason)
            raise AirflowFailException(f"refused: {error}") from error
        if not submission.accepted_at:
            # The record comes before the wait, because the dispatcher places by it.
            prepare_tasks(records, [build_validation(submission)], run)
        return submission_id

    def on_kill(self) -> None:
        """End a fetch or an unpacking, git's own helpers included."""
        from touchstone.confined.running import end_all

        end_all()

    def _register(
        self,
        records: RecordStore,
        conf: RunConf,
        submission_id: str,
        run: Run,
        data: PinnedData | None,
        *,
        is_cleared: bool,
    ) -> Submission:
        from touchstone.stores.tables import RecordExists

        source, schedule, now = conf.source, conf.schedule, datetime.now(UTC)
        assert source is not None  # noqa: S101 - parse_conf gives exactly one of the two
        new = Submission(
            submission_id=submission_id,
            system=source.system,
            source_url=source.url,
            source_ref=source.ref,
            source_path=source.path,
            waived_columns=source.waived_columns,
            status=SubmissionStatus.SUBMITTED,
            submitted_by=run.user,
            created_at=now,
            notes=conf.notes,
            run_ids=(run.run_id,),
            conf=build_conf(conf),
            model_group_id=submission_id,
            baseline=schedule.baseline if schedule else None,
            results=(),
            actions=add_action((), at=now, by=run.user, action="submitted"),
        )
        # Whose it is, if it is there already, was checked before, and is again when it is changed.
        with contextlib.suppress(RecordExists):
            records.create_submission(new)
        found = records.get_submission(submission_id)
        check_taken(found, source, run)
        branch = _pin_branch(found, schedule, run) if schedule else None
        images = _pin_images(found)
        if found.accepted_at and not is_cleared:
            # Airflow forgets a run that is deleted, and takes its id for another one. This is one:
            # its own first run has come here before it was accepted. Clearing it changes nothing.
            found = records.change_submission(
                submission_id, lambda found: found.change(is_run_anew=True)
            )
        content = (None if found.is_run_anew else _find_content(found)) or (
            self._take_content(conf)
        )

        def decide(found: Submission) -> Submission:
            check_taken(found, source, run)
            check_content(found, content.sha256)
            # What was on record only as refused gets the rest of its record now.
            found = found.complete(new).change(
                cancel=None, run_ids=found.take_up(run.run_id), images=images
            )
            if schedule:
                found = _give_schedule(found, schedule, branch, run, data, at=now)
            if found.accepted_at:
                # What was accepted stays what it was, wherever its branch has gone since.
                return found
            return found.move(
                SubmissionStatus.VALIDATING,
                commit=content.commit,
                content_sha256=content.sha256,
                content_size=content.size,
                remarks=content.remarks,
                reason=None,
            )

        submission = records.change_submission(submission_id, decide)
        self.log.info(
            "submission %s: %s content %s (%s bytes), commit %s",
            submission_id,
            source.system,
            content.sha256,
            content.size,
            content.commit,
        )
        for remark in content.remarks:
            self.log.warning("submission %s: %s", submission_id, remark)
        return submission

    def _take_content(self, conf: RunConf) -> _StoredContent:
        """Fetch and store the content, and return its record."""
        content = self._fetch(conf)
        store_content(content)
        return _StoredContent(
            commit=content.commit,
            sha256=content.sha256,
            size=len(content.archive),
            remarks=tuple(content.remarks),
        )

    def _fetch(self, conf: RunConf) -> Content:
        from touchstone.confined.archives import repack
        from touchstone.hooks.git import GitSource, find_credentials
        from touchstone.hooks.repository import Content
        from touchstone.stores.objects import ObjectNotFound, ObjectStore

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

    def _schedule(
        self, records: RecordStore, conf: RunConf, run: Run, data: PinnedData | None
    ) -> Submission:
        submission_id, schedule = conf.submission_id, conf.schedule
        assert submission_id is not None  # noqa: S101 - parse_conf sees to both
        assert schedule is not None  # noqa: S101
        found = records.get_submission(submission_id)
        branch, images, now = (
            _pin_branch(found, schedule, run),
            _pin_images(found),
            datetime.now(UTC),
        )

        def decide(found: Submission) -> Submission:
            check_schedulable(found, run)
            return (
                _give_schedule(found, schedule, branch, run, data, at=now)
                .note_action(at=now, by=run.user, action=f"scheduled as {run.run_id}")
                .move(
                    SubmissionStatus.QUEUED,
                    run_ids=found.take_up(run.run_id),
                    cancel=None,
                    reason=None,
                    images=images,
                )
            )

        return records.change_submission(submission_id, decide)

    def _refuse(self, records: RecordStore, submission_id: str, run: Run, reason: str) -> None:
        """Leave a record of a refused run, so that it can be found where people look."""
        from touchstone.stores.tables import RecordExists

        now = datetime.now(UTC)
        refused = Submission(
            submission_id=submission_id,
            status=SubmissionStatus.REJECTED,
            submitted_by=run.user,
            created_at=now,
            ended_at=now,
            run_ids=(run.run_id,),
            reason=reason,
            model_group_id=submission_id,
            results=(),
            actions=(),
        )
        try:
            records.create_submission(refused)
        except RecordExists:

            def decide(found: Submission) -> Submission | None:
                is_its_own = run.run_id in found.run_ids and may_schedule(found, run.user)
                if not is_its_own or found.accepted_at:
                    return None
                return found.move(SubmissionStatus.REJECTED, reason=reason, ended_at=now)

            with contextlib.suppress(IllegalMove):
                records.change_submission(submission_id, decide)


def _find_content(found: Submission) -> _StoredContent | None:
    """
    Return what the submission's ref was resolved to; ``None`` if that is to be done (again).

    A step that is repeated takes what it took before. Only what was refused is looked at anew: its
    author has mended it, and cleared the step.
    """
    is_settled = found.accepted_at or found.status is SubmissionStatus.VALIDATING
    if not is_settled or found.content_sha256 is None or found.content_size is None:
        return None
    return _StoredContent(
        commit=found.commit,
        sha256=found.content_sha256,
        size=found.content_size,
        remarks=found.remarks,
    )


def _pin_branch(found: Submission, schedule: Schedule, run: Run) -> PinnedBranch | None:
    """
    Return what a schedule's branch of el-nigma stands at; ``None`` if it names none.

    It is resolved and stored once per run: what was looked at is what runs, however often a step
    is repeated.

    :raises ConfigurationError: If the branch cannot be had.
    """
    known = found.elnigma
    if known is not None and (known.branch, known.run_id) == (schedule.branch, run.run_id):
        return known
    checkout = store_branch(schedule)
    if checkout is None:
        return None
    return PinnedBranch.pin(checkout, branch=schedule.branch, run_id=run.run_id)


def _give_schedule(
    found: Submission,
    schedule: Schedule,
    branch: PinnedBranch | None,
    run: Run,
    data: PinnedData | None,
    *,
    at: datetime,
) -> Submission:
    """Return a submission with the schedule of a run, and without what an earlier one came to."""
    return found.change(
        schedule=set_all(schedule),
        schedule_run_id=run.run_id,
        elnigma=branch,
        data=None if data is None else set_all(data),
        scheduled_by=run.user,
        queued_at=at,
        tasks=(),
        ended_at=None,
        score=None,
        verdict=None,
        verdict_reason=None,
        results=(),
        results_part=None,
        chart_links=(),
        forward=(),
    )


def _pin_images(found: Submission) -> Mapping[str, PinnedImage]:
    """
    Return what the images that a submission may run in are, by name: content, once and for all.

    A name that was pinned for it before stays what it was, wherever its tag has gone since.

    :raises ConfigurationError: If a registry has not what it should have.
    """
    from touchstone.hooks.registry import pin_image

    settings = get_settings()
    names = (settings.trainer_image, settings.trainer_image_cuda, settings.runpod.image)
    known = found.images
    return {
        **known,
        **{
            name: pin_image(settings, name)
            for name in names
            if name and (name not in known or not known[name].pinned)
        },
    }
