"""
Forward scores: the models of a training on rows that are newer than they are. Pure.

A submission may ship what it knows of the past, and no check finds that for certain. Of rows that
were not there when its models were saved it can know nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Final, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, model_validator

from touchstone.core.data_sets import PinnedData
from touchstone.core.judging_rules import build_rules
from touchstone.core.records.data_sets import DataRecord
from touchstone.core.records.forward import ForwardScore
from touchstone.core.records.submissions import Submission
from touchstone.core.records.tasks import PublishedModel, StoredFile, Task
from touchstone.core.results import list_models
from touchstone.core.states import SubmissionStatus, TaskStatus
from touchstone.core.tasks import (
    MODELS_FOLDER,
    Forwarded,
    ForwardModel,
    Replayed,
    TaskSpec,
)
from touchstone_agent.protocol.errors import ConfigurationError
from touchstone_agent.protocol.words import build_line

SCORED: Final = "scored"
NOT_SCORED: Final = "not scored"
"""Verdicts of a run that computes a forward score."""
FIGURES: Final = (
    *("net_sharpe", "net_sharpe_low", "net_sharpe_high"),
    *("total_return", "max_drawdown"),
)
"""What is kept of the judge's figures: a submission's record has those of each interval."""
WAIT: Final = timedelta(days=7)
"""For how long a run may go on before nobody waits for it any more."""

_MAX_REASON: Final = 400
_MAX_FIGURES: Final = 50

_Figure = Annotated[float, Field(allow_inf_nan=False)]
_Note = Annotated[str, BeforeValidator(lambda v: build_line(v, 200) if isinstance(v, str) else v)]
_FOLD: Final = re.compile(r"i[1-9][0-9]{0,2}-f[0-9]", re.ASCII)


# --- what may be scored --------------------------------------------------------------------------


def find_objection(submission: Submission) -> str | None:
    """Say why a submission can have no forward score, whatever data come; ``None`` if it can."""
    if submission.replay_of is not None:
        return "it is a replay, and comes to nothing of its own"
    if submission.status is not SubmissionStatus.SUCCESS:
        return f"it is {submission.status}; only what has ended well has models to score"
    if submission.data is None:
        return "it was trained on the built-in data, which gain no rows"
    if submission.data.is_private:
        return "its data stay at the server that holds them"
    if submission.waived_columns:
        return "its waived columns may know later rows, so that no row is beyond suspicion"
    return None


def find_task_objection(task: Task) -> str | None:
    """Say why a training's models can not be scored on later rows; ``None`` if they can."""
    spec, published = task.spec, task.newest.published
    if spec.interval is None or spec.replay is not None:
        return "only a training has models to score"
    if task.status is not TaskStatus.SUCCESS or published is None:
        return f"it is {task.status}; only what has ended well has models to score"
    if spec.data is None or spec.data.is_private or spec.waived_columns:
        return "its data or its waived columns do not allow it"
    if spec.fold is not None and spec.fold.number != spec.fold.count - 1:
        return f"it is fold {spec.fold.number}; of folds the last one's models are scored"
    judged = published.judged
    if judged is None or not judged.is_judged or judged.there is not None:
        return "it is not judged, so that there is nothing that it could go on from"
    if published.held_back is not None:
        return f"nothing is told of it before the event {published.held_back} is closed"
    if task.newest.uploaded_at is None:
        return "nobody knows since when its models are there"
    return None


def list_scorable(task_ids: Iterable[str]) -> tuple[str, ...]:
    """Return the trainings whose models are scored: of each interval one, of folds the last."""
    chosen: dict[str, str] = {}
    for task_id in sorted(task_ids):
        interval = task_id.partition("-")[0]
        if _FOLD.fullmatch(task_id) or interval == task_id:
            chosen[interval] = task_id
    return tuple(sorted(chosen.values()))


def find_newer(data: PinnedData, versions: Iterable[DataRecord]) -> DataRecord | None:
    """
    Return the newest version of a data set that was added after another one; ``None`` for none.

    :param data: The version of before.
    :param versions: All versions of all data sets.
    """
    same = [each for each in versions if each.name == data.name]
    before = next((each for each in same if each.definition.version == data.version), None)
    newer = [
        each
        for each in same
        if each.is_complete
        and not each.is_private
        and before is not None
        and each.added_at > before.added_at
    ]
    return max(newer, key=lambda each: each.added_at, default=None)


