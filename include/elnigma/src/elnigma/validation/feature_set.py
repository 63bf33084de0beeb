"""
The checks of a feature set: shape, determinism, look-ahead and missing values.

A validation makes them for the reference training, a training for its own rows, and goes on with
the very features that were checked.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pandas as pd

from elnigma.config import BY_KEY, Config
from elnigma.data import MarketData, load_market_data
from elnigma.data_set import DataSet
from elnigma.errors import SubmissionError
from elnigma.feature_frame import find_warm_up, format_time, show
from elnigma.isolation import Reply
from elnigma.loading import FEATURE_SET
from elnigma.split import find_borders
from elnigma.surroundings import DEPENDS_ON, Surroundings, change_all
from elnigma.validation.afresh import build_command, check_surroundings
from elnigma.validation.feature_child import FeatureChild, FeaturePool, Features
from elnigma.validation.look_ahead import (
    DROPPED,
    REPLACED,
    Leak,
    Scale,
    choose_judged_cuts,
    compare_before,
    explain,
    find_block_ends,
    find_scale,
    find_short_block_ends,
    format_two,
    replace_future,
)
from elnigma.validation.waivers import Waivers
from elnigma.validation.worlds import (
    N_PLACEBOS,
    N_WORLDS,
    build_world,
    check_placebos,
    check_real_outcomes,
    find_suspects,
)

N_FRESH_RUNS = 2
"""One in the same surroundings, one in others."""
LOOK_BACK_ROWS = 260
"""What is compared before the end of a block: a year."""
_ENOUGH_LEAKS = 3
"""Cuts that show one, after which the cause is plain or will never be."""
_REMEMBERS = (
    ", and keep none: where the module has seen the later rows before, nothing changes, so it "
    "remembers rows of an earlier call"
)


@dataclass(frozen=True, kw_only=True)
class Spans:
    """
    Where the judged rows are, and where the data are cut.

    :param first: The first judged row; the rows before it are those of the training.
    :param parts: Of the validation and the test rows, the first and the one behind the last.
    """

    first: int
    parts: tuple[tuple[int, int], tuple[int, int]]

    @property
    def end(self) -> int:
        """Return the row behind the last judged one."""
        return self.parts[-1][1]

    @classmethod
    def find(cls, index: pd.DatetimeIndex, config: Config | None = None) -> Spans:
        """
        Return those of a training.

        :param index: Times of the data.
        :param config: Its configuration; ``None`` for the reference training, without any override.
        """
        values = config or {key: param.default for key, param in BY_KEY.items()}
        first, middle, end = find_borders(index, values)
        return cls(first=first, parts=((first, middle), (middle, end)))

    @classmethod
    def within(cls, rows: int) -> Spans:
        """
        Return those of a validation that sees training rows alone: it looks at their later half.

        :param rows: How many there are.
        """
        first, middle = rows // 2, rows * 3 // 4
        return cls(first=first, parts=((first, middle), (middle, rows)))


@dataclass(frozen=True, kw_only=True)
class Checked:
    """
    Features that were checked.

    :param columns: Names of the columns.
    :param values: A row per row of data. Of the judged rows, each block was computed from data that
        end with the block; the rows before them from data that end with these.
    :param warm_up: Leading rows that hold NaN.
    :param checks: What was checked, by name.
    """

    columns: list[str]
    values: np.ndarray
    warm_up: int
    checks: dict[str, Any]


class Teller(Protocol):
    """Takes how far the checks are."""

    def tell(self, phase: str, percent: float) -> None:
        """Hear a phase, in words, and how much of the whole is done."""


@dataclass(kw_only=True)
class _Found:
    """What the comparisons of one validation have come to."""

    replaced: list[Leak] = field(default_factory=list)
    at_cuts: list[Leak] = field(default_factory=list)
    at_blocks: list[Leak] = field(default_factory=list)

    @property
    def leaks(self) -> list[Leak]:
        """Return those that tell most: at a block's end few rows are compared."""
        return self.at_cuts or self.replaced or self.at_blocks

    @property
    def is_enough(self) -> bool:
        return len({leak.cut for leak in self.at_cuts}) >= _ENOUGH_LEAKS


