"""Validation of a feature set: shape, determinism, look-ahead and missing values."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from elnigma.data import CANNED_UNTIL, load_market_data
from elnigma.errors import SubmissionError
from elnigma.feature_frame import (
    check_frame,
    compute_features,
    find_warm_up,
    format_time,
    show,
)
from elnigma.guard import build_guard
from elnigma.isolation import Reply, run_isolated
from elnigma.loading import FEATURE_SET, load_entry_point
from elnigma.progress import Progress
from elnigma.surroundings import change_all
from elnigma.validation.afresh import check_surroundings, compute_afresh
from elnigma.validation.look_ahead import (
    DROPPED,
    N_CUTS,
    Leak,
    choose_cuts,
    compare_before,
    explain,
    find_leaks,
)

N_FRESH_RUNS = 2
"""One in the same surroundings, one in others."""
# A slow feature set gets fewer cuts rather than a time limit that is not its fault.
LOOK_AHEAD_SECONDS = 20.0
MIN_CUTS = 4


class FeatureSetCheck:
    """
    The checks of one feature set; every call of submitted code happens in a forked child.

    :param reference: Folder or dotted name.
    :param seed: Decides the cuts.
    """

    def __init__(self, reference: str, *, seed: int) -> None:
        self._reference = reference
        self._folder = Path(reference) if Path(reference).is_dir() else None
        self._seed = seed
        self._data = load_market_data(CANNED_UNTIL).frame

    def run(self, progress: Progress) -> tuple[list[str], dict[str, Any]]:
        """
        Return the columns and what was checked.

        :raises SubmissionError: With the first thing that is wrong.
        """
        progress.tell("checking", 5)
        main = run_isolated(self._check_in_one_process)
        progress.tell("checking in fresh processes", 80)
        columns, checks = main.facts["columns"], main.facts["checks"]
        cuts = self._compare_fresh_processes(main.numbers(), columns, checks["warm_up_rows"])
        return columns, {**checks, "fresh_process_cuts": len(cuts)}

    def _check_in_one_process(self) -> Reply:
        guard = build_guard()
        guard.install()
        data = self._data
        with guard.on():
            function = load_entry_point(FEATURE_SET, self._reference)

        def compute(part: pd.DataFrame) -> Any:
            with guard.on():
                return compute_features(function, part, self._folder)

        started = time.monotonic()
        features = check_frame(compute(data), data)
        duration = time.monotonic() - started
        columns = list(features.columns)
        full = features.to_numpy()

        def compute_again(part: pd.DataFrame) -> np.ndarray:
            again = check_frame(compute(part), part)
            if list(again.columns) != columns:
                found = _compare_columns(columns, list(again.columns))
                raise SubmissionError(
                    f"wrong columns: when the data end earlier, {found}; return the same columns "
                    "for any rows"
                )
            return again.to_numpy()

        _check_same_again(full, compute_again(data), features)
        # Leading rows without any value are what a cut must come behind; stray NaN come later.
        warm_up = int(np.max(np.argmin(np.isnan(full), axis=0)))
        rng = np.random.default_rng(self._seed)
        n_cuts = int(np.clip(LOOK_AHEAD_SECONDS / (2 * max(duration, 1e-3)), MIN_CUTS, N_CUTS))
        cuts = choose_cuts(len(data), min(warm_up, len(data) // 2), rng, n_cuts)
        leaks = find_leaks(full, data, columns, cuts, compute_again, rng)
        if leaks:
            raise SubmissionError(explain(leaks, data, warm_up))
        warm_up = find_warm_up(features)
        checks = {
            "rows": len(data),
            "warm_up_rows": warm_up,
            "deterministic": True,
            "look_ahead_cuts": len(cuts),
            "look_ahead_leaks": 0,
            "seconds_per_run": round(duration, 4),
        }
        return Reply(facts={"columns": columns, "checks": checks}, array=full)

    def _compare_fresh_processes(
        self, full: np.ndarray, columns: list[str], warm_up: int
    ) -> list[int]:
        """Catch a module that goes by something else than its input."""
        rng = np.random.default_rng([self._seed, 1])
        cuts = choose_cuts(len(self._data), warm_up, rng, N_FRESH_RUNS)
        same_cut, changed_cut = cuts
        # What it saw behind a cut in an earlier call, it remembers in the same process only.
        reply = run_isolated(partial(compute_before, self._reference, same_cut))
        if reply.facts["columns"] != columns:
            found = _compare_columns(columns, reply.facts["columns"])
            raise SubmissionError(
                f"non-deterministic: in another process, {found}; return the same columns in the "
                "same order"
            )
        leaks = compare_before(full, reply.numbers(), columns, same_cut, DROPPED)
        if leaks:
            raise SubmissionError(
                f"{explain(leaks, self._data, warm_up)}, and keep none: seen only in a fresh "
                "process, so the module remembers rows of an earlier call"
            )

        def compare(reply: Reply) -> str | None:
            if reply.facts["columns"] != columns:
                return _compare_columns(columns, reply.facts["columns"])
            leaks = compare_before(full, reply.numbers(), columns, changed_cut, DROPPED)
            return _tell_difference(leaks[0], self._data) if leaks else None

        check_surroundings(
            partial(compute_afresh, FEATURE_SET.name, reference=self._reference, cut=changed_cut),
            compare,
            change_all(columns),
        )
        return cuts


def compute_before(reference: str, cut: int) -> Reply:
    """
    Compute the features of the rows before a cut, in this process, which is a child.

    :param reference: Folder or dotted name.
    :param cut: The first row that the module does not get.
    :raises SubmissionError: If the module fails.
    """
    guard = build_guard()
    guard.install()
    part = load_market_data(CANNED_UNTIL).frame.iloc[:cut]
    folder = Path(reference) if Path(reference).is_dir() else None
    with guard.on():
        function = load_entry_point(FEATURE_SET, reference)
        features = compute_features(function, part, folder)
    numbers = check_frame(features, part)
    return Reply(facts={"columns": list(numbers.columns)}, array=numbers.to_numpy())


def _tell_difference(leak: Leak, data: pd.DataFrame) -> str:
    return f"column {show(leak.column)} has another value at {format_time(data, leak.row)}"


def _compare_columns(first: list[str], other: list[str]) -> str:
    only = sorted(set(first) ^ set(other))
    if only:
        return f"there are other columns, {show(only[0])} among them"
    at = next(at for at, name in enumerate(first) if other[at] != name)
    return f"columns stand in another order, {show(other[at])} in place of {show(first[at])}"


def _check_same_again(first: np.ndarray, second: np.ndarray, features: pd.DataFrame) -> None:
    same = (first == second) | (np.isnan(first) & np.isnan(second))
    if not same.all():
        row, column = map(int, np.argwhere(~same)[0])
        raise SubmissionError(
            f"non-deterministic: column {show(features.columns[column])} at "
            f"{format_time(features, row)} is {first[row, column]:.6g} in one run and "
            f"{second[row, column]:.6g} in the next on the same data; seed every random number"
        )