def find_due(
    submission: Submission, tasks: Sequence[Task], newer: DataRecord
) -> tuple[ForwardScore, ...]:
    """
    Return which trainings of a submission are to be scored on a version of their data set.

    What is wanted of the same models on the same version already is not among them, whatever has
    come of it.

    :param tasks: Its trainings, as far as their records make sense.
    :param newer: The version.
    :return: Without the run that is to compute each, and the time.
    """
    by_id = {task.task_id: task for task in tasks}
    known = {(each.task_id, each.fence, each.data) for each in submission.forward}
    due = []
    for task_id in list_scorable(submission.tasks):
        task = by_id.get(task_id)
        if task is None or find_task_objection(task) is not None:
            continue
        if (task_id, task.fence, newer.definition.label) in known:
            continue
        due.append(
            ForwardScore(
                task_id=task_id,
                interval=task.interval,
                fence=task.fence,
                data=newer.definition.label,
            )
        )
    return tuple(due)


def add_scores(
    known: Sequence[ForwardScore], new: Iterable[ForwardScore]
) -> tuple[ForwardScore, ...]:
    """Return forward scores with newer ones in place of those of the same trainings."""
    by_task = {each.task_id: each for each in known} | {each.task_id: each for each in new}
    return tuple(by_task[task_id] for task_id in sorted(by_task))


def find_wanted(
    submission: Submission, *, task_id: str, version: str, run_id: str
) -> ForwardScore | None:
    """
    Return the forward score that a run was chosen for by the record; ``None`` if it was for none.

    :param submission: Whose models are to be scored.
    :param version: Of the data set.
    :param run_id: The run, whose id nobody knows who cannot see the record.
    """
    for each in submission.forward:
        is_it = each.task_id == task_id and each.run_id == run_id
        if is_it and each.data.rpartition(" ")[2] == version:
            return each
    return None


def keep_current(known: Sequence[ForwardScore], tasks: Iterable[Task]) -> tuple[ForwardScore, ...]:
    """Return the forward scores whose models are still those of their trainings."""
    fences = {task.task_id: task.fence for task in tasks}
    return tuple(each for each in known if fences.get(each.task_id) == each.fence)


def settle_old(known: Sequence[ForwardScore], now: datetime) -> tuple[ForwardScore, ...]:
    """Return forward scores, those of runs that came to no end for too long with that as why."""
    return tuple(
        each.change(reason=f"its run {each.run_id} came to no end in {WAIT.days} days")
        if each.is_open and each.wanted_at is not None and now - each.wanted_at > WAIT
        else each
        for each in known
    )


# --- what runs -----------------------------------------------------------------------------------


def pin_newer(data: PinnedData, newer: DataRecord) -> PinnedData:
    """
    Return a newer version of a data set with the rows that a training had, and all behind them.

    :param data: What the training had.
    """
    return data.model_copy(
        update={
            "version": newer.definition.version,
            "digest": newer.digest,
            "sha256": newer.sha256,
            "size": newer.size,
            "test_to": None,
        }
    )


def build_forwarded(task: Task, files: Sequence[StoredFile], newer: DataRecord) -> Forwarded:
    """
    Return what is scored of a training.

    :param task: The training; there is no objection to it.
    :param files: What its newest attempt has left.
    :param newer: The version of its data set that has later rows.
    :raises ConfigurationError: If its models are not there as they were published.
    """
    spec, published, saved_at = task.spec, task.newest.published, task.newest.uploaded_at
    if spec.data is None or published is None or saved_at is None:
        raise ConfigurationError(f"data_version: {task.name} has no models to score")
    left = {file.path: file for file in files}
    digests = {_name(each): each.sha256 for each in published.models}
    models = []
    for model in list_models(None, spec.schedule.seed_count):
        file = left.get(f"{MODELS_FOLDER}/{model.name}.h5")
        if file is None or file.sha256 != digests.get(model.name):
            raise ConfigurationError(
                f"data_version: {model.name}.h5 of {task.name} is not there as it was published"
            )
        models.append(ForwardModel(name=model.name, sha256=file.sha256, size=file.size))
    return Forwarded(
        models=tuple(models),
        data=spec.data,
        rules=build_rules(spec.data, spec.fold),
        saved_at=saved_at,
        added_at=newer.added_at,
    )


def _name(model: PublishedModel) -> str | None:
    return model.name or model.strategy


