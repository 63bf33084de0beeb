"""What is compared with what: series on common rows, the judge's question, and the board. Pure."""

from __future__ import annotations

import base64
import hashlib
import math
import sys
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Self

from pydantic import BaseModel, ConfigDict, JsonValue

from touchstone.core.event_rules import is_judged_row
from touchstone.core.events import Event
from touchstone.core.fold_results import find_missing_fold, tell_failed
from touchstone.core.outcomes import Outcome
from touchstone.core.records.beside import BEFORE_BESIDE, NOT_COMPARED, Beside, lack_beside
from touchstone.core.records.events import (
    Entry,
    EntryPlace,
    EventRecord,
    Figures,
    Series,
    VerdictRecord,
)
from touchstone.core.records.judged import BEFORE_JUDGING, JudgedSeries
from touchstone.core.records.submissions import NOT_JUDGED
from touchstone.core.records.tasks import Published, Task
from touchstone.core.results import MAIN_METRIC
from touchstone.core.states import TaskStatus
from touchstone_agent.protocol.errors import PermanentError

ARRIVAL: Final = "arrival"
CLOSING: Final = "closing"
FLAT: Final = "flat"
INDEX: Final = "index"
BASELINE: Final = "baseline"
MAX_NUMBERS: Final = 1_000_000
"""Rows times intervals of one entry: a thousand entries of the canned data have a hundredth."""


class NoSeries(PermanentError):
    """A submission has no judged rows to compare; the message says why."""


@dataclass(frozen=True, kw_only=True)
class JoinedSeries:
    """
    The judged rows of all intervals of a submission, on the rows that all of them have.

    :param intervals: The prediction intervals, in the order of the columns.
    :param times: When, ISO 8601 in UTC.
    :param net: Base64 of little-endian doubles: net returns, rows first.
    :param market: The same of the instrument's returns.
    :param prediction: As ``net``, of long minus short scores.
    :param target: As ``net``, of the returns over the intervals; ``None`` if one was not kept.
    :param rules: Digest of the rules they were judged by.
    :param folds: How many rows are of each fold, in their order; empty for none.
    """

    intervals: tuple[int, ...]
    times: tuple[str, ...]
    net: str
    market: str
    prediction: str
    target: str | None
    rules: str
    folds: tuple[int, ...] = ()

    @property
    def rows_digest(self) -> str:
        """Return a digest that is the same for the same rows."""
        return hashlib.sha256("\n".join(self.times).encode()).hexdigest()

    def build_document(self) -> dict[str, JsonValue]:
        """Return what is stored of it beside its entry's record."""
        return {
            "net": self.net,
            "market": self.market,
            "prediction": self.prediction,
            "target": self.target,
            "rows_digest": self.rows_digest,
        }


@dataclass(frozen=True, kw_only=True)
class StoredSeries:
    """
    The rows of an entry as they are stored; see :class:`JoinedSeries`.

    :param prediction: ``None`` in what was stored before predictions were kept.
    :param target: ``None`` likewise.
    """

    net: str
    market: str
    prediction: str | None = None
    target: str | None = None

    @classmethod
    def load(cls, document: Mapping[str, JsonValue]) -> Self:
        """
        Return what is stored beside an entry's record.

        :raises NoSeries: If it makes no sense.
        """
        found = {name: document.get(name) for name in ("net", "market", "prediction", "target")}
        net, market = found["net"], found["market"]
        prediction, target = found["prediction"], found["target"]
        if not isinstance(net, str) or not isinstance(market, str):
            raise NoSeries("its stored rows have no returns")
        return cls(
            net=net,
            market=market,
            prediction=prediction if isinstance(prediction, str) else None,
            target=target if isinstance(target, str) else None,
        )


