"""
The two models of each seed of a training: fitted by one process, checked by another one.

This process holds the outcomes, and never imports a model structure. The one that learns gets the
outcomes of training and validation rows, and of the rows behind them only features, when it has
learned. The one that checks gets the files that the first one saved, and the same rows in no order.

Each seed has processes of its own, one seed after the other: its models are those of a training of
that seed alone, none is fitted where features of test rows have been, and there is never more in
memory than of one seed.
"""

from __future__ import annotations

import hashlib
import math
import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from elnigma.config import MAX_WINDOW, Config
from elnigma.errors import ContractError, ElnigmaError, SubmissionError
from elnigma.feature_frame import format_time
from elnigma.isolation import REPLIED_ITSELF, Conversation, Reply
from elnigma.model_child import ModelPool
from elnigma.progress import Progress
from elnigma.split import Split
from elnigma.storage import storing
from elnigma.task import Task
from elnigma.validation.look_ahead import format_two

SIDES = ("long", "short")
TOLERANCE = 1e-6
"""What predictions of one row may differ by in another process, in other company."""
LOW_PRECISION_TOLERANCE = 4e-3
"""The same where layers compute in 16 bits: half of what is lost of a number there."""
_CHUNK_BYTES = 64 * 1024**2
_MOST_LOSSES = 20
_MOST_NAME = 100
_MOST_PARAMETERS = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """
    Numbers ready to be fitted.

    :param features: Standardised by the training rows; a row per row of data.
    :param target: Return over the horizon.
    :param next_returns: Return to the next close.
    :param threshold: What a move must exceed to count as one.
    :param split: Rows of each part.
    """

    features: np.ndarray
    target: pd.Series
    next_returns: np.ndarray
    threshold: float
    split: Split

    @property
    def predicted(self) -> np.ndarray:
        """Return the rows that are predicted: of the validation, then of the test."""
        return np.concatenate([self.split.validation, self.split.test])


@dataclass(frozen=True, kw_only=True)
class FittedSeed:
    """
    What is told of the two models of one seed.

    :param seed: The seed.
    :param found: What only a model tells: epochs and parameters, by name.
    :param difference: The largest that another process found between its predictions and theirs.
    :param digests: Of their files.
    """

    seed: int
    found: dict[str, int]
    difference: float
    digests: dict[Path, str]


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """
    What came of all seeds.

    :param scores: By side, of the predicted rows: the mean over the seeds.
    :param seeds: Each seed.
    :param first_step_at: When the first training step was done; ``None`` if that is not known.
    :param step_seconds: How long all took together.
    """

    scores: dict[str, np.ndarray]
    seeds: tuple[FittedSeed, ...]
    first_step_at: datetime | None
    step_seconds: float

    @property
    def found(self) -> dict[str, int]:
        """Return epochs and parameters by name, those of all seeds together."""
        return {name: sum(each.found[name] for each in self.seeds) for name in self.seeds[0].found}

    @property
    def difference(self) -> float:
        """Return the largest difference that was found in predictions of any seed."""
        return max(each.difference for each in self.seeds)


@dataclass(frozen=True, kw_only=True)
class Scored:
    """
    What models that were saved before predict.

    :param scores: By side, of the predicted rows: the mean over the seeds.
    :param difference: The largest that another process found between its predictions and these.
    :param digests: Of the models' files, by name.
    """

    scores: dict[str, np.ndarray]
    difference: float
    digests: dict[str, str]


def name_model(side: str, number: int) -> str:
    """
    Return the name of a model's file, without its ending.

    :param side: ``long`` or ``short``.
    :param number: Of the seed, from 0; the first one has the name that a single one has.
    """
    return side if number == 0 else f"{side}-{number + 1}"


def list_models(count: int) -> tuple[str, ...]:
    """Return the names of all models' files, without their endings, seed by seed."""
    return tuple(name_model(side, number) for number in range(count) for side in SIDES)


