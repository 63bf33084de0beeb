"""What the folds of an interval come to together: each judged row is counted once. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from pydantic import JsonValue

from touchstone.core.names import build_task_id
from touchstone.core.records.judged import JudgedSeries, JudgedStatus, JudgingRules
from touchstone.core.records.submissions import Number, ResultLine
from touchstone.core.records.tasks import Published, Task
from touchstone.core.states import TaskStatus
from touchstone_agent.protocol.words import build_line

EACH_BY_ITSELF: Final = "of each fold by itself: what one model says is not ranked among another's"

_BY_FOLD: Final = ("turnover", "auc_long", "auc_short")
"""Main figures that folds have, and all of them together do not."""
_MAX_REASON: Final = 400


@dataclass(frozen=True, kw_only=True)
class Pooled:
    """
    What the judge finds of all folds of an interval together.

    :param metrics: Its figures by name; empty where there are none.
    :param notes: Why a figure is undefined, by its name.
    :param reason: Why there are none; empty where there are, or they are held back.
    """

    metrics: Mapping[str, Number | None] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""


def tell_failed(tasks: Sequence[Task], failed: Sequence[Task]) -> str:
    """Say how many intervals have no result; of one in folds, each fold must have one."""
    wanted, lacking = ({task.interval for task in each} for each in (tasks, failed))
    which = next((f" ({task.task_id})" for task in failed if task.spec.fold), "")
    return f"{len(lacking)} of {len(wanted)} intervals have no result{which}"


def find_missing_fold(tasks: Sequence[Task]) -> str | None:
    """Return the id of a fold that no training is of; ``None`` if each interval has all of its."""
    there = {task.task_id for task in tasks}
    for task in tasks:
        for number in range(task.spec.fold.count if task.spec.fold else 0):
            wanted = build_task_id(task.interval or 0, number)
            if wanted not in there:
                return wanted
    return None


def group_folds(
    tasks: Sequence[tuple[Task, Published | None]],
) -> dict[int, list[tuple[Task, Published | None]]]:
    """Return the trainings of each interval that was trained in folds, in the folds' order."""
    found: dict[int, list[tuple[Task, Published | None]]] = {}
    for task, published in tasks:
        if task.spec.fold is not None and task.spec.replay is None and task.interval is not None:
            found.setdefault(task.interval, []).append((task, published))
    for folds in found.values():
        folds.sort(key=lambda each: each[0].spec.fold.number if each[0].spec.fold else 0)
    return found


def find_unpoolable(folds: Sequence[tuple[Task, Published | None]]) -> str | None:
    """Say why nothing is computed of an interval's folds; ``None`` if all are judged."""
    for task, published in folds:
        judged = published.judged if published else None
        if task.status is not TaskStatus.SUCCESS:
            return f"{task.task_id} has no result"
        if judged is None or not judged.is_judged or judged.series is None:
            return f"{task.task_id} is not judged"
    missing = find_missing_fold([task for task, _ in folds])
    return f"{missing} is not on record" if missing else None


def build_question(
    series: Sequence[JudgedSeries], rules: JudgingRules, interval: int
) -> dict[str, JsonValue]:
    """
    Return what the judge is asked.

    :param series: The judged rows of each fold, in order.
    :param rules: By which they were judged, their days aside.
    """
    return {
        "interval": interval,
        "bars_per_year": rules.bars_per_year,
        "resamples": rules.resamples,
        "folds": [
            {
                "time": list(each.time),
                "net": list(each.net),
                "score": list(each.score),
                "target": list(each.target or ()),
            }
            for each in series
        ],
    }


def summarise_folds(
    interval: int, lines: Sequence[ResultLine], pooled: Pooled | None
) -> ResultLine:
    """
    Return an interval's line in its submission's results, which stands for all of its folds.

    :param lines: Those of its folds, in order.
    :param pooled: What they come to together; ``None`` if nobody has asked.
    """
    whole = ResultLine(
        task_id=build_task_id(interval),
        interval=interval,
        status=TaskStatus.SUCCESS,
        metrics={},
        may_carry_code=any(line.may_carry_code for line in lines),
    )
    failed = [line for line in lines if line.status is not TaskStatus.SUCCESS]
    if failed:
        reason = build_line(f"{failed[0].task_id}: {failed[0].reason or 'it has no result'}")
        return whole.change(status=failed[0].status, reason=reason)
    unjudged = next((line for line in lines if line.judged is not JudgedStatus.JUDGED), None)
    reason = f"{unjudged.task_id}: {unjudged.judged_reason}" if unjudged else ""
    if not reason:
        reason = "nobody has asked the judge" if pooled is None else pooled.reason
    if reason or pooled is None:
        return whole.change(
            judged=JudgedStatus.NOT_JUDGED, judged_reason=build_line(reason, _MAX_REASON)
        )
    notes = dict.fromkeys(_BY_FOLD, EACH_BY_ITSELF) if pooled.metrics else {}
    return whole.change(
        judged=JudgedStatus.JUDGED,
        metrics=pooled.metrics,
        metric_notes={**notes, **pooled.notes},
    )