def find_unjudged(tasks: Sequence[tuple[Task, Published | None]]) -> str | None:
    """Say why a submission's trainings cannot be compared with anything; ``None`` if they can."""
    failed = [task for task, _ in tasks if task.status is not TaskStatus.SUCCESS]
    if failed or not tasks:
        return tell_failed([task for task, _ in tasks], failed)
    missing = find_missing_fold([task for task, _ in tasks])
    if missing is not None:
        return f"{missing}: it is not on record"
    for task, published in tasks:
        judged = published.judged if published else None
        if judged is None:
            return f"{task.task_id}: {BEFORE_JUDGING}"
        if not judged.is_judged:
            return f"{task.task_id}: {judged.reason or 'the judge gave no figures'}"
    return None


def chain_folds(folds: Sequence[JudgedSeries]) -> JudgedSeries:
    """
    Return the judged rows of an interval's folds, one after the other: each is there once.

    :param folds: The rows of each fold, in order; a single one is of an interval without folds.
    :raises NoSeries: If a row is in two of them, or they are out of order.
    """
    if len(folds) == 1:
        return folds[0]
    time = tuple(each for fold in folds for each in fold.time)
    if any(before >= after for before, after in pairwise(time)):
        raise NoSeries("its folds share rows, or are out of order; train it again")
    targets = [fold.target for fold in folds if fold.target is not None]
    return JudgedSeries(
        time=time,
        net=tuple(each for fold in folds for each in fold.net),
        market=tuple(each for fold in folds for each in fold.market),
        score=tuple(each for fold in folds for each in fold.score),
        target=(
            tuple(each for target in targets for each in target)
            if len(targets) == len(folds)
            else None
        ),
    )


def find_server_scores(tasks: Sequence[tuple[Task, Published | None]]) -> Figures | None:
    """
    Return what a submission scores by its servers' judges: means over the intervals.

    Each interval was scored on its own rows, since no rows are here that all could be cut to.

    :return: ``None`` if a figure of one is missing.
    """
    scores, sharpes = [], []
    for _, published in tasks:
        judged = published.judged if published else None
        score = judged.there.active_sharpe if judged and judged.there else None
        sharpe = judged.metrics.get(MAIN_METRIC) if judged else None
        if score is None or sharpe is None:
            return None
        scores.append(score)
        sharpes.append(sharpe)
    if not scores:
        return None
    return Figures(
        score=math.fsum(scores) / len(scores), net_sharpe=math.fsum(sharpes) / len(sharpes)
    )


def has_failed_by_infrastructure(tasks: Iterable[Task]) -> bool:
    """Tell whether trainings failed, and nothing of the submission's made them."""
    failed = [task.newest.outcome for task in tasks if task.status is not TaskStatus.SUCCESS]
    free = {Outcome.FAILED_INFRASTRUCTURE, Outcome.LOST}
    return bool(failed) and all(outcome in free for outcome in failed)


def join_series(
    event: Event,
    found: Mapping[int, Sequence[JudgedSeries]],
    rules: Mapping[int, Sequence[str]],
) -> JoinedSeries:
    """
    Put the judged rows of all intervals side by side, as far as they are an event's.

    :param event: The event.
    :param found: By interval, of each of its folds; of one without folds a single one.
    :param rules: Digest of the rules of each, likewise.
    :raises NoSeries: If they were judged by different rules, or have no rows in common.
    """
    intervals = tuple(sorted(found))
    series = {interval: chain_folds(found[interval]) for interval in intervals}
    if len({tuple(each) for each in rules.values()}) != 1:
        raise NoSeries("its intervals were judged by different rules; train it again")
    shared = set.intersection(*(set(series[each].time) for each in intervals))
    common = {time for time in shared if is_judged_row(event, time)}
    if len(common) * len(intervals) > MAX_NUMBERS:
        raise NoSeries(f"{len(common)} rows of {len(intervals)} intervals are too many")
    if not common:
        raise NoSeries("none of its judged rows is one of the event's, over all intervals")
    times = tuple(time for time in series[intervals[0]].time if time in common)

    def pack(columns: Sequence[Sequence[float]]) -> str:
        picked = [
            [value for time, value in zip(series[each].time, column, strict=True) if time in common]
            for each, column in zip(intervals, columns, strict=True)
        ]
        return _pack(value for row in zip(*picked, strict=True) for value in row)

    first = series[intervals[0]]
    market = [v for time, v in zip(first.time, first.market, strict=True) if time in common]
    targets = [known for each in intervals if (known := series[each].target) is not None]
    parts = found[intervals[0]]
    sizes = [sum(time in common for time in part.time) for part in parts]
    return JoinedSeries(
        intervals=intervals,
        times=times,
        net=pack([series[each].net for each in intervals]),
        market=_pack(market),
        prediction=pack([series[each].score for each in intervals]),
        target=pack(targets) if len(targets) == len(intervals) else None,
        rules=_join_rules(rules[intervals[0]]),
        # What an event leaves out may be a whole fold.
        folds=tuple(filter(None, sizes)) if len(parts) > 1 else (),
    )