class Learner:
    """
    The process that learns, of each seed another one; as a context.

    :param pool: Where it comes from.
    :param task: What it may use.
    """

    def __init__(self, pool: ModelPool, task: Task) -> None:
        self._pool = pool
        self._task = task
        self._stack = ExitStack()
        self._conversation: Conversation
        self._is_begun = False
        self.device: dict[str, str] = {}
        self.headline = ""
        self.note: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def begin(self) -> None:
        """
        Begin it, if that is not done yet, and ask for its device before it holds anybody's code.

        :raises DeviceError: If a GPU is required and there is none.
        """
        if self._is_begun:
            return
        self._conversation = self._stack.enter_context(self._pool.take())
        self._is_begun = True
        cuda = None if self._task.cuda is None else str(self._task.cuda)
        question = {"do": "device", "cuda": cuda, "threads": self._task.threads}
        facts = self._conversation.ask(Reply(facts=question)).facts
        self.device, self.headline = facts["described"], facts["headline"]
        self.note = facts["note"]

    def load(self, config: Config) -> int:
        """
        Let it import the model structure, and return the rows that a model sees.

        :raises SubmissionError: If it cannot be imported.
        """
        facts = self._conversation.ask(_load(config)).facts
        window = facts.get("window")
        if type(window) is not int or not 1 <= window <= MAX_WINDOW:
            raise ContractError(REPLIED_ITSELF)
        return window

    def fit(self, prepared: Prepared, config: Config, progress: Progress, folder: Path) -> Fitted:
        """
        Let both models of each seed be fitted and predict, and have that checked.

        :param prepared: Features, and the outcomes of which it gets those of the first two parts.
        :param config: The effective configuration.
        :param progress: Told each epoch.
        :param folder: Gets the models, when all that came of submitted code has ended.
        :raises SubmissionError: If the models do not pass.
        :raises ElnigmaError: Whatever ends the training of one seed; the message names it.
        """
        count, first = config["training.seed_count"], config["training.seed"]
        sums: dict[str, np.ndarray] = {}
        seeds = []
        digests: dict[Path, str] = {}
        steps = _Steps()
        for number in range(count):
            teller = _Teller(progress=progress, number=number, count=count)
            seeded = {**config, "training.seed": first + number}
            files = {side: folder / f"{name_model(side, number)}.h5" for side in SIDES}
            with _named(first + number, number, count):
                if number:
                    self.begin()
                    if self.load(seeded) != config["model.window"]:
                        raise ContractError(REPLIED_ITSELF)
                fitted, scores = self._fit_seed(prepared, seeded, teller, steps, files)
            digests |= fitted.digests
            sums = {side: scores[side] + sums[side] if number else scores[side] for side in SIDES}
            seeds.append(fitted)
        if {path: _digest(path) for path in digests} != digests:
            raise ContractError("contract: the module changed a saved model while it was checked")
        return Fitted(
            scores={side: sums[side] / count for side in SIDES},
            seeds=tuple(seeds),
            first_step_at=steps.first_at,
            step_seconds=steps.seconds,
        )

    def _fit_seed(
        self,
        prepared: Prepared,
        config: Config,
        teller: _Teller,
        steps: _Steps,
        files: dict[str, Path],
    ) -> tuple[FittedSeed, dict[str, np.ndarray]]:
        """
        Let both models of a seed be fitted, and return what they predict, when it was checked.

        :param config: The effective configuration, with this seed.
        :param steps: Gets the times of its steps.
        :param files: Where the models are put, by side.
        """
        split, target = prepared.split, prepared.target.to_numpy()
        learned = np.concatenate([split.train, split.validation])
        _hold(self._conversation, prepared.features[: learned[-1] + 1])
        outcomes = {
            "long": (target > prepared.threshold).astype("float64"),
            "short": (target < -prepared.threshold).astype("float64"),
        }
        found: dict[str, int] = {}
        paths = {}
        for place, side in enumerate(SIDES):

            def listen(said: dict[str, Any], place: int = place) -> None:
                epoch, total, losses = _read_epoch(said)
                teller.tell_epoch(place, epoch, total, losses)

            facts = self._conversation.ask(
                Reply(
                    facts={
                        "do": "fit",
                        "side": side,
                        "seed": config["training.seed"] + place,
                        "n_train": len(split.train),
                    },
                    array=np.column_stack([learned.astype("float64"), outcomes[side][learned]]),
                ),
                listen,
            ).facts
            found[f"parameters_{side}"] = _read_count(facts.get("parameters"), _MOST_PARAMETERS)
            found[f"epochs_{side}"] = _read_count(facts.get("epochs"), config["training.epochs"])
            steps.add(facts)
            paths[side] = _read_path(facts.get("path"))
        scores = self._predict_all(prepared, config)
        teller.tell_check()
        digests = {files[side]: _take_file(paths[side], files[side]) for side in SIDES}
        # Nothing of it is there any more when what it saved is looked at.
        self._end()
        fitted = FittedSeed(
            seed=config["training.seed"],
            found=found,
            difference=_check_models(self._pool, prepared, config, files, scores),
            digests=digests,
        )
        return fitted, scores

    def score(self, prepared: Prepared, config: Config, progress: Progress, folder: Path) -> Scored:
        """
        Let models that were saved before predict, and have that checked; nothing is fitted.

        :param prepared: Features; no outcome leaves this process.
        :param config: The effective configuration of the training that saved them.
        :param progress: Told each seed.
        :param folder: Holds the models, named as by :func:`list_models`.
        :raises SubmissionError: If the models do not pass.
        :raises ElnigmaError: Whatever ends the scoring of one seed; the message names it.
        """
        count, first = config["training.seed_count"], config["training.seed"]
        sums: dict[str, np.ndarray] = {}
        digests: dict[Path, str] = {}
        difference = 0.0
        for number in range(count):
            told = f", seed {number + 1} of {count}" if count > 1 else ""
            progress.tell(f"predicting{told}", 15 + 65 * number / count)
            seeded = {**config, "training.seed": first + number}
            files = {side: folder / f"{name_model(side, number)}.h5" for side in SIDES}
            digests |= {path: _digest(path) for path in files.values()}
            with _named(first + number, number, count):
                if number:
                    self.begin()
                    if self.load(seeded) != config["model.window"]:
                        raise ContractError(REPLIED_ITSELF)
                _restore(self._conversation, files)
                scores = self._predict_all(prepared, seeded)
                self._end()
                found = _check_models(self._pool, prepared, seeded, files, scores)
            difference = max(difference, found)
            sums = {side: scores[side] + sums[side] if number else scores[side] for side in SIDES}
        if {path: _digest(path) for path in digests} != digests:
            raise ContractError("contract: the module changed a saved model while it predicted")
        return Scored(
            scores={side: sums[side] / count for side in SIDES},
            difference=difference,
            digests={path.name: digest for path, digest in digests.items()},
        )

    def _predict_all(self, prepared: Prepared, config: Config) -> dict[str, np.ndarray]:
        """Let its models predict all rows of the validation and the test, in their order."""
        slab, inside = _cut_slab(prepared.features, prepared.predicted, config["model.window"])
        _hold(self._conversation, slab)
        return {side: _predict(self._conversation, side, inside) for side in SIDES}

    def _end(self) -> None:
        self._stack.close()
        self._is_begun = False


