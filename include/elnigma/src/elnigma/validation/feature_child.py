"""
A process that computes features of data cut at a time, and has never had any other data.

The trainer's own process holds the market data and compares; it never imports a submitted module.
The child holds the module and gets, question by question, the rows that it may know.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from elnigma.errors import ContractError
from elnigma.feature_frame import (
    FeatureFunction,
    check_frame,
    compute_features,
    read_block_months,
    read_warm_up_bound,
)
from elnigma.guard import build_guard
from elnigma.isolation import REPLIED_ITSELF, Conversation, Reply
from elnigma.loading import FEATURE_SET, get_entry_point, load_module
from elnigma.nursery import Nursery
from elnigma.sandbox import confine
from elnigma.surroundings import Surroundings, hide_stage

INDEX_NAME = "time"
# Some day. Read from the clock, it would be another one in the next process.
_STANDING = 1.8e9

_prepared: Nursery | None = None


@dataclass(frozen=True, kw_only=True)
class Features:
    """
    What a module computed.

    :param columns: Names of the columns.
    :param values: A row per row that was asked for.
    :param warm_up_bound: Leading rows that may be NaN, as the module declares it.
    :param block_months: Months of a block, likewise.
    :param cpu_seconds: What the module took, its import included.
    """

    columns: list[str]
    values: np.ndarray
    warm_up_bound: int
    block_months: int
    cpu_seconds: float


class FeatureChild:
    """
    One such process.

    :param conversation: Speaks to it.
    :param folder: Its temporary folder.
    :param is_quiet: Whether nothing that it prints is kept, but for the traceback of a failure.
    :param is_frozen: Whether its clock stands still.
    :param surroundings: What is otherwise there.
    """

    def __init__(
        self,
        conversation: Conversation,
        *,
        folder: str,
        is_quiet: bool = True,
        is_frozen: bool = False,
        surroundings: Surroundings | None = None,
    ) -> None:
        self._conversation = conversation
        self._begin: dict[str, Any] | None = {
            "folder": folder,
            "is_quiet": is_quiet,
            "is_frozen": is_frozen,
            "surroundings": None if surroundings is None else asdict(surroundings),
        }
        self.cpu_seconds = 0.0

    @classmethod
    @contextmanager
    def start(cls, command: list[str], surroundings: Surroundings) -> Iterator[FeatureChild]:
        """
        Begin a new interpreter in other surroundings, which is ended with the context.

        :param command: Starts it; without the arguments that name where it is asked.
        :param surroundings: What is otherwise there.
        """
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as own:
            environment = surroundings.build_environment()
            hide_stage(environment)
            environment |= {"TMPDIR": own, "HOME": own}
            with Conversation.start(command, environment) as conversation:
                # It enters them once it has hidden the stage, of which they may be part.
                yield cls(conversation, folder=own, surroundings=surroundings)

    def compute(self, data: pd.DataFrame, first: int = 0) -> Features:
        """
        Return the features of data.

        :param data: All rows that the module may know.
        :param first: The first row whose features are wanted.
        :raises SubmissionError: If the module fails, or returns what it must not.
        """
        answer = self._conversation.ask(_pack_data(data, first, self._begin))
        self._begin = None
        facts, values = answer.facts, answer.numbers()
        try:
            found = Features(
                columns=[str(name) for name in facts["columns"]],
                values=values,
                warm_up_bound=int(facts["warm_up_bound"]),
                block_months=int(facts["block_months"]),
                cpu_seconds=float(facts["cpu_seconds"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ContractError(REPLIED_ITSELF) from error
        if values.dtype != np.float64 or values.shape != (len(data) - first, len(found.columns)):
            raise ContractError(REPLIED_ITSELF)
        self.cpu_seconds += found.cpu_seconds
        return found


class FeaturePool:
    """
    Processes that compute features, each to be used once; as a context.

    They come of one that has neither read its arguments nor any data: the one that
    :func:`prepare_pool` began, else one that begins with the pool.

    :param reference: Folder or dotted name of the module.
    :param data_folder: Where the module must not read; ``None`` for no such folder.
    """

    def __init__(self, reference: str, data_folder: str | None = None) -> None:
        self._reference = reference
        self._data_folder = data_folder
        self._is_own = _prepared is None
        self._nursery = _prepared or Nursery(Answering)
        self.cpu_seconds = 0.0
        """What the module took in all calls, its imports included."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_own:
            self._nursery.end()

    @contextmanager
    def take(self, *, folder: str | None = None, **options: Any) -> Iterator[FeatureChild]:
        """
        Use one, which is ended with the context.

        :param folder: Its temporary folder; ``None`` gives it one of its own.
        :param options: Of :class:`FeatureChild`.
        """
        with (
            tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as own,
            self._nursery.fork(
                reference=self._reference, data_folder=self._data_folder
            ) as conversation,
        ):
            child = FeatureChild(conversation, folder=folder or own, **options)
            try:
                yield child
            finally:
                self.cpu_seconds += child.cpu_seconds


