"""
A training that is run again, and how its outcome compares with the first. Pure.

Bits are promised within a determinism class alone: the same backend, instructions or GPU model and
driver, and the same versions. Across classes the outcomes count as equivalent within bounds.
"""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

from pydantic import JsonValue

from touchstone.core.attempts import build_attempt_spec, count_gpus
from touchstone.core.records.tasks import StoredFile, Task
from touchstone.core.results import MAIN_METRIC, ResultRefused, TrainerResult
from touchstone.core.schedule import Schedule
from touchstone.core.states import TaskStatus
from touchstone.core.tasks import Replayed, ReplayedFile, TaskSpec, find_held_data
from touchstone_agent.protocol.errors import ConfigurationError
from touchstone_agent.protocol.messages import SlotClass
from touchstone_agent.protocol.words import build_line

RESULT = "result.json"
PREDICTIONS = "predictions.csv"
SIDES = ("score_long", "score_short")

MIN_RANK_CORRELATION = 0.9999
"""Least rank correlation of the scores of either side, across classes."""
MAX_SHARPE_DIFFERENCE = 0.02
"""Most that the net Sharpe ratios may be apart, across classes."""

MAX_PREDICTIONS_BYTES = 32 * 1024**2
MAX_ROWS = 500_000
"""Predictions that are compared; both are read into memory."""
_MAX_CELL = 200
PART = "part"
_SCORED = "test"
PARTS = ("validation", _SCORED)
"""Of the rows of a predictions.csv of contract 2."""


class Likeness(StrEnum):
    """How like the first outcome the second is."""

    IDENTICAL = "identical"
    EQUIVALENT = "equivalent"
    DIFFERENT = "different"


@dataclass(frozen=True, kw_only=True)
class Side:
    """
    One of the two outcomes.

    :param result: What is kept of its result.json, see
        :func:`touchstone.core.results.check_result`.
    :param predictions: Its predictions.csv.
    :param predictions_sha256: Digest of that, as the store has checked it.
    :param image_digest: Image that it ran in; ``None`` if nobody knows.
    """

    result: TrainerResult
    predictions: bytes
    predictions_sha256: str
    image_digest: str | None

    @property
    def determinism(self) -> str | None:
        """Return its determinism class; ``None`` if nothing is promised, or nobody knows."""
        told = (self.result.device or {}).get("determinism")
        promises = isinstance(told, str) and not (
            told.startswith("unknown") or told.endswith("not deterministic")
        )
        return str(told) if promises else None


# --- what is run again --------------------------------------------------------------------------


def find_objection(task: Task) -> str | None:
    """Say why a task cannot be run again; ``None`` if it can."""
    if task.kind is not SlotClass.TRAINING:
        return "only a training can be replayed"
    if task.spec.replay is not None:
        return f"it is a replay itself, of {task.spec.replay.key}"
    if find_held_data(task.spec) is not None:
        return "its outcome stays at the server that holds its data; there is nothing to compare"
    if task.status is not TaskStatus.SUCCESS:
        return f"it is {task.status}; only what has ended well has an outcome to compare with"
    return None


def build_replayed(task: Task, files: Sequence[StoredFile]) -> Replayed:
    """
    Return what is on record of the outcome that another is to be compared with.

    :param task: The task whose newest attempt is run again.
    :param files: That attempt's files.
    :raises ConfigurationError: If there is nothing to compare with.
    """
    key = task.name
    by_path = {file.path: file for file in files}
    found = {}
    for path, most in ((RESULT, None), (PREDICTIONS, MAX_PREDICTIONS_BYTES)):
        file = by_path.get(path)
        if file is None:
            raise ConfigurationError(f"replay: {key} has left no {path} to compare with")
        if most is not None and file.size > most:
            raise ConfigurationError(
                f"replay: {path} of {key} has {file.size} bytes; at most {most} are compared"
            )
        found[path] = ReplayedFile(sha256=file.sha256, size=file.size)
    return Replayed(
        submission_id=task.submission_id,
        task_id=task.task_id,
        key=key,
        attempt=task.newest.number,
        fence=task.fence,
        image_digest=task.newest.image_digest,
        result=found[RESULT],
        predictions=found[PREDICTIONS],
    )


def build_replay_spec(
    task: Task,
    replayed: Replayed,
    *,
    submission_id: str,
    user: str,
    hosts: Sequence[str] = (),
) -> TaskSpec:
    """
    Return what the replay of a task runs: what the task ran, under its own name.

    :param task: The task.
    :param replayed: Its outcome.
    :param submission_id: The replay's submission.
    :param user: Who asked, and whose share, budget and name it is.
    :param hosts: Where alone it may run; empty for where the task might.
    """
    spec = build_attempt_spec(task)
    return spec.model_copy(
        update={
            "submission_id": submission_id,
            "submitted_by": user,
            "replay": replayed,
            "schedule": spec.schedule.model_copy(
                update={
                    # What ran on a GPU is no replay on a CPU.
                    "require_cuda": spec.schedule.require_cuda or count_gpus(task.newest) > 0,
                    "allowed_hosts": tuple(hosts) or spec.schedule.allowed_hosts,
                    "priority": min(spec.schedule.priority, 0),
                }
            ),
        }
    )


