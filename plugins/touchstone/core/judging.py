"""Which rows of a training are judged, and what the judge's answer comes to."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import pairwise
from typing import Annotated, Final, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, model_validator

from touchstone.core.judging_rules import RULES, build_rules
from touchstone.core.records.judged import (
    BEFORE_JUDGING,
    MAX_ROWS,
    Judged,
    JudgedSeries,
    JudgedStatus,
    JudgedThere,
    JudgingRules,
    RulesUsed,
)
from touchstone.core.records.kept import StoredPart
from touchstone.core.records.tasks import Published
from touchstone.core.tasks import TaskSpec
from touchstone_agent.protocol.private import ServerJudged
from touchstone_agent.protocol.words import build_line

__all__ = [
    "CONTRACT_1",
    "RULES",
    "JudgeAnswer",
    "accept_answer",
    "accept_server_judged",
    "build_question",
    "build_rules",
    "find_other_rows",
    "hide_figures_of_reason",
    "hide_held_back",
    "mark_reported",
    "refuse_judging",
]

CONTRACT_1: Final = "the image speaks contract 1, whose predictions cannot be recomputed"

_MAX_REASON: Final = 400
_MAX_FIGURES: Final = 50
_OVERRIDE: Final = ("--config_override", "--config-override")

_Figure = Annotated[float, Field(allow_inf_nan=False)]
_Note = Annotated[str, BeforeValidator(lambda v: build_line(v, 200) if isinstance(v, str) else v)]


class JudgeAnswer(BaseModel):
    """
    What the judge's program says of a training.

    :param judged: Whether the figures are its own.
    :param reason: Why they are not.
    :param metrics: Its figures by name; ``None`` for one that is undefined.
    :param notes: Why a figure is undefined, by its name.
    :param beta: Slope of the net returns on the market's.
    :param time: The judged rows' times; ``net``, ``market``, ``score`` and ``target`` go with them.
    :param position: What was held over each of these rows.
    :param long: The long model's score of each row, and ``short`` the short model's.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    judged: bool
    reason: str | None = Field(default=None, max_length=_MAX_REASON)
    metrics: dict[str, _Figure | None] = Field(default={}, max_length=_MAX_FIGURES)
    notes: dict[str, _Note] = Field(default={}, max_length=_MAX_FIGURES)
    beta: _Figure | None = None
    time: tuple[str, ...] = Field(default=(), max_length=MAX_ROWS)
    net: tuple[_Figure, ...] = Field(default=(), max_length=MAX_ROWS)
    market: tuple[_Figure, ...] = Field(default=(), max_length=MAX_ROWS)
    score: tuple[_Figure, ...] = Field(default=(), max_length=MAX_ROWS)
    target: tuple[_Figure, ...] = Field(default=(), max_length=MAX_ROWS)
    position: tuple[_Figure, ...] = Field(default=(), max_length=MAX_ROWS)
    long: tuple[_Figure, ...] = Field(default=(), max_length=MAX_ROWS)
    short: tuple[_Figure, ...] = Field(default=(), max_length=MAX_ROWS)

    @model_validator(mode="after")
    def _check(self) -> Self:
        figures = [self.net, self.market, self.score, self.target]
        figures += [self.position, self.long, self.short]
        lengths = {len(self.time), *map(len, figures)}
        if self.judged and (len(lengths) > 1 or not self.time or not self.metrics):
            raise ValueError("is judged, and has no figures or rows, or some rows only")
        if not self.judged and not self.reason:
            raise ValueError("is not judged, and does not say why")
        return self

    @property
    def series(self) -> JudgedSeries:
        """Return the judged rows."""
        return JudgedSeries(
            time=self.time,
            net=self.net,
            market=self.market,
            score=self.score,
            target=self.target,
        )


def build_question(
    rules: JudgingRules,
    *,
    interval: int,
    result: str,
    predictions: str | None,
    data_dir: str | None = None,
) -> dict[str, JsonValue]:
    """
    Return what the judge's program is asked.

    :param rules: By which to judge.
    :param interval: Prediction interval of the training, by the record.
    :param result: Path of its result.json.
    :param predictions: Path of its predictions.csv; ``None`` if it has left none.
    :param data_dir: Path of the data set's folder; ``None`` for the judge's own.
    """
    return {
        "rules": rules.model_dump(mode="json"),
        "interval": interval,
        "result": result,
        "predictions": predictions,
        "data_dir": data_dir,
    }


def accept_answer(answer: JudgeAnswer, rules: JudgingRules, series: StoredPart | None) -> Judged:
    """
    Return what is on record of an answer.

    :param answer: The judge's.
    :param rules: By which it judged.
    :param series: Where the judged rows were stored; ``None`` if there are none.
    """
    if not answer.judged or series is None:
        return refuse_judging(answer.reason or "the judge gave no rows", rules)
    times = answer.time
    return Judged(
        status=JudgedStatus.JUDGED,
        metrics=answer.metrics,
        metric_notes=answer.notes,
        rules=RulesUsed(version=rules.version, sha256=rules.sha256),
        rows=len(times),
        first=datetime.fromisoformat(times[0]),
        last=datetime.fromisoformat(times[-1]),
        rows_digest=answer.series.rows_digest,
        beta=answer.beta,
        series=series,
    )