def _join_rules(digests: Sequence[str]) -> str:
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def find_difference(series: Series, baseline: Series) -> str | None:
    """Say why two series are not comparable; ``None`` if they are."""
    if series.intervals != baseline.intervals:
        told = ",".join(map(str, series.intervals))
        return f"other intervals: {told}; the baseline has {','.join(map(str, baseline.intervals))}"
    if series.folds != baseline.folds:
        # Before the rules, which say where each fold begins.
        return f"other rows: {_tell_rows(series)}; the baseline has {_tell_rows(baseline)}"
    if series.rules != baseline.rules:
        return "other rules: it was judged by other rules than the baseline; train it again"
    if series.rows_digest != baseline.rows_digest:
        return f"other rows: {_tell_rows(series)}; the baseline has {_tell_rows(baseline)}"
    return None


def build_question(
    event: EventRecord,
    *,
    baseline: str,
    rows: StoredSeries,
    like: Series,
    series: Sequence[tuple[Entry, StoredSeries]],
    seed: int,
) -> dict[str, JsonValue]:
    """
    Return what the judge is asked, but for whom, and when.

    :param rows: The baseline's; any, if it holds nothing.
    :param like: A series, for the shape of all.
    :param series: Everybody's entries on these rows, the oldest first.
    """
    is_flat = baseline == FLAT
    # Of the same rows and intervals they are the same in every series that has kept them.
    targets = (each.target for each in (rows, *(found for _, found in series)) if each.target)
    return {
        **({"folds": list(like.folds)} if like.folds else {}),
        "baseline": baseline,
        "baseline_net": None if is_flat else rows.net,
        "baseline_prediction": None if is_flat else rows.prediction,
        "market": rows.market,
        "target": next(targets, None),
        "series": [
            {
                "name": entry.label,
                "net": found.net,
                "prediction": found.prediction,
                "content": entry.work or entry.label,
            }
            for entry, found in series
        ],
        "rows": like.rows,
        "intervals": list(like.intervals),
        "bars_per_year": event.definition.judging.bars_per_year,
        "seed": seed,
    }


def build_board_question(
    entries: Iterable[Entry], *, baseline: str, own: str | None
) -> dict[str, JsonValue]:
    """
    Return what the judge is asked to draw: each entry's difference from a baseline.

    :param entries: The event's; one that was compared with another baseline is left out.
    :param own: Label of the entry that it is drawn for; ``None`` for none.
    """
    rows: list[JsonValue] = []
    for entry in entries:
        verdict = entry.verdict
        edge = verdict.edge if verdict and verdict.baseline == baseline else None
        if edge is not None:
            rows.append(
                {
                    "name": entry.submission_id,
                    "difference": edge.difference,
                    "low": edge.low,
                    "high": edge.high,
                    "is_own": entry.label == own,
                }
            )
    return {"kind": "board", "baseline": baseline, "rows": rows}


def list_verdict_metrics(entry: Entry) -> dict[str, float]:
    """Return the figures of an entry's verdict by name; one that is undefined is left out."""
    verdict = entry.verdict
    edge = verdict.edge if verdict else None
    if verdict is None or edge is None:
        return {}
    beside = find_beside(verdict)
    told = {
        "score": entry.score,
        "difference": edge.difference,
        "difference_low": edge.low,
        "difference_high": edge.high,
        "p": edge.p_adjusted,
        "n": edge.compared,
        "similarity": beside.similarity.value,
        "similarity_nearest": beside.nearest.value,
        "contribution": beside.contribution.value,
        "contributivity": beside.contributivity.value,
        "deflated_sharpe": beside.deflated_sharpe.value,
        "overfitting": beside.overfitting.value,
        "leading_p": beside.leading.value,
    }
    return {name: float(value) for name, value in told.items() if value is not None}


