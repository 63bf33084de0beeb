"""The record of a submission: what somebody has sent in, what was decided, what it came to."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Final, Self

from pydantic import BeforeValidator, Field, JsonValue, field_validator

from touchstone.core.conf import Source, System
from touchstone.core.data_sets import PinnedData
from touchstone.core.records.actions import Action, add_action
from touchstone.core.records.beside import Beside
from touchstone.core.records.forward import ForwardScores
from touchstone.core.records.judged import JudgedStatus
from touchstone.core.records.kept import SparseRecord, StoredPart
from touchstone.core.records.stored import StoredRecord, Time
from touchstone.core.schedule import Schedule, rename_fields
from touchstone.core.states import SubmissionStatus, TaskStatus, check_submission_move
from touchstone.core.tasks import Checkout, TaskSpec

Number = int | float
"""A figure. A whole one is stored, and shown, without a decimal point."""
Fact = str | int | float | bool | None
"""What a trainer says of itself: a text, a number, or whether something is so."""

Texts = Annotated[tuple[str, ...], BeforeValidator(lambda value: () if value is None else value)]
"""Some texts; a null stands for none."""

NOT_JUDGED: Final = "not judged"
"""Verdict of a submission that was compared with nothing."""
AFTER_CLOSING: Final = "after closing"
"""Why something is not told yet."""
HELD_BACK: Final = "held back"
"""Verdict of a replay of what is not told yet."""


class SubmissionSummary(StoredRecord):
    """
    What a list shows of a submission.

    :param submission_id: Its id.
    :param system: What kind of module it is; ``None`` for one that was refused unread.
    :param status: Where it is.
    :param submitted_by: Whose it is.
    :param created_at: When it was put on record.
    :param ended_at: When it ended; ``None`` while a run works on it.
    :param notes: The submitter's own words.
    :param source_url: Git URL, or ``upload:<sha256>``.
    :param reason: Why it was refused, failed or was cancelled, in one line.
    :param score: Mean net Sharpe ratio of its intervals; ``None`` where one is missing.
    :param score_low: Lower end of the score's confidence interval.
    :param score_high: Upper end of it.
    :param verdict: What came of the comparison with its baseline, or with what it replays.
    :param replay_of: The training that it runs again, ``SUBMISSION/TASK``.
    """

    submission_id: str
    system: System | None = None
    status: SubmissionStatus
    submitted_by: str
    created_at: Time
    ended_at: Time | None = None
    notes: str | None = None
    source_url: str | None = None
    reason: str | None = None
    score: Number | None = None
    score_low: Number | None = None
    score_high: Number | None = None
    verdict: str | None = None
    replay_of: str | None = None


class PinnedImage(SparseRecord):
    """
    Which content an image's name stands for, for one submission.

    :param pinned: The name with its digest; ``None`` where no registry could be asked.
    :param note: Why not.
    """

    pinned: str | None = None
    note: str | None = None


class PinnedBranch(SparseRecord):
    """
    What a schedule's branch of el-nigma stood at when its run was registered.

    :param commit: The commit's full id.
    :param sha256: Digest of the archive.
    :param size: The archive's size in bytes.
    :param branch: The branch, tag or commit that the schedule names.
    :param run_id: The run that it was looked up for.
    """

    commit: str
    sha256: str
    size: int
    branch: str | None = None
    run_id: str | None = None

    @classmethod
    def pin(cls, checkout: Checkout, *, branch: str | None, run_id: str) -> Self:
        """Return what is on record of a checkout."""
        return cls(
            commit=checkout.commit,
            sha256=checkout.sha256,
            size=checkout.size,
            branch=branch,
            run_id=run_id,
        )

    @property
    def checkout(self) -> Checkout:
        """Return what a task is given of it."""
        return Checkout(commit=self.commit, sha256=self.sha256, size=self.size)


class CancelRequest(SparseRecord):
    """
    Somebody wants a submission to end; the dispatcher repeats what that takes until it is done.

    :param by: Who.
    :param at: When.
    :param reason: Why, in one line.
    """

    by: str
    at: Time
    reason: str | None = None


class ModelLine(SparseRecord):
    """
    A trained model, as results show it.

    :param strategy: Which model of the pair.
    :param seed: Its seed, where there are several pairs; absent else.
    :param may_carry_code: Whether loading it could run code.
    """

    strategy: str | None = None
    seed: int | None = None
    may_carry_code: bool = False


class ResultLine(SparseRecord):
    """
    What one training came to.

    :param task_id: The training.
    :param interval: Its prediction interval in days.
    :param fold: Number of its fold; absent without folds, and in the line of all folds together.
    :param rows: Which rows that is judged on, as people read them; absent likewise.
    :param status: How it ended.
    :param reason: Why, if it did not end well.
    :param judged: Whether its figures are the judge's own; ``None`` where there are none, for a
        replay, and in lines from before.
    :param judged_reason: Why they are not.
    :param metrics: The judge's figures by name, or a replay's own; in the record itself the main
        ones only.
    :param reported: The trainer's figures where the judge has none; as :attr:`metrics`.
    :param may_carry_code: Whether loading one of its models could run code.
    :param mlflow_url: Its run in MLflow.
    :param metric_notes: Why a figure is undefined, by its name; beside the record only.
    :param models: Its models; beside the record only.
    :param device: On what it ran; beside the record only.
    """

    task_id: str
    interval: int | None = None
    fold: int | None = None
    rows: str | None = None
    status: TaskStatus
    reason: str | None = None
    judged: JudgedStatus | None = None
    judged_reason: str | None = None
    metrics: Mapping[str, Number | None] = Field(default_factory=dict)
    reported: Mapping[str, Number | None] = Field(default_factory=dict)
    may_carry_code: bool = False
    mlflow_url: str | None = None
    metric_notes: Mapping[str, str] = Field(default_factory=dict)
    models: tuple[ModelLine, ...] = ()
    device: Mapping[str, Fact] = Field(default_factory=dict)


class ChartLink(SparseRecord):
    """
    Where a chart of a training is.

    :param task_id: The training.
    :param name: The chart's name.
    :param url: Its address.
    :param by: Whose it is, ``judge`` or ``trainer``; absent where it is the trainer's, from before.
    """

    task_id: str
    name: str
    url: str
    by: str | None = None


class OpenSubmission(StoredRecord):
    """
    What tells whether a submission that some run is at work on is to be closed.

    :param submission_id: Its id.
    :param status: Where it is.
    :param submitted_by: Whose it is.
    :param run_ids: Its DAG runs; the last one works on it.
    :param cancel: Who wants it to end; ``None`` if nobody does.
    """

    submission_id: str
    status: SubmissionStatus
    submitted_by: str
    run_ids: Texts = ()
    cancel: CancelRequest | None = None


class SentSource(StoredRecord):
    """
    What tells whether a submission is of the same source as another.

    :param submission_id: Its id.
    :param status: Where it is.
    :param submitted_by: Whose it is.
    :param created_at: When it was put on record.
    :param system: What kind of module it is.
    :param source_path: Folder of the module below the source's root.
    :param commit: What its ref stood at; ``None`` for an archive.
    :param content_sha256: Digest of its content; ``None`` before it was fetched.
    :param replay_of: The training that it runs again.
    """

    submission_id: str
    status: SubmissionStatus
    submitted_by: str
    created_at: Time
    system: System | None = None
    source_path: str | None = None
    commit: str | None = None
    content_sha256: str | None = None
    replay_of: str | None = None


class SubmissionBudget(StoredRecord):
    """
    What a submission's pods may cost by its own schedule.

    :param submission_id: Its id.
    :param schedule: How it is trained; ``None`` until somebody says so.
    """

    submission_id: str
    schedule: Annotated[Schedule | None, BeforeValidator(rename_fields)] = None

    @property
    def budget(self) -> Decimal | None:
        """Return the schedule's budget, USD; ``None`` if it has none."""
        return self.schedule.budget if self.schedule else None