def build_replay_schedule(spec: TaskSpec) -> Schedule:
    """Return the schedule that a replay's specification amounts to, for people and for checks."""
    # Of several folds a replay trains one, whose rows its specification has.
    asked = spec.schedule.model_dump(exclude={"baseline", "event", "max_hours", "folds"})
    commit = spec.elnigma.commit if spec.elnigma else None
    return Schedule(**{**asked, "intervals": (spec.interval or 0,), "branch": commit})


# --- the comparison -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """
    How the outcome of a replay compares with the first one.

    :param verdict: How like it is.
    :param reason: Why, in one line.
    :param class_was: Determinism class of the first; ``None`` if nothing is promised.
    :param class_now: That of the replay.
    :param is_same_class: Whether bits must be the same.
    :param rank_correlation: By side; ``None`` where it was not needed.
    :param sharpe_difference: How far the Sharpe ratios are apart; ``None`` likewise.
    """

    verdict: Likeness
    reason: str
    class_was: str | None
    class_now: str | None
    is_same_class: bool
    rank_correlation: Mapping[str, float] | None = None
    sharpe_difference: float | None = None

    def dump(self) -> dict[str, JsonValue]:
        """Return it as plain JSON values."""
        return asdict(self) | {"verdict": self.verdict.value}


def judge_replay(was: Side, now: Side) -> Comparison:
    """
    Compare two outcomes.

    :param was: The first.
    :param now: That of the replay.
    :raises ResultRefused: If predictions are no table of finite numbers.
    """
    versions = was.result.versions == now.result.versions
    is_same_class = was.determinism is not None and was.determinism == now.determinism and versions
    classes = _tell_classes(was, now, is_same_class=is_same_class)

    def say(
        likeness: Likeness,
        reason: str,
        ranks: Mapping[str, float] | None = None,
        apart: float | None = None,
    ) -> Comparison:
        return Comparison(
            verdict=likeness,
            reason=build_line(reason),
            class_was=was.determinism,
            class_now=now.determinism,
            is_same_class=is_same_class,
            rank_correlation=ranks,
            sharpe_difference=apart,
        )

    if was.predictions_sha256 == now.predictions_sha256:
        return say(Likeness.IDENTICAL, f"the same predictions, bit for bit; {classes}")
    other = _find_other_input(was, now)
    if other is not None:
        return say(Likeness.DIFFERENT, other)
    rows_was, rows_now = read_predictions(was.predictions), read_predictions(now.predictions)
    are_alike = bool(rows_was.parts) == bool(rows_now.parts)
    if not are_alike:
        # Written by trainers of two versions of the contract.
        rows_was, rows_now = rows_was.find_scored(), rows_now.find_scored()
    if (rows_was.times, rows_was.parts) != (rows_now.times, rows_now.parts):
        told = f"predictions for other rows: {len(rows_was.times)} and {len(rows_now.times)}"
        return say(Likeness.DIFFERENT, f"{told}; {classes}")
    if rows_was.scores == rows_now.scores and not are_alike:
        told = "the same predictions, number for number, in another file"
        return say(Likeness.IDENTICAL, f"{told}; {classes}")
    ranks = {
        side: _correlate(rows_was.scores[side], rows_now.scores[side]) for side in rows_was.scores
    }
    apart = _find_sharpe_difference(was, now)
    is_near = (
        min(ranks.values()) >= MIN_RANK_CORRELATION
        and apart is not None
        and apart <= MAX_SHARPE_DIFFERENCE
    )
    figures = _tell_figures(min(ranks.values()), apart)
    if is_same_class:
        told = f"{classes}, where bits must be the same: {figures}"
        return say(Likeness.DIFFERENT, told, ranks, apart)
    word = Likeness.EQUIVALENT if is_near else Likeness.DIFFERENT
    return say(word, f"{figures}; {classes}", ranks, apart)


def _tell_classes(was: Side, now: Side, *, is_same_class: bool) -> str:
    if is_same_class:
        told = f"one determinism class ({was.determinism})"
    elif was.determinism is not None and was.determinism == now.determinism:
        told = f"another determinism class, of other versions ({_tell_versions(was, now)})"
    else:
        told = (
            f"another determinism class: it was {was.determinism or 'unknown'}, "
            f"and is {now.determinism or 'unknown'}"
        )
    if was.image_digest and now.image_digest and was.image_digest != now.image_digest:
        told += ", in another image"
    return told


def _tell_versions(was: Side, now: Side) -> str:
    old, new = was.result.versions or {}, now.result.versions or {}
    changed = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    name = changed[0]
    more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
    return f"{name} {old.get(name) or 'none'}, now {new.get(name) or 'none'}{more}"


def _tell_figures(rank_correlation: float, apart: float | None) -> str:
    sharpe = "no net Sharpe ratio" if apart is None else f"net Sharpe ratios {apart:.4f} apart"
    return (
        f"rank correlation {rank_correlation:.6f} (bound {MIN_RANK_CORRELATION}), "
        f"{sharpe} (bound {MAX_SHARPE_DIFFERENCE})"
    )


def _find_other_input(was: Side, now: Side) -> str | None:
    old, new = (side.result.data or {} for side in (was, now))
    if old.get("sha256") != new.get("sha256"):
        return build_line(
            f"it was trained on other data: {old.get('sha256')}, and now {new.get('sha256')}"
        )
    if was.result.seed != now.result.seed:
        return f"it had another seed: {was.result.seed}, and now {now.result.seed}"
    counts = [side.result.seed_count or 1 for side in (was, now)]
    if counts[0] != counts[1]:
        return f"it had another number of seeds: {counts[0]}, and now {counts[1]}"
    return None


def _find_sharpe_difference(was: Side, now: Side) -> float | None:
    """Return how far the Sharpe ratios are apart; ``None`` if only one of them is defined."""
    old, new = (side.result.metrics.get(MAIN_METRIC) for side in (was, now))
    if old is None and new is None:
        return 0.0
    return None if old is None or new is None else abs(float(old) - float(new))


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """
    A predictions.csv, as far as it is compared.

    :param times: What each row is of.
    :param scores: The scores of both sides, row by row.
    :param parts: The part of each row; empty where all are scored, as in contract 1.
    """

    times: tuple[str, ...]
    scores: Mapping[str, tuple[float, ...]]
    parts: tuple[str, ...] = ()

    def find_scored(self) -> Predictions:
        """Return the scored rows alone, which are all that a result of contract 1 has."""
        if not self.parts:
            return self
        rows = [row for row, part in enumerate(self.parts) if part == _SCORED]
        return Predictions(
            times=tuple(self.times[row] for row in rows),
            scores={
                side: tuple(values[row] for row in rows) for side, values in self.scores.items()
            },
        )


def read_predictions(text: bytes) -> Predictions:
    """
    Read a predictions.csv, which comes from a container that ran submitted code.

    :raises ResultRefused: If it is no table of a bounded size and of finite numbers.
    """
    if len(text) > MAX_PREDICTIONS_BYTES:
        raise ResultRefused(f"{PREDICTIONS}: has more than {MAX_PREDICTIONS_BYTES} bytes")
    times: list[str] = []
    parts: list[str] = []
    scores: dict[str, list[float]] = {side: [] for side in SIDES}
    try:
        rows = csv.DictReader(io.StringIO(text.decode(), newline=""), strict=True)
        for number, row in enumerate(rows, start=2):
            if number > MAX_ROWS:
                raise ResultRefused(f"{PREDICTIONS}: has more than {MAX_ROWS} rows")
            if PART in row:
                parts.append(_read_part(row[PART], number))
            times.append(str(row.get("time"))[:_MAX_CELL])
            for side in SIDES:
                scores[side].append(_read_score(row.get(side), side, number))
    except (csv.Error, UnicodeDecodeError) as error:
        raise ResultRefused(f"{PREDICTIONS}: {build_line(str(error))}") from error
    if not times:
        raise ResultRefused(f"{PREDICTIONS}: has no rows")
    return Predictions(
        times=tuple(times),
        scores={side: tuple(values) for side, values in scores.items()},
        parts=tuple(parts),
    )


def _read_part(text: object, line: int) -> str:
    if text not in PARTS:
        told = build_line(repr(text), 60)
        raise ResultRefused(f"{PREDICTIONS}: line {line}: part is {told}, not {' or '.join(PARTS)}")
    return str(text)


def _read_score(text: object, side: str, line: int) -> float:
    cell = str(text)
    try:
        score = float(cell) if len(cell) <= _MAX_CELL else math.nan
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        told = build_line(repr(text), 60)
        raise ResultRefused(f"{PREDICTIONS}: line {line}: {side} is {told}, not a finite number")
    return score


def _correlate(one: Sequence[float], other: Sequence[float]) -> float:
    """Return Spearman's rank correlation; of what is constant, whether both are the same."""
    a, b = _rank(one), _rank(other)
    try:
        return statistics.correlation(a, b)
    except statistics.StatisticsError:
        return float(a == b)


def _rank(values: Sequence[float]) -> list[float]:
    """Return ranks from 1; equal values share the mean of theirs."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and values[order[end + 1]] == values[order[start]]:
            end += 1
        for place in order[start : end + 1]:
            ranks[place] = (start + end) / 2 + 1
        start = end + 1
    return ranks
