"""
The forward score: what the models of a training have earned on rows that came after them.

Nobody could have known these rows when the models were saved. So none of them counts that is not
later, and nothing may differ in the rows of before: neither data nor predictions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np

from touchstone_judge import VERSION
from touchstone_judge import rows as judged_rows
from touchstone_judge.backtest import find_scale, hold
from touchstone_judge.data import MarketData, check_extended, load_market_data
from touchstone_judge.errors import JudgeFault, NotJudged
from touchstone_judge.metrics import compute_pooled
from touchstone_judge.panel import FloatArray
from touchstone_judge.recompute import close_the_door, rehearse
from touchstone_judge.rows import (
    FILE,
    Indices,
    JudgedRows,
    Predictions,
    find_rows,
    read_predictions,
)
from touchstone_judge.rules import MAX_INTERVAL, Rules, read_rules

EMBARGO: Final = timedelta(days=1)
"""
How much later than the models a row is at least.

A time without a zone is taken as UTC, and may be 14 hours off.
"""
MOST_DIFFERENCE: Final = 4e-3
"""
What a prediction of a row of before may differ by.

Half of what a layer that computes in 16 bits loses; other models differ by far more somewhere.
"""
_MIN_ROWS: Final = 2


@dataclass(frozen=True, kw_only=True)
class Forward:
    """
    One scoring.

    :param interval: Prediction interval of the training, by the record.
    :param before: The predictions.csv of the training.
    :param predictions: What its models predict of the newer data.
    :param saved_at: When the models were there for good, by the record.
    :param added_at: When the newer data were added, likewise.
    """

    interval: int
    before: bytes
    predictions: bytes
    saved_at: datetime
    added_at: datetime


def answer(question: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return the answer to a question, as JSON values.

    :param question: ``rules`` of the training, ``interval``; paths: ``before`` and ``predictions``,
        ``data_before`` and ``data_dir``, the folders of both versions of the data set; ``saved_at``
        and ``added_at``, times with a zone.
    :return: ``judged``, ``judge`` (its version), and either ``reason`` or what :func:`score`
        returns.
    :raises JudgeFault: If the judge cannot work at all; that says nothing of the training.
    """
    rules = read_rules(_get(question, "rules", dict))
    folders = [Path(_get(question, name, str)) for name in ("data_before", "data_dir")]
    interval = question.get("interval")
    if type(interval) is not int or not 1 <= interval <= MAX_INTERVAL:
        raise JudgeFault(f"the interval is {interval!r:.60}, not from 1 to {MAX_INTERVAL}")
    was, now = (load_market_data(folder) for folder in folders)
    rules.check(was)
    asked = Forward(
        interval=interval,
        before=_read_file(_get(question, "before", str)),
        predictions=_read_file(_get(question, "predictions", str)),
        saved_at=_read_time(_get(question, "saved_at", str)),
        added_at=_read_time(_get(question, "added_at", str)),
    )
    try:
        check_extended(*folders)
        rehearse()
        close_the_door()
        return {"judged": True, "judge": VERSION, **score(asked, was, now, rules)}
    except NotJudged as refusal:
        return {"judged": False, "judge": VERSION, "reason": refusal.reason}


def score(asked: Forward, was: MarketData, now: MarketData, rules: Rules) -> dict[str, Any]:
    """
    Return the figures of the rows that came after the models.

    :param asked: The scoring.
    :param was: The data that the training had.
    :param now: The same with newer rows.
    :param rules: By which the training was judged.
    :return: ``metrics`` and ``notes`` by name, the counted rows' ``first`` and ``last`` time, and
        how many there are; ``largest_difference`` of the predictions of rows of before.
    :raises NotJudged: If predictions are not of exactly the rows that there are, differ in those of
        before, or no row counts yet.
    """
    old_rows = find_rows(was, rules, asked.interval)
    # What an event judged to its last day goes on behind it.
    rows = find_rows(now, replace(rules, test_to=None), asked.interval)
    before = read_predictions(asked.before, was, old_rows)
    after = read_predictions(asked.predictions, now, rows)
    difference = _check_same(before, after, now, rows)
    counted = _find_counted(asked, now, rows)
    test = rows.test[counted]
    close = now.close
    market: FloatArray = close[test + 1] / close[test] - 1
    target: FloatArray = close[test + asked.interval] / close[test] - 1
    scores: FloatArray = (after.long - after.short)[counted]
    returns = hold(
        scores,
        market,
        # Of before, as it was when the models were saved.
        find_scale(before.validation),
        interval=asked.interval,
        cost_bps=rules.cost_bps,
    )
    figures = compute_pooled(
        returns.net,
        scores,
        target,
        folds=(),
        interval=asked.interval,
        bars_per_year=rules.bars_per_year,
        resamples=rules.resamples,
    )
    return {
        "metrics": {name: figure.value for name, figure in figures.items()},
        "notes": {name: figure.note for name, figure in figures.items() if figure.note},
        "rows": len(test),
        "first": now.times[test[0]].isoformat(),
        "last": now.times[test[-1]].isoformat(),
        "largest_difference": difference,
    }


def _check_same(
    before: Predictions, after: Predictions, data: MarketData, rows: JudgedRows
) -> float:
    """Return the largest difference of the predictions of rows of before."""
    known = len(before.long)
    pairs = (
        ("the scores", before.validation, after.validation, rows.validation),
        ("score_long", before.long, after.long[:known], rows.test),
        ("score_short", before.short, after.short[:known], rows.test),
    )
    largest = 0.0
    for name, was, now, places in pairs:
        differs = np.abs(now - was)
        at = int(np.argmax(differs))
        largest = max(largest, float(differs[at]))
        if differs[at] > MOST_DIFFERENCE:
            raise NotJudged(
                f"other models ({FILE}: {name} of {data.show(places[at])} is {now[at]:.6g}, and "
                f"was {was[at]:.6g})"
            )
    return largest


def _find_counted(asked: Forward, data: MarketData, rows: JudgedRows) -> Indices:
    """Return which of the test rows count: all that are later than the models by the embargo."""
    last = data.times[-1]
    if last > asked.added_at + EMBARGO:
        raise NotJudged(
            f"other data (its last row is of {last.isoformat()}, and it was added "
            f"{asked.added_at.isoformat(timespec='seconds')}: nobody knew that row then)"
        )
    least = asked.saved_at + EMBARGO
    counted = np.array(
        [place for place, row in enumerate(rows.test) if data.times[row] > least], dtype=np.intp
    )
    if len(counted) < _MIN_ROWS:
        raise NotJudged(
            f"no rows yet (rows count from {least.isoformat(timespec='seconds')} on; the last one "
            f"of {data.name} whose outcome is known is of {data.show(rows.test[-1])})"
        )
    return counted


def _get(question: Mapping[str, Any], name: str, kind: type) -> Any:
    value = question.get(name)
    if not isinstance(value, kind) or (isinstance(value, str) and (not value or "\0" in value)):
        raise JudgeFault(f"the question has no {name}")
    return value


def _read_time(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise JudgeFault(f"{text!r:.60} names no zone")
    return moment.astimezone(UTC)


def _read_file(path: str) -> bytes:
    """Return a file's first bytes: one more than it may have, so that the reader notices."""
    try:
        with Path(path).open("rb") as file:
            return file.read(judged_rows.MAX_BYTES + 1)
    except OSError as error:
        raise JudgeFault(f"{path!r:.200} cannot be read: {error.strerror}") from error