class Submission(SubmissionSummary, SparseRecord):
    """
    A submission; see :class:`SubmissionSummary` for what lists show of it.

    :param version: Counts the changes.
    :param source_ref: Branch, tag or commit that was asked for.
    :param source_path: Folder of the module below the source's root.
    :param waived_columns: Columns against which its trainer holds no look-ahead.
    :param conf: The flat conf of the run that brought it, as it is shown to people.
    :param model_group_id: Under which its evaluations are found.
    :param commit: What its ref stood at.
    :param content_sha256: Digest of its content.
    :param content_size: Bytes of its packed content.
    :param remarks: What was left out of its content, a line each.
    :param run_ids: Its DAG runs; the last one works on it.
    :param is_run_anew: Whether its first run was deleted and triggered again.
    :param images: The images that it may run in, by name.
    :param accepted_at: When it was accepted; ``None`` if it never was.
    :param cancel: Who wants it to end; ``None`` if nobody does.
    :param baseline: The submission that its first schedule is compared with.
    :param schedule: How it is trained; ``None`` until somebody says so.
    :param schedule_run_id: The run that brought the schedule; absent in old records.
    :param scheduled_by: Who scheduled it.
    :param queued_at: When it was scheduled.
    :param elnigma: What the schedule's branch of el-nigma stood at.
    :param data: What the schedule's event is trained on; ``None`` for the built-in data set.
    :param tasks: The trainings of its schedule.
    :param results: What each of them came to.
    :param chart_links: Charts, in records that were written before they were kept beside it.
    :param results_part: All its results and charts, beside the record.
    :param similarity: How like its baseline it is; ``None`` where :attr:`beside` says why.
    :param beside: What is shown beside its verdict; ``None`` in records from before.
    :param verdict_reason: Why the verdict is what it is.
    :param forward: What its models have come to on rows newer than they are; empty for nothing.
    :param replay_spec: What a replay runs.
    :param retracted_at: When it was taken back.
    :param actions: Who did what to it, when; the newest last.
    """

    version: int = 0
    source_ref: str | None = None
    source_path: str | None = None
    waived_columns: Texts = ()
    conf: Mapping[str, JsonValue] = Field(default_factory=dict)
    model_group_id: str | None = None
    commit: str | None = None
    content_sha256: str | None = None
    content_size: int | None = None
    remarks: Texts = ()
    run_ids: Texts = ()
    is_run_anew: bool = False
    images: Mapping[str, PinnedImage] = Field(default_factory=dict)
    accepted_at: Time | None = None
    cancel: CancelRequest | None = None
    baseline: str | None = None
    schedule: Annotated[Schedule | None, BeforeValidator(rename_fields)] = None
    schedule_run_id: str | None = None
    scheduled_by: str | None = None
    queued_at: Time | None = None
    elnigma: PinnedBranch | None = None
    data: PinnedData | None = None
    tasks: Texts = ()
    results: tuple[ResultLine, ...] = ()
    chart_links: tuple[ChartLink, ...] = ()
    results_part: StoredPart | None = None
    similarity: Number | None = None
    beside: Beside | None = None
    verdict_reason: str | None = None
    forward: ForwardScores = ()
    replay_spec: TaskSpec | None = None
    retracted_at: Time | None = None
    actions: tuple[Action, ...] = ()

    @field_validator("results", "chart_links", "actions", mode="before")
    @classmethod
    def _null_is_an_empty_list(cls, value: object) -> object:
        return () if value is None else value

    @field_validator("conf", "images", mode="before")
    @classmethod
    def _null_is_an_empty_table(cls, value: object) -> object:
        return {} if value is None else value

    @property
    def newest_run_id(self) -> str | None:
        """Return the run that works on it, or has; ``None`` if it has none on record."""
        return self.run_ids[-1] if self.run_ids else None

    def is_from(self, source: Source) -> bool:
        """Tell whether it came from a source, with the same columns waived."""
        told = (self.system, self.source_url, self.source_ref, self.source_path)
        return (*told, self.waived_columns) == (
            *(source.system, source.url, source.ref, source.path),
            source.waived_columns,
        )

    def find_schedule(self, run_id: str) -> Schedule | None:
        """Return what a run is to train; ``None`` if it carries no schedule."""
        # The version before did not write down whose a schedule is.
        return self.schedule if self.schedule_run_id in {None, run_id} else None

    def take_up(self, run_id: str) -> tuple[str, ...]:
        """Return its runs with the one that works on it from now on as the last."""
        return (*(each for each in self.run_ids if each != run_id), run_id)

    def complete(self, other: Submission) -> Self:
        """Return it with what another one has set and this one has not."""
        lacking = other.model_fields_set - self.model_fields_set
        return self.change(**{name: getattr(other, name) for name in lacking})

    def move(self, status: SubmissionStatus, **changes: object) -> Self:
        """
        Return it in another status.

        :param changes: What else changes, by field.
        :raises IllegalMove: If that status cannot be reached.
        """
        check_submission_move(self.submission_id, self.status, status)
        return self.change(status=status, **changes)

    def note_action(self, *, at: datetime, by: str, action: str, act: str | None = None) -> Self:
        """Return it with one more action; see :func:`.actions.add_action`."""
        return self.change(actions=add_action(self.actions, at=at, by=by, action=action, act=act))
