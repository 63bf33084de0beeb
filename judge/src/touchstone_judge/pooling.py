"""The figures of an interval over all of its folds, out of rows that the judge has judged. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from touchstone_judge import VERSION
from touchstone_judge.metrics import compute_pooled
from touchstone_judge.panel import FloatArray


def answer(question: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return the figures of some folds together: each row is counted once.

    :param question: ``folds``, each with ``time``, ``net``, ``score`` and ``target`` of its judged
        rows, as lists of one length; ``interval``, ``bars_per_year`` and ``resamples``.
    :return: ``metrics`` and ``notes`` by name, and ``judge``, its version.
    :raises KeyError: If the question lacks something.
    :raises ValueError: If rows are not of one length, not finite, or not in time order: a row that
        is in two folds would count twice.
    """
    folds: Sequence[Mapping[str, Any]] = list(question["folds"])
    times = [str(each) for fold in folds for each in fold["time"]]
    sizes = [len(fold["time"]) for fold in folds]
    if not sizes or min(sizes) < 1:
        raise ValueError("a fold has no rows")
    if any(before >= after for before, after in pairwise(times)):
        raise ValueError("the rows of the folds are not in time order, or some are in two of them")
    net, score, target = (_chain(folds, sizes, name) for name in ("net", "score", "target"))
    if len(net) < 2:
        raise ValueError("there are fewer than two rows")
    figures = compute_pooled(
        net,
        score,
        target,
        folds=sizes,
        interval=int(question["interval"]),
        bars_per_year=int(question["bars_per_year"]),
        resamples=int(question["resamples"]),
    )
    return {
        "judge": VERSION,
        "metrics": {name: figure.value for name, figure in figures.items()},
        "notes": {name: figure.note for name, figure in figures.items() if figure.note},
    }


def _chain(folds: Sequence[Mapping[str, Any]], sizes: Sequence[int], name: str) -> FloatArray:
    parts = [np.array(fold[name], dtype=np.float64) for fold in folds]
    for part, size in zip(parts, sizes, strict=True):
        if part.shape != (size,):
            raise ValueError(f"{name}: is not as long as the times of its fold")
    chained: FloatArray = np.concatenate(parts)
    if not np.isfinite(chained).all():
        raise ValueError(f"{name}: is not finite")
    return chained
