"""
Recomputes every figure of one training from its predictions and the judge's own prices.

What a training has left is hostile. It is read in a process that holds no submitted code, has read
all else before, and can open nothing any more: no file and no connection.
"""

from __future__ import annotations

import resource
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from touchstone_judge import VERSION, reported
from touchstone_judge import rows as judged_rows
from touchstone_judge.backtest import Returns, find_scale, hold
from touchstone_judge.data import MarketData, load_market_data
from touchstone_judge.errors import JudgeFault, NotJudged
from touchstone_judge.metrics import (
    Outcomes,
    compute_metrics,
    find_active_sharpe,
    find_beta,
)
from touchstone_judge.panel import FloatArray
from touchstone_judge.rows import find_rows, read_predictions
from touchstone_judge.rules import MAX_INTERVAL, Rules, read_rules


@dataclass(frozen=True, kw_only=True)
class Training:
    """
    What a training has left.

    :param interval: Its prediction interval, by the record.
    :param result: Its result.json.
    :param predictions: Its predictions.csv; ``None`` if it has left none.
    """

    interval: int
    result: bytes
    predictions: bytes | None


def answer(question: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return the answer to a question, as JSON values.

    :param question: ``rules``, ``interval``, and paths: ``result``, ``predictions`` (or null), and
        ``data_dir``, the data set's folder (or null, for the canned data).
    :return: ``judged``, ``judge`` (its version), and either ``reason`` or what :func:`judge`
        returns.
    :raises JudgeFault: If the judge cannot work at all; that says nothing of the training.
    """
    rules = read_rules(_get_table(question, "rules"))
    data = load_market_data(_read_folder(question.get("data_dir")))
    rules.check(data)
    training = Training(
        interval=_read_interval(question.get("interval")),
        result=_read_file(question.get("result"), reported.MAX_BYTES),
        predictions=(
            None
            if question.get("predictions") is None
            else _read_file(question["predictions"], judged_rows.MAX_BYTES)
        ),
    )
    rehearse()
    close_the_door()
    try:
        return {"judged": True, "judge": VERSION, **judge(training, data, rules)}
    except NotJudged as refusal:
        return {"judged": False, "judge": VERSION, "reason": refusal.reason}


def judge(training: Training, data: MarketData, rules: Rules) -> dict[str, Any]:
    """
    Return every figure of a training.

    :return: ``metrics`` and ``notes`` by name, ``beta``, ``active_sharpe``, ``positions``, and
        the judged rows as lists of one length: ``time``, ``net``, ``market``, ``score``,
        ``target``, ``position``, and the models' own scores, ``long`` and ``short``.
    :raises NotJudged: If its rows are not the rules', or if it tells other figures.
    """
    said = reported.read_reported(training.result)
    rows = find_rows(data, rules, training.interval)
    reported.check_rows(said, rules=rules, data=data, rows=rows, interval=training.interval)
    if training.predictions is None:
        raise NotJudged("predictions.csv: the training has left none")
    predictions = read_predictions(training.predictions, data, rows)
    test, close = rows.test, data.close
    market: FloatArray = close[test + 1] / close[test] - 1
    target: FloatArray = close[test + training.interval] / close[test] - 1
    score: FloatArray = predictions.long - predictions.short
    scale = find_scale(predictions.validation)
    returns = hold(score, market, scale, interval=training.interval, cost_bps=rules.cost_bps)
    figures = compute_metrics(
        Outcomes(
            long=predictions.long,
            short=predictions.short,
            target=target,
            threshold=rules.cost_bps / 10_000,
        ),
        returns,
        interval=training.interval,
        bars_per_year=rules.bars_per_year,
        resamples=rules.resamples,
    )
    reported.check_figures(said, scale, figures, resamples=rules.resamples)
    return {
        "metrics": {name: figure.value for name, figure in figures.items()},
        "notes": {name: figure.note for name, figure in figures.items() if figure.note},
        "beta": find_beta(returns.net, market),
        "active_sharpe": find_active_sharpe(returns.net, market, rules.bars_per_year),
        "positions": _describe(returns),
        "time": [data.times[row].isoformat() for row in test],
        "net": returns.net.tolist(),
        "market": market.tolist(),
        "score": score.tolist(),
        "target": target.tolist(),
        "position": returns.position.tolist(),
        "long": predictions.long.tolist(),
        "short": predictions.short.tolist(),
    }


def rehearse() -> None:
    """Compute figures of numbers of our own: libraries load parts of themselves at first use."""
    wave: FloatArray = np.sin(np.arange(300.0))
    returns = hold(wave, wave / 100, find_scale(wave), interval=2, cost_bps=1.0)
    outcomes = Outcomes(long=wave, short=-wave, target=wave, threshold=0.0)
    compute_metrics(outcomes, returns, interval=2, bars_per_year=252, resamples=10)
    find_beta(returns.net, wave)
    find_active_sharpe(returns.net, wave, 252)
    _describe(returns)


def close_the_door() -> None:
    """Let this process open no file and no connection any more, whatever it reads from here on."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))


def _describe(returns: Returns) -> dict[str, float]:
    position = returns.position
    return {
        "mean": float(position.mean()),
        "mean_absolute": float(np.abs(position).mean()),
        "least": float(position.min()),
        "most": float(position.max()),
        "long_share": float((position > 0).mean()),
        "short_share": float((position < 0).mean()),
    }


def _get_table(question: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = question.get(name)
    if not isinstance(value, dict):
        raise JudgeFault(f"the question has no {name}")
    return value


def _read_interval(value: object) -> int:
    if not isinstance(value, int) or not 1 <= value <= MAX_INTERVAL:
        raise JudgeFault(f"the interval is {value!r:.60}, not from 1 to {MAX_INTERVAL}")
    return value


def _read_folder(value: object) -> Path | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value or "\0" in value:
        raise JudgeFault(f"data_dir is {value!r:.60}, not a folder or null")
    return Path(value)


def _read_file(path: object, max_bytes: int) -> bytes:
    """Return a file's first bytes: one more than it may have, so that the caller notices."""
    try:
        with Path(str(path)).open("rb") as file:
            return file.read(max_bytes + 1)
    except OSError as error:
        raise JudgeFault(f"{str(path)!r:.200} cannot be read: {error.strerror}") from error