def build_work(phase: str, baseline: str | None, series: Series | None, *others: str) -> str:
    """Return a digest that is the same where the same would be judged again."""
    told = [phase, baseline or "", series.part.sha256 if series else "", *others]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()


def tell_not_judged(reason: str) -> str:
    """Return the sentence of what is not judged."""
    return f"Not judged: {reason}."


class BoardRow(BaseModel):
    """
    A row of a leaderboard.

    :param rank: 1 for the best; ``None`` without a score.
    :param name: What stands in the row: a submission, or what all are compared with.
    :param score: Mean Sharpe ratio beyond the market.
    :param reason: Why there is no score.
    :param n: How many were counted by the p value.
    :param seed_count: Of how many seeds its predictions are the mean; ``None`` if nobody knows.
    :param baseline_seed_count: The same of what it was compared with.
    :param fold_count: In how many forward folds its rows are judged; ``None`` without folds.
    :param beside: What is shown beside the verdict, each figure or why there is none.
    :param waived_columns: Its columns against which no look-ahead is held.
    """

    model_config = ConfigDict(frozen=True)

    rank: int | None = None
    name: str
    submission_id: str | None = None
    run_id: str | None = None
    user: str | None = None
    created_at: str | None = None
    score: float | None = None
    net_sharpe: float | None = None
    verdict: str | None = None
    sentence: str | None = None
    reason: str | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    n: int | None = None
    rules_version: int | None = None
    seed_count: int | None = None
    baseline_seed_count: int | None = None
    fold_count: int | None = None
    beside: Beside | None = None
    waived_columns: tuple[str, ...] = ()


# --- the board ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class BoardPlace:
    """
    A place on a leaderboard.

    :param rank: 1 for the best; ``None`` without a score.
    :param entry: The key of the entry that stands there; ``None`` for a reference.
    :param row: The row of a reference; ``None`` for an entry.
    """

    rank: int | None
    entry: str | None
    row: BoardRow | None


def rank_entries(
    event: EventRecord, entries: Iterable[Entry] | Iterable[EntryPlace]
) -> list[BoardPlace]:
    """
    Return the places of an event's leaderboard, best first.

    Ranked at full precision; equal scores share a rank, the earlier one stands first; what has no
    score stands last. ``flat`` and ``index`` are always there.

    :param entries: All of the event's.
    """
    told = [
        (each.score, each.created_at.isoformat(), each.submission_id, each.entry, None)
        for each in entries
        if each.verdicts
    ]
    references = [(row.score, "", row.name, None, row) for row in _build_references(event)]
    scored, rest = [], []
    for score, at, name, entry, row in (*told, *references):
        if score is None:
            rest.append((at, name, entry, row))
        else:
            scored.append((score, at, name, entry, row))
    scored.sort(key=lambda each: (-each[0], *each[1:3]))
    rest.sort(key=lambda each: each[:2])
    # Equal scores share the rank of the first of them.
    ranks = {each[0]: place for place, each in reversed([*enumerate(scored, start=1)])}
    return [
        *(BoardPlace(rank=ranks[each[0]], entry=each[3], row=each[4]) for each in scored),
        *(BoardPlace(rank=None, entry=each[2], row=each[3]) for each in rest),
    ]


