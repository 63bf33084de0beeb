"""Verdicts on submissions, out of a question that is plain JSON. Pure."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from touchstone_judge.beside import Predictions, find_beside, show_beside
from touchstone_judge.comparison import ALPHA, Edge, compare
from touchstone_judge.panel import FloatArray, Panel, sharpe_ratios, take_out_market
from touchstone_judge.verdict import (
    RULES_VERSION,
    Outcome,
    Verdict,
    find_duplicates,
    find_too_few,
    judge_arrival,
    judge_closing,
    tell,
)

FLAT = "flat"
INDEX = "index"
REFERENCES = (FLAT, INDEX)
"""Who holds nothing, and who holds the instrument all the time: always shown, never judged."""

MIN_RESAMPLES = 1_000
FINE_RESAMPLES = 10_000
"""Where a p below 5 % divided by the arrivals decides."""


def answer(question: Mapping[str, Any]) -> dict[str, Any]:
    """
    Judge the submissions that are asked about.

    Arrays are base64 of little-endian doubles, rows first.

    :param question: ``baseline`` (its name), ``baseline_net`` (null for one that holds nothing),
        ``market``, ``series`` (everybody's on these rows, the oldest first: a list of ``name``,
        ``net``, ``content``, the digest of content and configuration, and ``prediction``, its
        scores, or null), ``rows``, ``intervals``, ``bars_per_year``, ``seed``; ``folds``, the rows
        of each fold, left out where there are none;
        ``baseline_prediction`` and ``target``, or null; and either ``arrivals`` and ``judged``, the
        names of those that have arrived, or ``earlier``, the verdict that each has so far by its
        name, for the closing.
    :return: ``rules_version``; ``verdicts`` by name, each with ``outcome``, ``reason``,
        ``sentence`` and ``edge``; ``scores`` by name, each with ``score`` and ``net_sharpe``,
        those of the references and the baseline as ``#flat``,
        ``#index`` and ``#baseline``; ``beside`` by the names of ``verdicts``, see
        :class:`touchstone_judge.beside.Beside`.
    :raises KeyError: If the question lacks something.
    :raises ValueError: If arrays are not of the shape that they should have, or not finite.
    """
    baseline, listed = str(question["baseline"]), list(question["series"])
    panel = _build_panel(question, baseline, listed)
    names = [str(each["name"]) for each in listed]
    is_closing = question.get("earlier") is not None
    wanted = names if is_closing else [str(name) for name in question["judged"]]
    if unknown := set(wanted) - set(names):
        raise ValueError(f"there is no series of {min(unknown)}")
    too_few = find_too_few(panel.rows, panel.longest_interval, panel.folds)
    if too_few is not None:
        verdicts = {name: Verdict(outcome=Outcome.NOT_JUDGED, reason=too_few) for name in wanted}
    elif is_closing:
        earlier = {
            str(name): Verdict(outcome=Outcome(said)) for name, said in question["earlier"].items()
        }
        edges = compare(panel, resamples=_choose_resamples(names), seed=int(question["seed"]))
        verdicts = judge_closing(edges, earlier)
    else:
        verdicts = _judge_arrivals(panel, wanted, question)
    duplicates = find_duplicates((str(each["name"]), str(each["content"])) for each in listed)
    for name in duplicates.keys() & set(wanted):
        # They stay in the panel: who draws often is counted as often.
        verdicts[name] = Verdict(outcome=Outcome.DUPLICATE, reason=duplicates[name])
    predictions = _read_predictions(question, panel)
    beside = find_beside(predictions, panel, wanted, is_closing=is_closing)
    return {
        "rules_version": RULES_VERSION,
        "verdicts": {name: _show(verdicts[name], baseline) for name in wanted},
        "scores": _score(panel, question),
        "beside": show_beside(beside),
    }


def _read_predictions(question: Mapping[str, Any], panel: Panel) -> Predictions:
    intervals = tuple(int(each) for each in question["intervals"])
    shape = (panel.rows, len(intervals))
    # What was stored before there were any has none.
    given = [question.get("baseline_prediction"), question.get("target")]
    baseline, target = (None if each is None else _read_finite(each, shape) for each in given)
    scores = [each.get("prediction") for each in question["series"]]
    return Predictions(
        names=panel.submissions,
        intervals=intervals,
        rows=panel.rows,
        folds=panel.folds,
        scores=[None if each is None else _read_finite(each, shape) for each in scores],
        baseline=baseline,
        is_flat=question["baseline_net"] is None,
        target=target,
    )


def _read_finite(text: str, shape: tuple[int, ...]) -> FloatArray:
    values = _read(text, shape)
    if not np.isfinite(values).all():
        raise ValueError("a prediction or an outcome is not finite")
    return values


def _judge_arrivals(
    panel: Panel, wanted: Sequence[str], question: Mapping[str, Any]
) -> dict[str, Verdict]:
    arrivals, seed = int(question["arrivals"]), int(question["seed"])
    if arrivals < 1:
        raise ValueError("arrivals: is not positive")
    among_all = {edge.name: edge for edge in compare(panel, resamples=MIN_RESAMPLES, seed=seed)}
    places = [0, *(1 + panel.submissions.index(name) for name in wanted)]
    alone = replace(panel, names=tuple(panel.names[i] for i in places), net=panel.net[:, places, :])
    # The smallest p that so many resamples can give lies well below the bound that it decides by.
    fine = max(FINE_RESAMPLES, math.ceil(4 * arrivals / ALPHA))
    own = {edge.name: edge for edge in compare(alone, resamples=fine, seed=seed)}
    return {
        name: judge_arrival(replace(among_all[name], p_own=own[name].p_own), arrivals=arrivals)
        for name in wanted
    }


def _choose_resamples(names: Sequence[str]) -> int:
    # So many that the smallest p is far below 5 %; more only cost time where there are many.
    return FINE_RESAMPLES if len(names) <= 100 else MIN_RESAMPLES


def _build_panel(
    question: Mapping[str, Any], baseline: str, listed: Sequence[Mapping[str, Any]]
) -> Panel:
    rows, intervals = int(question["rows"]), [int(each) for each in question["intervals"]]
    if rows < 1 or min(intervals, default=0) < 1:
        raise ValueError("rows and intervals are positive, and there are some")
    shape = (rows, len(intervals))
    given = question["baseline_net"]
    columns = [np.zeros(shape) if given is None else _read(given, shape)]
    columns += [_read(each["net"], shape) for each in listed]
    return Panel(
        # A submission may be called as one of the references is.
        names=(f"baseline {baseline}", *(str(each["name"]) for each in listed)),
        net=np.stack(columns, axis=1),
        market=_read(question["market"], (rows,)),
        longest_interval=max(intervals),
        bars_per_year=float(question["bars_per_year"]),
        folds=tuple(int(each) for each in question.get("folds") or ()),
    )


def _read(text: str, shape: tuple[int, ...]) -> FloatArray:
    raw = base64.b64decode(text, validate=True)
    return np.frombuffer(raw, dtype="<f8").astype(np.float64).reshape(shape)


def _show(verdict: Verdict, baseline: str) -> dict[str, Any]:
    is_kept = verdict.edge is None and verdict.outcome not in {
        Outcome.DUPLICATE,
        Outcome.NOT_JUDGED,
    }
    return {
        "outcome": verdict.outcome.value,
        "reason": verdict.reason,
        # One that stays as it was has its sentence already.
        "sentence": None if is_kept else tell(verdict, baseline),
        "edge": _show_edge(verdict.edge),
    }


def _show_edge(edge: Edge | None) -> dict[str, Any] | None:
    if edge is None:
        return None
    return {name: value for name, value in asdict(edge).items() if name != "name"}


def _score(panel: Panel, question: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    index = np.repeat(panel.market[:, None, None], panel.net.shape[2], axis=2)
    held = np.concatenate([np.zeros_like(index), index], axis=1)
    net = np.concatenate([held, panel.net], axis=1)
    active = take_out_market(net, panel.market)
    bars = float(question["bars_per_year"])
    scores = sharpe_ratios(active, bars).mean(axis=1)
    sharpes = sharpe_ratios(net, bars).mean(axis=1)
    names = (*(f"#{name}" for name in REFERENCES), "#baseline", *panel.submissions)
    return {
        name: {"score": float(scores[i]), "net_sharpe": float(sharpes[i])}
        for i, name in enumerate(names)
    }