class FeatureSetCheck:
    """
    The checks of one feature set; every call of submitted code happens in a child.

    A child gets data cut at a time, in an order in which none of them shows what a later one hides.
    How many calls there are depends on nothing but what the module declares.

    :param reference: Folder or dotted name.
    :param seed: Decides the cuts and the worlds.
    :param data_folder: Of the data set, which children may not read in; ``None`` for none.
    :param waived: Columns that may know later rows.
    """

    def __init__(
        self,
        reference: str,
        *,
        seed: int,
        data_folder: str | None = None,
        waived: Sequence[str] = (),
    ) -> None:
        self._reference = reference
        self._waivers = Waivers(waived)
        self._data_folder = data_folder
        self._seed = seed
        self._pool: FeaturePool
        self._market: MarketData
        self._data: pd.DataFrame
        self._spans: Spans
        self._scale: Scale
        self.feature_cpu_seconds = 0.0
        """What the module took in all its calls, its imports included."""

    def run(
        self, progress: Teller, data_set: DataSet | None = None
    ) -> tuple[list[str], dict[str, Any]]:
        """
        Return the columns and what was checked for the reference training.

        :param progress: Told how far it is.
        :param data_set: Whose training rows are looked at in its place, and no others; ``None`` for
            the data that are built in.
        :raises SubmissionError: With the first thing that is wrong.
        :raises DataError: If the data are missing or damaged.
        """
        with FeaturePool(self._reference, self._data_folder) as pool:
            # Read by this process alone, when the children have begun.
            if data_set is None:
                data = load_market_data()
                spans = Spans.find(pd.DatetimeIndex(data.frame.index))
            else:
                data = data_set.load_for_validation()
                spans = Spans.within(len(data.frame))
            found = self.check(pool, data, spans, progress)
        return found.columns, found.checks

    def check(self, pool: FeaturePool, data: MarketData, spans: Spans, progress: Teller) -> Checked:
        """
        Return features that were checked.

        :param pool: Children for the module, forked before this process had any data.
        :param data: Market data; rows behind the judged ones are shown to no child.
        :param spans: Where the judged rows are.
        :param progress: Told how far it is.
        :raises SubmissionError: With the first thing that is wrong.
        """
        self._pool, self._spans = pool, spans
        self._market = data.cut(spans.end)
        self._data = self._market.frame
        try:
            found = self._check(progress)
        finally:
            self.feature_cpu_seconds += pool.cpu_seconds
        found.checks["feature_cpu_seconds"] = round(self.feature_cpu_seconds, 3)
        return found

    def _check(self, progress: Teller) -> Checked:
        progress.tell("checking", 5)
        data, first = self._data, self._spans.first
        cuts = choose_judged_cuts(self._spans.parts, np.random.default_rng(self._seed))
        with self._pool.take(is_quiet=False) as growing:
            started = time.monotonic()
            early = growing.compute(data.iloc[:first])
            seconds = time.monotonic() - started
            columns, months = early.columns, early.block_months
            self._waivers.check(columns)
            blocks = (
                find_short_block_ends(first, len(data), months)
                if self._market.is_short
                else find_block_ends(pd.DatetimeIndex(data.index), first, months)
            )
            self._check_same(early, growing.compute(data.iloc[:first]), data.iloc[:first])
            # Another process, which is over with all that it left before the next cut is made.
            with self._pool.take() as whole:
                full = whole.compute(data)
                self._scale = find_scale(full.values)
                self._check_same(full, whole.compute(data), data)
                self._check_columns(columns, full.columns)
                progress.tell("checking what later rows change", 15)
                found = _Found(replaced=self._replace(whole, full.values, columns, cuts))
            values = full.values.copy()
            values[:first] = early.values
            known = self._cut(growing, found, full.values, columns, cuts, blocks, values)
            if found.leaks:
                raise self._explain_leaks(found, full.values, columns)
            # Behind what changes with later rows, as that explains what is missing as well.
            if first > early.warm_up_bound:
                find_warm_up(_build_frame(early, data.iloc[:first]), early.warm_up_bound)
            warm_up = find_warm_up(_build_frame(full, data), full.warm_up_bound)
            if self._waivers:
                # What is trained on of them is of the blocks, and may be otherwise than the whole.
                trained = pd.DataFrame(values, index=data.index, columns=columns)
                warm_up = max(warm_up, find_warm_up(trained, full.warm_up_bound))
            self._check_memory(full, growing.compute(data))
        progress.tell("checking in other worlds", 60)
        aimed = self._check_worlds(full.values, columns)
        progress.tell("checking in fresh processes", 85)
        self._check_surroundings(known, columns, cuts[-1])
        checks = {
            "rows": len(data),
            "warm_up_rows": warm_up,
            "deterministic": True,
            "look_ahead_cuts": len(cuts),
            "look_ahead_blocks": len(blocks),
            "look_ahead_block_months": months,
            "look_ahead_worlds": 0 if self._waivers.covers(columns) else N_WORLDS,
            "look_ahead_aimed_cuts": aimed,
            "look_ahead_leaks": 0,
            "seconds_per_run": round(seconds, 4),
            "fresh_process_cuts": N_FRESH_RUNS,
        }
        return Checked(columns=columns, values=values, warm_up=warm_up, checks=checks)

    def _cut(
        self,
        growing: FeatureChild,
        found: _Found,
        full: np.ndarray,
        columns: list[str],
        cuts: Sequence[int],
        blocks: Sequence[int],
        values: np.ndarray,
    ) -> np.ndarray:
        """
        Compare with what comes of fewer rows: ever more of them, so that none is seen early.

        :param values: Gets the rows of each block, as they come of the data that end with it.
        :return: What comes of the data that end with the last of ``cuts``. Of columns that are not
            waived it is what comes of all rows.
        """
        begin, known = self._spans.first, full
        for cut in sorted({*cuts, *blocks}):
            is_seeded = cut in cuts
            start = 0 if is_seeded else max(0, min(begin, cut - LOOK_BACK_ROWS))
            part = growing.compute(self._data.iloc[:cut], start)
            self._check_columns(columns, part.columns)
            if cut in blocks:
                values[begin:cut] = part.values[begin - start :]
                begin = cut
            if self._waivers and cut == cuts[-1]:
                known = np.where(self._waivers.find_places(columns), part.values, full[:cut])
            leaks = self._find_leaks(full[start:], part.values, columns, cut, first=start)
            (found.at_cuts if is_seeded else found.at_blocks).extend(leaks)
            if found.is_enough:
                break
        return known

    def _find_leaks(
        self,
        full: np.ndarray,
        other: np.ndarray,
        columns: Sequence[str],
        cut: int,
        how: str = DROPPED,
        *,
        first: int = 0,
    ) -> list[Leak]:
        """Compare the rows before a cut, but for columns that are waived."""
        return self._waivers.drop(
            compare_before(full, other, columns, cut, how, scale=self._scale, first=first)
        )

    def _replace(
        self, child: FeatureChild, full: np.ndarray, columns: list[str], cuts: Sequence[int]
    ) -> list[Leak]:
        """Compare with what comes of other rows from each cut on."""
        rng = np.random.default_rng([self._seed, 1])
        leaks: list[Leak] = []
        for cut in cuts:
            other = child.compute(replace_future(self._market, cut, rng).frame)
            leaks += self._find_leaks(full, other.values, columns, cut, REPLACED)
        return leaks

    def _explain_leaks(
        self, found: _Found, full: np.ndarray, columns: list[str]
    ) -> SubmissionError:
        """Say whether later rows are read, or earlier calls are remembered."""
        data, leaks = self._data, found.leaks
        cut, first_values = leaks[0].cut, _find_first_values(full)
        if leaks[0].how == REPLACED:
            return SubmissionError(explain(leaks, data, first_values))
        if not self._compare_alone(full, columns, cut):
            said = _tell_row(leaks[0], data)
            return self._explain_memory([cut], data.iloc[:cut], full[:cut], columns, said)
        cuts = list(dict.fromkeys(leak.cut for leak in found.at_cuts))
        if self._remembers(full, columns, cut):
            # Fresh each, lest what an earlier call left hides how far back it reaches.
            alone = [leak for at in cuts for leak in self._compare_alone(full, columns, at)]
            return SubmissionError(explain(alone or leaks, data, first_values) + _REMEMBERS)
        if cuts:
            leaks = leaks + [leak for leak in found.replaced if leak.cut in cuts]
        return SubmissionError(explain(leaks, data, first_values))

    def _compare_alone(self, full: np.ndarray, columns: list[str], cut: int) -> list[Leak]:
        """Compare with what a process of its own computes of the rows before a cut."""
        with self._pool.take() as child:
            alone = child.compute(self._data.iloc[:cut]).values
        return self._find_leaks(full, alone, columns, cut)

    def _remembers(self, full: np.ndarray, columns: list[str], cut: int) -> bool:
        """Tell whether a cut changes nothing where all rows were seen before."""
        with self._pool.take() as child:
            child.compute(self._data)
            after = child.compute(self._data.iloc[:cut]).values
        return not self._find_leaks(full, after, columns, cut)

    def _check_memory(self, full: Features, last: Features) -> None:
        """Refuse a module whose features depend on what it was given before."""
        leaks = compare_before(
            full.values,
            last.values,
            full.columns,
            len(self._data),
            DROPPED,
            scale=self._scale,
        )
        if leaks:
            cuts = [self._spans.first]
            said = _tell_row(leaks[0], self._data)
            raise self._explain_memory(cuts, self._data, full.values, full.columns, said)

    def _explain_memory(
        self,
        earlier: Sequence[int],
        data: pd.DataFrame,
        fresh: np.ndarray,
        columns: list[str],
        said: str,
    ) -> SubmissionError:
        """Say where a module keeps what it saw in an earlier call."""
        where = "in the module"
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            with self._pool.take(folder=folder) as child:
                for cut in (self._spans.first, *earlier):
                    child.compute(self._data.iloc[:cut])
            # Other memory, the same files.
            with self._pool.take(folder=folder) as child:
                again = child.compute(data).values
        if self._find_leaks(fresh, again, columns, len(data)):
            where = "in files"
        return SubmissionError(
            f"keeps state {where}: {said} after calls with fewer rows than in a process of its "
            "own, so the module remembers an earlier call; keep nothing from one call to the next"
        )

    def _check_worlds(self, full: np.ndarray, columns: list[str]) -> int:
        """Compute in other worlds, and cut behind the rows that seem to follow their future."""
        data, first = self._data, self._spans.first
        if self._waivers.covers(columns):
            return 0
        is_checked = ~self._waivers.find_places(columns)
        names = [name for name, is_one in zip(columns, is_checked, strict=True) if is_one]
        rng = np.random.default_rng([self._seed, 2])
        worlds = [build_world(self._market, first, rng) for _ in range(N_WORLDS)]
        with self._pool.take() as child:
            features = []
            for world in worlds:
                part = child.compute(world.data.frame, first)
                self._check_columns(columns, part.columns)
                features.append(part.values[:, is_checked] if self._waivers else part.values)
            check_placebos(worlds[:N_PLACEBOS], features[:N_PLACEBOS], names)
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")  # a row without any value
                mean = np.nanmean(np.stack(features), axis=0)
            check_real_outcomes(mean, self._market, first, names)
            cuts = [first + row + 1 for row in find_suspects(worlds, features)]
            # It has seen no real row that is judged.
            leaks: list[Leak] = []
            for cut in cuts:
                start = max(0, cut - LOOK_BACK_ROWS)
                part = child.compute(data.iloc[:cut], start)
                leaks += self._find_leaks(full[start:], part.values, columns, cut, first=start)
        if leaks:
            found = _Found(at_blocks=leaks)
            raise self._explain_leaks(found, full, columns)
        return len(cuts)

    def _check_surroundings(self, full: np.ndarray, columns: list[str], cut: int) -> None:
        """Catch a module that goes by something else than its input."""
        part = self._data.iloc[:cut]

        def compute(surroundings: Surroundings) -> Reply:
            if not surroundings.needs_interpreter:
                with self._pool.take(surroundings=surroundings) as child:
                    found = child.compute(part)
                return Reply(facts={"columns": found.columns}, array=found.values)
            command = build_command(
                FEATURE_SET.name,
                surroundings,
                reference=self._reference,
                data_folder=self._data_folder,
            )
            with FeatureChild.start(command, surroundings) as child:
                found = child.compute(part)
                self.feature_cpu_seconds += child.cpu_seconds
            return Reply(facts={"columns": found.columns}, array=found.values)

        def compare(reply: Reply) -> str | None:
            if reply.facts["columns"] != columns:
                return _compare_columns(columns, reply.facts["columns"])
            leaks = compare_before(full, reply.numbers(), columns, cut, DROPPED, scale=self._scale)
            return _tell_row(leaks[0], self._data) if leaks else None

        check_surroundings(compute, compare, change_all(columns))

    def _check_columns(self, first: list[str], other: list[str]) -> None:
        if other == first:
            return
        found = _compare_columns(first, other)
        with self._pool.take() as child:
            again = child.compute(self._data.iloc[: self._spans.first]).columns
        if again != first:
            found = _compare_columns(first, again)
            raise SubmissionError(
                f"non-deterministic: in another process, {found}; return the same columns in the "
                "same order"
            )
        raise SubmissionError(
            f"wrong columns: when the data end earlier, {found}; return the same columns for any "
            "rows"
        )

    def _check_same(self, first: Features, second: Features, data: pd.DataFrame) -> None:
        """Refuse features that are others in the next call on the same data."""
        if second.columns != first.columns:
            self._check_columns(first.columns, second.columns)
        same = (first.values == second.values) | (np.isnan(first.values) & np.isnan(second.values))
        if same.all():
            return
        row, column = map(int, np.argwhere(~same)[0])
        before, after = format_two(first.values[row, column], second.values[row, column])
        said = (
            f"column {show(first.columns[column])} at {format_time(data, row)} is {before} in one "
            f"run and {after} in the next on the same data"
        )
        if self._is_repeated(data):
            where = "in the module" if self._is_repeated(data, shared=True) else "in files"
            raise SubmissionError(
                f"keeps state {where}: {said}, while it is the same in each new process; keep "
                "nothing from one call to the next"
            )
        if self._is_repeated(data, frozen=True):
            what, _, advice = DEPENDS_ON["clock"]
            raise SubmissionError(f"depends on {what}: {said}; {advice}")
        raise SubmissionError(f"non-deterministic: {said}; seed every random number")

    def _is_repeated(
        self, data: pd.DataFrame, *, frozen: bool = False, shared: bool = False
    ) -> bool:
        """Tell whether two new processes compute the same, perhaps with the same files."""
        found = []
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            for _ in range(2):
                with self._pool.take(folder=folder if shared else None, is_frozen=frozen) as child:
                    found.append(child.compute(data).values)
        return np.array_equal(found[0], found[1], equal_nan=True)


def _build_frame(features: Features, data: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(features.values, index=data.index, columns=features.columns)


def _find_first_values(full: np.ndarray) -> int:
    """Return how many rows pass until each column has a value: no cut shows anything before."""
    return int(np.max(np.argmin(np.isnan(full), axis=0)))


def _tell_row(leak: Leak, data: pd.DataFrame) -> str:
    return f"column {show(leak.column)} has another value at {format_time(data, leak.row)}"


def _compare_columns(first: list[str], other: list[str]) -> str:
    only = sorted(set(first) ^ set(other))
    if only:
        return f"there are other columns, {show(only[0])} among them"
    at = next(at for at, name in enumerate(first) if other[at] != name)
    return f"columns stand in another order, {show(other[at])} in place of {show(first[at])}"