def prepare_pool() -> None:
    """Begin the process that all pools' children come of, while this one knows nothing yet."""
    global _prepared  # Of the process, as what it was started with is.
    _prepared = Nursery(Answering)


class Answering:
    """
    The child's side: imports the module when it is asked for the first time.

    :param reference: Folder or dotted name of the module.
    :param data_folder: Where it must not read; ``None`` for no such folder.
    """

    def __init__(self, reference: str, data_folder: str | None = None) -> None:
        self._reference = reference
        self._data_folder = data_folder
        self._folder = Path(reference) if Path(reference).is_dir() else None
        self._is_quiet = True
        self._guard = build_guard()
        self._function: FeatureFunction | None = None
        self._warm_up_bound = self._block_months = 0

    def __call__(self, question: Reply) -> Reply:
        """Return the features of the data in a question."""
        if question.facts["begin"] is not None:
            self._begin(**question.facts["begin"])
        data = _unpack_data(question)
        with _printing_nothing(self._is_quiet):
            started = time.process_time()
            function = self._function or self._load()
            with self._guard.on():
                features = compute_features(function, data, self._folder)
            spent = time.process_time() - started
            numbers = check_frame(features, data)
        return Reply(
            facts={
                "columns": list(numbers.columns),
                "warm_up_bound": self._warm_up_bound,
                "block_months": self._block_months,
                "cpu_seconds": spent,
            },
            array=numbers.to_numpy()[question.facts["first"] :],
        )

    def _begin(
        self, *, folder: str, is_quiet: bool, is_frozen: bool, surroundings: dict[str, Any] | None
    ) -> None:
        hide_stage(os.environ)
        readable = [] if self._folder is None else [str(self._folder)]
        shared = [self._data_folder, os.environ.get("TMPDIR")]
        confine(folders=[folder], readable=readable, hidden=shared)
        os.environ["TMPDIR"] = os.environ["HOME"] = folder
        tempfile.tempdir = None
        # What is drawn without a seed is other numbers than in the other forks.
        random.seed()
        np.random.seed()
        self._is_quiet = is_quiet
        if is_frozen:
            import time_machine

            time_machine.travel(_STANDING, tick=False).start()
        if surroundings is not None:
            Surroundings(**surroundings).enter()

    def _load(self) -> FeatureFunction:
        self._guard = build_guard(self._data_folder)
        self._guard.install()
        with self._guard.on():
            module = load_module(FEATURE_SET, self._reference)
            function: FeatureFunction = get_entry_point(FEATURE_SET, module)
            self._warm_up_bound = read_warm_up_bound(module)
            self._block_months = read_block_months(module)
        self._function = function
        return function


@contextmanager
def _printing_nothing(is_quiet: bool) -> Iterator[None]:
    """Drop what is printed inside the block, also by what is no Python."""
    if not is_quiet:
        yield
        return
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for descriptor in (1, 2):
            os.dup2(nowhere, descriptor)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, old in zip((1, 2), kept, strict=True):
            os.dup2(old, descriptor)
            os.close(old)
        os.close(nowhere)


def _pack_data(data: pd.DataFrame, first: int, begin: dict[str, Any] | None) -> Reply:
    index = pd.DatetimeIndex(data.index)
    # The bits of the times, in a column of their own beside the prices.
    times = index.asi8.view("float64")
    return Reply(
        facts={
            "begin": begin,
            "columns": list(data.columns),
            "unit": index.unit,
            "first": first,
        },
        array=np.column_stack([times, data.to_numpy()]),
    )


def _unpack_data(question: Reply) -> pd.DataFrame:
    table = question.numbers()
    times = np.ascontiguousarray(table[:, 0]).view("int64")
    stamps = times.view(f"datetime64[{question.facts['unit']}]")
    index = pd.DatetimeIndex(stamps, name=INDEX_NAME).tz_localize("UTC")
    return pd.DataFrame(table[:, 1:].copy(), index=index, columns=question.facts["columns"])
