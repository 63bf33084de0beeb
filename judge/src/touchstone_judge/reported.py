"""What a training says of itself in ``result.json``, against what the judge holds and computes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from touchstone_judge.backtest import Scale
from touchstone_judge.data import MarketData
from touchstone_judge.errors import NotJudged, show
from touchstone_judge.metrics import RESAMPLED, Figure
from touchstone_judge.rows import JudgedRows
from touchstone_judge.rules import Border, Rules, find_start, read_border

FILE: Final = "result.json"
MAX_BYTES: Final = 1024**2
CONTRACT: Final = 2
TOLERANCE: Final = 1e-9
"""Of a figure that depends on nothing random, relative to the larger of itself and 1."""

RESAMPLED_TOLERANCE: Final = 0.25
"""Of an end of a resampled interval, relative to the interval's width: two honest estimates from
1,000 resamples differ by 3 % of it as a rule."""


def read_reported(content: bytes) -> Mapping[str, Any]:
    """
    Return a result.json, of which nothing is believed.

    :raises NotJudged: If it is none of contract 2.
    """
    if len(content) > MAX_BYTES:
        raise NotJudged(f"{FILE}: has more than {MAX_BYTES} bytes")
    try:
        document: object = json.loads(content, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise NotJudged(f"{FILE}: is no JSON: {show(str(error))}") from error
    if not isinstance(document, dict):
        raise NotJudged(f"{FILE}: is no object")
    contract = document.get("contract")
    if contract == 1:
        raise NotJudged("the image speaks contract 1, whose predictions cannot be recomputed")
    if contract != CONTRACT:
        raise NotJudged(f"{FILE}: is of contract {show(contract)}, not {CONTRACT}")
    return document


def check_rows(
    reported: Mapping[str, Any], *, rules: Rules, data: MarketData, rows: JudgedRows, interval: int
) -> None:
    """
    Refuse a training on other data, rows or costs than the rules'.

    :raises NotJudged: Naming the first difference.
    """
    if reported.get("prediction_interval") != interval:
        told = show(reported.get("prediction_interval"))
        raise NotJudged(f"{FILE}: prediction_interval is {told}, the training's is {interval}")
    for name, value, due, is_same in _list_settings(_read_table(reported, "params"), rules):
        if not is_same:
            kind = "rows" if name.startswith("split.") else "rules"
            raise NotJudged(f"other {kind} ({name} is {show(value)}, the rules say {show(due)})")
    facts = _read_table(reported, "data")
    if facts.get("sha256") != data.sha256:
        told = show(facts.get("sha256"), 64)
        raise NotJudged(f"other data (data.sha256 is {told}, the rules say {data.sha256})")
    _check_times(reported, data=data, rows=rows)


def check_figures(
    reported: Mapping[str, Any], scale: Scale, figures: Mapping[str, Figure], *, resamples: int
) -> None:
    """
    Refuse a training that tells other figures than its predictions give.

    A figure that it does not tell is no deviation, and one that the judge does not know is none
    either: it is shown nowhere as judged.

    :param resamples: The judge's own; an interval from fewer is too noisy to be compared.
    :raises NotJudged: Naming the first figure that deviates, with both values.
    """
    told = _read_table(reported, "scale")
    for name, due in (("mean", scale.mean), ("std", scale.std)):
        if not _is_close(told.get(name), due):
            raise NotJudged(_tell_deviation(f"scale.{name}", told.get(name), due))
    metrics = _read_table(reported, "metrics")
    low, high = figures["net_sharpe_low"].value, figures["net_sharpe_high"].value
    drawn = _read_table(reported, "params").get("backtest.n_resamples")
    is_noisy = not isinstance(drawn, int) or drawn < resamples
    for name, figure in figures.items():
        if name not in metrics:
            continue
        if name in RESAMPLED:
            # Whether there is an interval at all depends on the draws, too.
            if is_noisy or low is None or high is None or metrics[name] is None:
                continue
            room = RESAMPLED_TOLERANCE * (high - low)
        else:
            room = TOLERANCE * max(1.0, abs(figure.value or 0.0))
        if not _is_within(metrics[name], figure.value, room):
            raise NotJudged(_tell_deviation(name, metrics[name], figure.value))


def _list_settings(
    params: Mapping[str, Any], rules: Rules
) -> Iterator[tuple[str, object, str | float, bool]]:
    """
    Yield each setting that decides on rows or costs.

    :return: Its name, what is told, what is due, and whether that is the same.
    """
    for name, border in (
        ("split.validation_from", rules.validation_from),
        ("split.test_from", rules.test_from),
        ("split.test_to", rules.test_to),
    ):
        due = "" if border is None else border.isoformat()
        yield name, params.get(name), due, _is_border(params.get(name), border)
    for name, number in (
        ("backtest.cost_bps", rules.cost_bps),
        ("backtest.bars_per_year", rules.bars_per_year),
    ):
        yield name, params.get(name), number, _is_same(params.get(name), number)


def _check_times(reported: Mapping[str, Any], *, data: MarketData, rows: JudgedRows) -> None:
    facts = _read_table(reported, "data")
    for name, row in (("first", 0), ("last", len(data.times) - 1)):
        if _read_time(facts.get(name)) != data.times[row]:
            told = show(facts.get(name))
            raise NotJudged(f"other rows (data.{name} is {told}, the rules say {data.show(row)})")
    split = _read_table(reported, "split")
    for part, indices in (("validation", rows.validation), ("test", rows.test)):
        ends = _read_table(split, part, f"split.{part}")
        for name, row in (("first", int(indices[0])), ("last", int(indices[-1]))):
            if _read_time(ends.get(name)) != data.times[row]:
                raise NotJudged(
                    f"other rows (split.{part}.{name} is {show(ends.get(name))}, the rules say "
                    f"{data.show(row)})"
                )
    ends = _read_table(split, "train", "split.train")
    last = _read_time(ends.get("last"))
    if last is None or last > data.times[rows.train_until]:
        raise NotJudged(
            f"other rows (split.train.last is {show(ends.get('last'))}, the rules say "
            f"{data.show(rows.train_until)} at most)"
        )


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _read_table(document: Mapping[str, Any], name: str, shown: str = "") -> Mapping[str, Any]:
    value = document.get(name)
    if not isinstance(value, dict):
        raise NotJudged(f"{FILE}: {shown or name} is not there, or no object")
    return value


def _read_time(value: object) -> datetime | None:
    """Return a time in UTC, or midnight of a day alone; ``None`` for what is neither."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
        return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _is_border(told: object, due: Border | None) -> bool:
    if due is None or not isinstance(told, str):
        return due is None and told == ""
    if not isinstance(due, datetime):
        # Of a last one, the day is another thing than its first time.
        return told == due.isoformat()
    try:
        border = read_border(told)
    except (ValueError, OverflowError):
        return False
    return isinstance(border, datetime) and find_start(border) == due


def _is_same(told: object, due: float) -> bool:
    return isinstance(told, int | float) and not isinstance(told, bool) and told == due


def _is_close(told: object, due: float) -> bool:
    return _is_within(told, due, TOLERANCE * max(1.0, abs(due)))


def _is_within(told: object, due: float | None, room: float) -> bool:
    if told is None or due is None:
        return told is None and due is None
    if isinstance(told, bool) or not isinstance(told, int | float):
        return False
    try:
        return math.isfinite(told) and abs(told - due) <= room
    except OverflowError:
        # A whole number that no float holds.
        return False


def _tell_deviation(name: str, told: object, due: float | None) -> str:
    recomputed = "null" if due is None else repr(due)
    said = "null" if told is None else show(told)
    return f"{name}: {FILE} says {said}, its predictions give {recomputed}"