def accept_server_judged(said: ServerJudged, rules: JudgingRules, *, server: str) -> Judged:
    """
    Return what is on record of what the judge of a server says.

    Its rows stay there, so that nothing of it can be computed anew here.

    :param said: Its word.
    :param rules: By which it was to judge.
    :param server: Which server, by its signature.
    """
    there = JudgedThere(
        server=server,
        judge=said.judge,
        active_sharpe=said.active_sharpe,
        models=dict(said.models),
    )
    if said.rules_sha256 != rules.sha256:
        return refuse_judging(f"{server} judged by other rules", rules).change(there=there)
    if said.status != "judged":
        told = said.reason or "its judge gave no figures"
        return refuse_judging(f"{told} (by the judge of {server})", rules).change(there=there)
    return Judged(
        status=JudgedStatus.JUDGED,
        metrics=said.metrics,
        rules=RulesUsed(version=rules.version, sha256=rules.sha256),
        beta=said.beta,
        there=there,
    )


def refuse_judging(reason: str, rules: JudgingRules) -> Judged:
    """Return what is on record of a training that is not judged."""
    return Judged(
        status=JudgedStatus.NOT_JUDGED,
        reason=build_line(reason, _MAX_REASON),
        rules=RulesUsed(version=rules.version, sha256=rules.sha256),
    )


_DEVIATION: Final = re.compile(r"([\w.]+): result\.json says .*")


def hide_figures_of_reason(judged: Judged) -> Judged:
    """Return what is on record of a training, without a figure in the reason why it is reported."""
    found = _DEVIATION.fullmatch(judged.reason or "")
    if found is None:
        return judged
    return judged.change(reason=f"{found[1]}: result.json says another figure than its predictions")


def hide_held_back(published: Published) -> Published:
    """
    Return what a training has published, without any figure while its event holds them back.

    What was judged is on record all the same, since the closing judges by it.
    """
    if published.held_back is None:
        return published
    judged = published.judged
    return published.change(
        metrics={},
        metric_notes={},
        reported={},
        charts=(),
        drawn=None,
        replay=None,
        judged=judged.change(metrics={}, metric_notes={}, beta=None) if judged else None,
    )


def mark_reported(published: Published) -> Published:
    """
    Return what a training has published, its figures as reported if no judge has seen them.

    :param published: As it is on record; a replay is compared, never judged, and stays as it is.
    """
    if published.judged is not None or published.replay is not None:
        return published
    return published.change(
        judged=Judged(status=JudgedStatus.NOT_JUDGED, reason=BEFORE_JUDGING),
        metrics={},
        reported=published.metrics,
    )


# --- what was asked for -------------------------------------------------------------------------


def find_other_rows(spec: TaskSpec, rules: JudgingRules) -> str | None:
    """
    Return why a training was asked for that is not on the rules' rows, or costs.

    What was asked for is on record. What came of it the judge reads from the trainer's own word,
    which submitted code could have written.

    :return: ``None`` if it is on them, as far as its schedule says.
    """
    if spec.schedule.fetched_data_end_to is not None:
        told = spec.schedule.fetched_data_end_to
        return f"other rows (fetched_data_end_to is {told}, the rules say all data)"
    for key, value in _list_overrides(spec):
        due = _find_due(key, rules)
        if due is not None and not _is_same(value, due):
            kind = "rows" if key.startswith("split.") else "rules"
            return f"other {kind} ({key} is {build_line(value, 60)}, the rules say {due})"
    return None


def find_other_seeds(spec: TaskSpec, *, seed: int | None, seed_count: int | None) -> str | None:
    """
    Return why a training is not of the seeds that were asked for; ``None`` if it is.

    A branch's own configuration may say otherwise than the schedule, and an image may know of one
    seed only.

    :param seed: The first one, by its result.json; ``None`` if it does not tell.
    :param seed_count: How many, likewise.
    """
    schedule = spec.schedule
    found = {"seed": (seed, schedule.seed), "seed_count": (seed_count or 1, schedule.seed_count)}
    for name, (told, due) in found.items():
        if told is not None and told != due:
            return f"other seeds ({name} is {told}, the schedule says {due})"
    return None


def _list_overrides(spec: TaskSpec) -> Iterator[tuple[str, str]]:
    """Yield what is set of the configuration, each key as often as it is."""
    given = list(spec.schedule.config_overrides)
    words: list[str] = []
    for line in spec.schedule.passthrough_args:
        try:
            words += shlex.split(line)
        except ValueError:
            # The task would not have been planned; the judge reads what came of it.
            continue
    for word, following in pairwise([*words, ""]):
        name, separator, value = word.partition("=")
        if name in _OVERRIDE:
            given.append(value if separator else following)
    for each in given:
        key, _, value = each.partition("=")
        yield key.strip(), value.strip().strip("\"'")


def _find_due(key: str, rules: JudgingRules) -> str | float | None:
    due: Mapping[str, str | float] = {
        "split.validation_from": rules.validation_from.isoformat(),
        "split.test_from": rules.test_from.isoformat(),
        "split.test_to": "" if rules.test_to is None else rules.test_to.isoformat(),
        "backtest.cost_bps": rules.cost_bps,
        "backtest.bars_per_year": rules.bars_per_year,
    }
    return due.get(key)


def _is_same(value: str, due: str | float) -> bool:
    if isinstance(due, str):
        return value == due
    try:
        return math.isclose(float(value), due, rel_tol=0, abs_tol=0)
    except ValueError:
        return False