@dataclass(frozen=True, kw_only=True)
class _Teller:
    """
    Tells how far the fitting of one seed is.

    :param progress: Told.
    :param number: Of the seed, from 0.
    :param count: How many seeds there are.
    """

    progress: Progress
    number: int
    count: int

    def tell_epoch(self, place: int, epoch: int, total: int, losses: dict[str, float]) -> None:
        """
        Tell that an epoch is done.

        :param place: Of the side, from 0.
        """
        done = (self.number + (place + epoch / total) / len(SIDES)) / self.count
        phase = f"training {SIDES[place]} model{self._told}, epoch {epoch}"
        self.progress.tell(phase, 15 + 65 * done, losses)

    def tell_check(self) -> None:
        """Tell that both models are fitted, and are looked at."""
        is_last = self.number + 1 == self.count
        percent = 81 if is_last else 15 + 65 * (self.number + 1) / self.count
        self.progress.tell(f"checking the saved models{self._told}", percent)

    @property
    def _told(self) -> str:
        return f", seed {self.number + 1} of {self.count}" if self.count > 1 else ""


@contextmanager
def _named(seed: int, number: int, count: int) -> Iterator[None]:
    """Name the seed whose training fails, where there are several."""
    try:
        yield
    except ElnigmaError as error:
        if count == 1:
            raise
        named = type(error)(f"seed {seed} ({number + 1} of {count}): {error}")
        named.inner_traceback = error.inner_traceback
        raise named from error


