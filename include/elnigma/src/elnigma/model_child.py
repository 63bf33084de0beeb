"""
Processes that hold a model structure, and no outcome that is judged.

They are forked from one that has loaded Keras, and neither data nor submitted code: that is paid
for once. What they may know comes question by question.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from elnigma.config import Config
from elnigma.device import find_device
from elnigma.guard import Guard
from elnigma.isolation import Conversation, Reply
from elnigma.nursery import Nursery
from elnigma.sandbox import confine
from elnigma.task import Cuda

if TYPE_CHECKING:
    import keras

    from elnigma.networks import Inputs, Structure

_CACHE_VARIABLE = "JAX_COMPILATION_CACHE_DIR"


class ModelPool:
    """
    A process that loads Keras, and forks of it, each to be used once; as a context.

    It has no data as long as it was begun before this process had any.

    :param data_folder: Where a model structure must not read; ``None`` for no such folder.
    :param readable: What it may read although such a folder, or one that is shared, holds it.
    :param may_fork: Whether it may begin other processes, as what compiles for a GPU does.
    """

    def __init__(
        self,
        data_folder: str | None = None,
        *,
        readable: Sequence[str] = (),
        may_fork: bool = True,
    ) -> None:
        self._data_folder = data_folder
        self._readable = list(readable)
        self._may_fork = may_fork
        self._nursery = Nursery(Answering, ["elnigma.networks"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._nursery.end()

    def begin_loading(self) -> None:
        """Let Keras be loaded while this process does something else."""
        self._nursery.begin_loading()

    @contextmanager
    def take(self, *, is_quiet: bool = False) -> Iterator[Conversation]:
        """
        Use one, which has a temporary folder of its own, and is ended with the context.

        :param is_quiet: Whether nothing that it prints is kept.
        """
        with (
            tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
            self._nursery.fork() as conversation,
        ):
            begin = {
                "do": "begin",
                "folder": folder,
                "is_quiet": is_quiet,
                "data_folder": self._data_folder,
                "readable": self._readable,
                "may_fork": self._may_fork,
            }
            conversation.ask(Reply(facts=begin))
            yield conversation


class Answering:
    """The side of the process that holds a model structure."""

    def __init__(self) -> None:
        self.say: Callable[[dict[str, Any]], None] = _say_nothing
        self._guard: Guard
        self._structure: Structure
        self._choose: Callable[[np.ndarray], Inputs]
        self._columns = 0
        self._folder = Path()
        self._data_folder: str | None = None
        self._models: dict[str, keras.Model] = {}

    def __call__(self, question: Reply) -> Reply:
        """Do what a question asks for."""
        facts = dict(question.facts)
        do = facts.pop("do")
        if do in ("begin", "device"):
            return getattr(self, f"_{do}")(**facts)  # type: ignore[no-any-return]
        if do == "load":
            self._guard = _build_guard(self._data_folder)
            self._guard.install()
        with self._guard.on():
            return getattr(self, f"_{do}")(question.array, **facts)  # type: ignore[no-any-return]

    def _begin(
        self,
        *,
        folder: str,
        is_quiet: bool,
        data_folder: str | None,
        readable: list[str],
        may_fork: bool,
    ) -> Reply:
        self._folder, self._data_folder = Path(folder), data_folder
        cache = os.environ.get(_CACHE_VARIABLE)
        confine(
            folders=[folder, *([cache] if cache else [])],
            readable=readable,
            hidden=[data_folder, os.environ.get("TMPDIR")],
            may_fork=may_fork,
        )
        os.environ["TMPDIR"] = os.environ["HOME"] = folder
        tempfile.tempdir = None
        # What is drawn without a seed is other numbers than in the other forks.
        random.seed()
        np.random.seed()
        if is_quiet:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
            os.close(nowhere)
        return Reply()

    def _device(self, *, cuda: str | None, threads: int) -> Reply:
        device = find_device(None if cuda is None else Cuda(cuda), threads)
        return Reply(
            facts={
                "described": device.describe(),
                "headline": device.headline,
                "note": device.note,
            }
        )

    def _load(self, _: object, *, reference: str, config: Config) -> Reply:
        from elnigma import networks

        self._structure = networks.Structure(reference, config)
        return Reply(facts={"window": self._structure.window})

    def _hold(self, features: np.ndarray) -> Reply:
        self._columns = features.shape[1]
        self._choose = self._structure.hold(features)
        return Reply()

    def _fit(self, table: np.ndarray, *, side: str, seed: int, n_train: int) -> Reply:
        from elnigma import networks

        rows, outcome = table[:, 0].astype("int64"), table[:, 1].astype("float32")
        networks.set_seed(seed)
        model = self._structure.build(self._columns)
        steps = networks.StepTimes()

        def tell(epoch: int, total: int, losses: dict[str, float]) -> None:
            self.say({"epoch": epoch, "total": total, "losses": losses})

        train, validation = (
            (self._choose(rows[part]), outcome[part])
            for part in (slice(None, n_train), slice(n_train, None))
        )
        epochs = self._structure.fit(model, train, validation, tell, steps)
        self._models[side] = model
        self._structure.save(model, self._folder / f"{side}.h5")
        first = steps.first_at
        return Reply(
            facts={
                "parameters": int(model.count_params()),
                "epochs": epochs,
                "path": str(self._folder / f"{side}.h5"),
                "first_step_at": None if first is None else first.timestamp(),
                "step_seconds": steps.seconds,
            }
        )

    def _restore(self, _: object, *, side: str, path: str) -> Reply:
        self._models[side] = self._structure.load(Path(path))
        return Reply()

    def _predict(self, rows: np.ndarray, *, side: str) -> Reply:
        return Reply(array=self._structure.predict(self._models[side], self._choose(rows)))


def _build_guard(data_folder: str | None) -> Guard:
    """Return a guard that lets submitted code write where the trainer's own libraries must."""
    folders = [tempfile.gettempdir(), os.environ.get(_CACHE_VARIABLE)]
    writable = tuple(Path(folder) for folder in folders if folder)
    return Guard(writable=writable, data_folder=data_folder)


def _say_nothing(_: dict[str, Any]) -> None:
    pass