def turn_to_later_rows(spec: TaskSpec, replayed: Replayed, newer: DataRecord) -> TaskSpec:
    """
    Return what scores models on later rows, made of what would train them again.

    :param spec: Of the replay.
    :param replayed: What it is about, with what is scored.
    :param newer: The version of the data set.
    """
    if spec.data is None:
        raise ConfigurationError("data_version: it was trained on the built-in data")
    # No row of before is left out, and none behind: the last fold ends with the data.
    fold = None if spec.fold is None else spec.fold.model_copy(update={"test_to": None})
    overrides = tuple(
        each
        for each in spec.schedule.config_overrides
        # As the rules of then said; it would end the rows where those of then ended.
        if each.partition("=")[0].strip() != "split.test_to"
    )
    return spec.model_copy(
        update={
            "replay": replayed,
            "data": pin_newer(spec.data, newer),
            "fold": fold,
            "schedule": spec.schedule.model_copy(update={"config_overrides": overrides}),
        }
    )


# --- what the judge says -------------------------------------------------------------------------


class ForwardAnswer(BaseModel):
    """
    What the judge's program says of a training's later rows.

    :param judged: Whether it has figures.
    :param judge: Its version.
    :param reason: Why it has none.
    :param rows: How many rows count.
    :param first: The first of them.
    :param last: The last one.
    :param metrics: Its figures by name; ``None`` for one that is undefined.
    :param notes: Why a figure is undefined, by its name.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    judged: bool
    judge: Annotated[str, Field(max_length=40)]
    reason: str | None = Field(default=None, max_length=_MAX_REASON)
    rows: int = Field(default=0, ge=0)
    first: datetime | None = None
    last: datetime | None = None
    metrics: dict[str, _Figure | None] = Field(default={}, max_length=_MAX_FIGURES)
    notes: dict[str, _Note] = Field(default={}, max_length=_MAX_FIGURES)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.judged and (not self.rows or self.first is None or self.last is None):
            raise ValueError("is judged, and has no rows")
        if not self.judged and not self.reason:
            raise ValueError("is not judged, and does not say why")
        return self


def build_question(
    forward: Forwarded,
    *,
    interval: int,
    before: str,
    predictions: str,
    data_before: str,
    data_dir: str,
) -> dict[str, JsonValue]:
    """
    Return what the judge's program is asked.

    :param forward: What was scored.
    :param interval: The training's prediction interval.
    :param before: Path of the predictions.csv of the training.
    :param predictions: Path of the one of the scoring.
    :param data_before: Folder of the data set that the training had.
    :param data_dir: Folder of the newer version.
    """
    return {
        "rules": forward.rules.model_dump(mode="json"),
        "interval": interval,
        "before": before,
        "predictions": predictions,
        "data_before": data_before,
        "data_dir": data_dir,
        "saved_at": forward.saved_at.isoformat(),
        "added_at": forward.added_at.isoformat(),
    }


def accept_answer(answer: ForwardAnswer, score: ForwardScore, *, now: datetime) -> ForwardScore:
    """
    Return a forward score with what the judge says.

    :param score: What was wanted.
    """
    told = score.change(scored_at=now, judge=answer.judge)
    if not answer.judged:
        return told.change(reason=build_line(answer.reason or "the judge gave no figures"))
    return told.change(
        reason=None,
        rows=answer.rows,
        first=answer.first,
        last=answer.last,
        metrics={name: answer.metrics[name] for name in FIGURES if name in answer.metrics},
        metric_notes={name: answer.notes[name] for name in FIGURES if name in answer.notes},
    )


def build_score(replayed: Replayed, interval: int | None, data: str) -> ForwardScore:
    """Return the forward score that a run computes, by what is on its record."""
    return ForwardScore(
        task_id=replayed.task_id, interval=interval, fence=replayed.fence, data=data
    )


def tell_none(submission: Submission) -> str | None:
    """
    Say why a submission shows no forward score; ``None`` if it shows some, or has none to show.

    One that was never trained, or goes on, has nothing to explain.
    """
    if submission.forward or submission.status is not SubmissionStatus.SUCCESS:
        return None
    if submission.replay_of is not None:
        return None
    objection = find_objection(submission)
    if objection is not None:
        return objection
    name = submission.data.name if submission.data else ""
    return f"no newer version of {name!r} has been added since"