class _Steps:
    """What a process says of the time of its steps, as far as it can be."""

    def __init__(self) -> None:
        self._began = datetime.now(UTC)
        self.first_at: datetime | None = None
        self.seconds = 0.0

    def add(self, facts: dict[str, Any]) -> None:
        """Take what was said of one model."""
        elapsed = (datetime.now(UTC) - self._began).total_seconds()
        first, seconds = facts.get("first_step_at"), facts.get("step_seconds")
        if self.first_at is None and isinstance(first, float):
            began = self._began.timestamp()
            if began <= first <= began + elapsed:
                self.first_at = datetime.fromtimestamp(first, UTC)
        if isinstance(seconds, float) and math.isfinite(seconds):
            self.seconds = min(self.seconds + max(seconds, 0.0), elapsed)


def _check_models(
    pool: ModelPool,
    prepared: Prepared,
    config: Config,
    files: dict[str, Path],
    scores: dict[str, np.ndarray],
) -> float:
    """
    Let another process predict with the saved models, and return the largest difference.

    It gets the rows in no order, and part by part: what a model would find beside a row, or after
    it, is not there.
    """
    rng = np.random.default_rng([config["training.seed"], 3])
    rows, window = prepared.predicted, config["model.window"]
    tolerance = TOLERANCE if config["training.precision"] == "float32" else LOW_PRECISION_TOLERANCE
    largest = 0.0
    row_bytes = prepared.features.shape[1] * prepared.features.itemsize * window
    parts = max(2, math.ceil(len(rows) * row_bytes / _CHUNK_BYTES))
    again = {side: np.empty_like(scores[side]) for side in SIDES}
    with _restored(pool, config, files) as conversation:
        for part in np.array_split(rng.permutation(len(rows)), parts):
            slab, inside = _copy_windows(prepared.features, rows[part], window)
            _hold(conversation, slab)
            for side in SIDES:
                again[side][part] = _predict(conversation, side, inside)
    for side in SIDES:
        differs = np.abs(again[side] - scores[side])
        largest = max(largest, float(differs.max()))
        if differs.max() > tolerance:
            at = int(np.argmax(differs))
            in_order = _predict_in_order(pool, prepared, config, files, side)
            raise _explain(prepared, side, at, scores[side], again[side], in_order, tolerance)
    return largest


def _explain(
    prepared: Prepared,
    side: str,
    at: int,
    scores: np.ndarray,
    again: np.ndarray,
    in_order: np.ndarray,
    tolerance: float,
) -> SubmissionError:
    """Say whether a model goes by the rows beside a row, or its file is another model."""
    day = format_time(prepared.target.to_frame(), int(prepared.predicted[at]))
    before, after = format_two(float(scores[at]), float(again[at]))
    if np.abs(in_order - scores).max() <= tolerance:
        return SubmissionError(
            f"look-ahead: the prediction of the {side} model for {day} changes from {before} to "
            f"{after} when the rows stand in another order and are predicted part by part, likely "
            "cause: a layer reads along the batch, where later rows stand; compute each row's "
            "prediction from that row"
        )
    before, after = format_two(float(scores[at]), float(in_order[at]))
    if before == after:
        at = int(np.argmax(np.abs(in_order - scores)))
        day = format_time(prepared.target.to_frame(), int(prepared.predicted[at]))
        before, after = format_two(float(scores[at]), float(in_order[at]))
    return SubmissionError(
        f"the saved {side} model does not reproduce its predictions: for {day} it predicts {after} "
        f"in another process, and {before} where it was trained; let each layer of your own keep "
        "all that it needs in get_config() and in its weights"
    )