def build_board(
    event: EventRecord, entries: Iterable[Entry], places: Sequence[BoardPlace] | None = None
) -> dict[str, JsonValue]:
    """
    Return an event's leaderboard, best first, or some places of it.

    :param entries: Those that stand there.
    :param places: Which; ``None`` for all, where the entries are all of the event's.
    """
    known = {each.entry: each for each in entries}
    rows = []
    for place in rank_entries(event, known.values()) if places is None else places:
        entry = known.get(place.entry or "")
        row = build_row(entry) if entry else place.row
        if row is not None:
            rows.append(row.model_copy(update={"rank": place.rank}))
    return {
        "event": event.name,
        "title": event.definition.title,
        "baseline": event.chosen_baseline,
        "closed_at": event.closed_at.isoformat() if event.closed_at else None,
        "rows": [row.model_dump(mode="json") for row in rows],
    }


def show_history(entry: Entry) -> list[JsonValue]:
    """Return all that was said of an entry, the oldest first."""
    return [_show_verdict(verdict) for verdict in entry.verdicts]


def _show_verdict(verdict: VerdictRecord) -> dict[str, JsonValue]:
    edge = verdict.edge
    return {
        "at": verdict.at.isoformat(),
        "phase": verdict.phase,
        "verdict": verdict.outcome,
        "sentence": verdict.sentence,
        "baseline": verdict.baseline,
        "rules_version": verdict.rules_version,
        "seed_count": verdict.seed_count,
        "baseline_seed_count": verdict.baseline_seed_count,
        "edge": edge.dump() if edge else None,
        "beside": verdict.beside.dump() if verdict.beside else None,
        "waived_columns": list(verdict.waived_columns),
    }


def show_row(entry: Entry) -> dict[str, JsonValue]:
    """Return an entry as a row of its board, without a rank."""
    shown: dict[str, JsonValue] = build_row(entry).model_dump(mode="json")
    return shown


def build_row(entry: Entry) -> BoardRow:
    """Return an entry as a row of its board, without a rank."""
    verdict = entry.verdict
    edge = verdict.edge if verdict else None
    has_score = entry.score is not None
    return BoardRow(
        name=entry.submission_id,
        submission_id=entry.submission_id,
        run_id=entry.run_id,
        user=entry.user,
        created_at=entry.created_at.isoformat(),
        score=entry.score,
        net_sharpe=entry.net_sharpe,
        verdict=str(verdict.outcome) if verdict else None,
        sentence=verdict.sentence if verdict else None,
        reason=None if has_score or verdict is None else verdict.reason,
        difference=edge.difference if edge else None,
        low=edge.low if edge else None,
        high=edge.high if edge else None,
        p=edge.p_adjusted if edge else None,
        n=edge.compared if edge else None,
        rules_version=verdict.rules_version if verdict else None,
        seed_count=verdict.seed_count if verdict else None,
        baseline_seed_count=verdict.baseline_seed_count if verdict else None,
        fold_count=len(entry.series.folds) or None if entry.series else None,
        beside=find_beside(verdict) if verdict else None,
        waived_columns=entry.waived_columns,
    )


def find_beside(verdict: VerdictRecord) -> Beside:
    """Return what stands beside a verdict; where there is nothing, why."""
    if verdict.beside is not None:
        return verdict.beside
    return lack_beside(NOT_COMPARED if verdict.outcome == NOT_JUDGED else BEFORE_BESIDE)


def _build_references(event: EventRecord) -> list[BoardRow]:
    names = [FLAT, INDEX]
    if event.chosen_baseline not in {None, FLAT}:
        names.append(BASELINE)
    rows = []
    for name in names:
        found = event.references.get(name)
        rows.append(
            BoardRow(
                name=name if name != BASELINE else f"baseline {event.chosen_baseline}",
                score=found.score if found else None,
                net_sharpe=found.net_sharpe if found else None,
                reason=None if found else "no submission was compared yet",
            )
        )
    return rows


def _pack(values: Iterable[float]) -> str:
    packed = array("d", values)
    if sys.byteorder == "big":
        packed.byteswap()
    return base64.b64encode(packed.tobytes()).decode()


def _tell_rows(series: Series) -> str:
    first, last = series.first, series.last
    several = f" in {len(series.folds)} folds" if series.folds else ""
    span = f"{first.date() if first else '?'} to {last.date() if last else '?'}"
    return f"{series.rows} rows{several}, {span}"