def _predict_in_order(
    pool: ModelPool, prepared: Prepared, config: Config, files: dict[str, Path], side: str
) -> np.ndarray:
    """Let a third process predict as the first one did."""
    slab, inside = _cut_slab(prepared.features, prepared.predicted, config["model.window"])
    with _restored(pool, config, files) as conversation:
        _hold(conversation, slab)
        return _predict(conversation, side, inside)


@contextmanager
def _restored(pool: ModelPool, config: Config, files: dict[str, Path]) -> Iterator[Conversation]:
    """Begin a process that holds the saved models."""
    with pool.take(is_quiet=True) as conversation:
        conversation.ask(_load(config))
        _restore(conversation, files)
        yield conversation


def _restore(conversation: Conversation, files: dict[str, Path]) -> None:
    for side in SIDES:
        question = {"do": "restore", "side": side, "path": str(files[side])}
        conversation.ask(Reply(facts=question))


def _load(config: Config) -> Reply:
    return Reply(facts={"do": "load", "reference": config["model.structure"], "config": config})


def _hold(conversation: Conversation, features: np.ndarray) -> None:
    conversation.ask(Reply(facts={"do": "hold"}, array=features))


def _predict(conversation: Conversation, side: str, rows: np.ndarray) -> np.ndarray:
    question = Reply(facts={"do": "predict", "side": side}, array=rows)
    scores = conversation.ask(question).numbers()
    is_right = (
        scores.dtype == np.float64
        and scores.shape == rows.shape
        and bool((np.isfinite(scores) & (scores >= 0) & (scores <= 1)).all())
    )
    if not is_right:
        raise ContractError(REPLIED_ITSELF)
    return scores


def _cut_slab(features: np.ndarray, rows: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the features that increasing rows and their windows need, and the rows' places."""
    first = int(rows[0]) - window + 1
    return features[first : int(rows[-1]) + 1], rows - first


def _copy_windows(
    features: np.ndarray, rows: np.ndarray, window: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the windows of rows one behind the other, and where each ends: in no order of time."""
    places = rows[:, None] + np.arange(1 - window, 1)
    return features[places.ravel()], np.arange(1, len(rows) + 1) * window - 1


def _read_epoch(said: dict[str, Any]) -> tuple[int, int, dict[str, float]]:
    epoch, total, losses = said.get("epoch"), said.get("total"), said.get("losses")
    if (
        type(epoch) is not int
        or type(total) is not int
        or not 1 <= epoch <= total
        or not isinstance(losses, dict)
    ):
        raise ContractError(REPLIED_ITSELF)
    kept = [
        (name[:_MOST_NAME], float(value))
        for name, value in losses.items()
        if name.isprintable() and isinstance(value, int | float)
    ]
    return epoch, total, dict(kept[:_MOST_LOSSES])


def _read_count(value: object, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ContractError(REPLIED_ITSELF)
    return value


def _read_path(value: object) -> Path:
    if not isinstance(value, str):
        raise ContractError(REPLIED_ITSELF)
    return Path(value)


def _take_file(source: Path, target: Path) -> str:
    """Copy what a process has saved, and return its digest."""
    try:
        is_regular = stat.S_ISREG(source.lstat().st_mode)
    except (OSError, ValueError):
        is_regular = False
    if not is_regular:
        raise ContractError("contract: the module removed a model that was saved")
    with storing(target):
        shutil.copyfile(source, target, follow_symlinks=False)
    return _digest(target)


def _digest(path: Path) -> str:
    with storing(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
