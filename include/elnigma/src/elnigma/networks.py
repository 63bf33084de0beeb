"""Keras models: built by a structure, fitted, saved; the only module that loads Keras."""

from __future__ import annotations

import logging
import math
import os
import re
import reprlib
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from elnigma.config import FREE_PREFIX, MAX_WINDOW, Config
from elnigma.device import ELSEWHERE, find_loss
from elnigma.errors import DeviceError, DivergedError, OutOfMemoryError, SubmissionError
from elnigma.loading import (
    MODEL_STRUCTURE,
    describe_error,
    explained,
    get_entry_point,
    hidden_modules,
    load_module,
)
from elnigma.storage import storing, storing_by

# What the backend would log concerns its makers, not a submitter.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

with hidden_modules("sklearn", "matplotlib"):
    # Keras loads these for wrappers and galleries that nobody here uses: half of its start.
    import keras

    from elnigma.losses import check_loss
    from elnigma.windows import WindowBatches, Windows, hold

_LOSSES = frozenset({"loss", "val_loss"})

# What keras.Model(inputs, outputs) makes; Keras has no public name for it.
_Functional = type(keras.Model(inputs=(_input := keras.Input((1,))), outputs=_input))

_UNKNOWN_NAME = re.compile(r"Could not interpret (loss|metric|optimizer) identifier: (\w+)")
_KINDS = {"loss": keras.losses, "metric": keras.metrics, "optimizer": keras.optimizers}

EpochListener = Callable[[int, int, dict[str, float]], None]
Inputs = np.ndarray | Windows
"""What a model is given: rows of features, or windows of them."""
Rows = tuple[Inputs, np.ndarray]


def set_seed(seed: int) -> None:
    """Seed Python, NumPy and Keras."""
    keras.utils.set_random_seed(seed)


@dataclass(kw_only=True)
class StepTimes:
    """
    When training steps were done.

    :param first_at: When the first one was, UTC; ``None`` if none was.
    :param seconds: How long all took together, but for the first of each fit, which is compiled.
    """

    first_at: datetime | None = None
    seconds: float = 0.0


class Structure:
    """
    A model structure, and what can be done with the models it builds.

    :param reference: Folder or dotted name.
    :param config: Its ``model`` and ``training`` sections are used.
    :raises SubmissionError: If it cannot be imported; likewise, from every method, if the
        structure's code raises.
    """

    def __init__(self, reference: str, config: Config) -> None:
        self._folder = Path(reference) if Path(reference).is_dir() else None
        module = load_module(MODEL_STRUCTURE, reference)
        self._build = get_entry_point(MODEL_STRUCTURE, module)
        with self._explained():
            self._window = config["model.window"] or _read_window(module)
        self._config = {**config, "model.window": self._window}

    @property
    def window(self) -> int:
        """Rows that a model sees for each prediction, up to and with the row's own."""
        return self._window

    def hold(self, features: np.ndarray) -> Callable[[np.ndarray], Inputs]:
        """
        Hold features for fitting and predicting, and return what chooses rows of them.

        Of windows the features are held once, however many choices there are.

        :param features: A row per row of data.
        :return: Takes row numbers and returns what :meth:`fit` and :meth:`predict` take. As many
            rows as a window has must end with each of them.
        """
        if self._window == 1:
            return lambda rows: features[rows]
        held = hold(features)
        return lambda rows: Windows(features=held, rows=rows, size=self._window)

    def build(self, n_features: int) -> keras.Model:
        """
        Build and compile a model.

        :param n_features: Columns of the features.
        :raises SubmissionError: If it cannot be a model of one probability.
        """
        shape = (n_features,) if self._window == 1 else (self._window, n_features)
        with self._explained(), self._precision():
            model = self._build(n_features, model_params(self._config))
        # A subclass of either is refused as well: a file holds the name of its class, and no more.
        if type(model) not in (keras.Sequential, _Functional):
            raise SubmissionError(_explain_type(model))
        for layer in model._flatten_layers(include_self=False):
            if isinstance(layer, keras.layers.Lambda):
                raise SubmissionError(
                    f"wrong layer: {layer.name!r} is a Lambda layer, whose code no .h5 file can "
                    "carry safely; write a keras.layers.Layer and register it with "
                    "keras.saving.register_keras_serializable()"
                )
        with self._explained(), self._precision():
            if not model.built:
                model.build((None, *shape))
            shapes = model.output_shape, model.input_shape
        if shapes != ((None, 1), (None, *shape)):
            raise SubmissionError(_explain_shapes(model, shape))
        if not model.compiled:
            optimizer = keras.optimizers.Adam(self._config["training.learning_rate"])
            model.compile(optimizer=optimizer, loss="binary_crossentropy")
        return model

    def check_loss(self, model: keras.Model) -> str:
        """
        Return the name of a compiled model's loss.

        :raises SubmissionError: If it does not count each row for itself.
        """
        with self._explained():
            return check_loss(model)

    def fit(
        self,
        model: keras.Model,
        train: Rows,
        validation: Rows,
        tell: EpochListener,
        steps: StepTimes | None = None,
    ) -> int:
        """
        Fit with early stopping and return the number of epochs.

        :param model: Compiled.
        :param train: Rows or windows of features, as :meth:`hold` gives them, and outcomes.
        :param validation: The same for the rows that stop the training.
        :param tell: Called after each epoch: its number, how many there may be, the losses.
        :param steps: Called when steps are done.
        :raises DivergedError: If a loss is not a finite number.
        """
        callbacks: list[keras.callbacks.Callback] = [_Listener(tell)]
        if steps is not None:
            callbacks.append(_StepClock(steps))
        patience = self._config["training.patience"]
        if patience:
            callbacks.append(
                keras.callbacks.EarlyStopping(patience=patience, restore_best_weights=True)
            )
        with self._explained():
            history = model.fit(
                **self._feed(train, validation),
                epochs=self._config["training.epochs"],
                callbacks=callbacks,
                verbose=0,
            )
        return len(history.epoch)

    def predict(self, model: keras.Model, features: Inputs) -> np.ndarray:
        """
        Return one probability a row.

        :param model: Built, or loaded.
        :param features: Rows or windows of features, as :meth:`hold` gives them.
        :raises DivergedError: If one is not a finite number.
        :raises SubmissionError: If one is not between 0 and 1.
        """
        with self._explained():
            if isinstance(features, Windows):
                # As in training: what fits into the memory there does here.
                batches = WindowBatches(features, self._config["training.batch_size"])
                output = model.predict(batches, verbose=0)
            else:
                output = model.predict(features, batch_size=1024, verbose=0)
        scores = np.asarray(output, dtype="float64")
        if scores.shape != (len(features), 1):
            raise SubmissionError(
                f"wrong shape: {scores.shape} predictions for {len(features)} rows of features; "
                "return one probability a row"
            )
        scores = scores[:, 0]
        if not np.isfinite(scores).all():
            raise DivergedError(
                f"diverged: {int((~np.isfinite(scores)).sum())} of {len(scores)} predictions are "
                "not finite; lower the learning rate, or scale what the model computes"
            )
        if scores.min() < 0 or scores.max() > 1:
            raise SubmissionError(
                f"wrong range: predictions from {scores.min():.3g} to {scores.max():.3g} are no "
                "probabilities; end the model with a sigmoid"
            )
        return scores

    def save(self, model: keras.Model, path: Path) -> None:
        """Save a model in HDF5."""
        with storing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        # Keras calls the format legacy on every save; it is the one that the models' users read.
        logging.getLogger("absl").setLevel(logging.ERROR)
        with warnings.catch_warnings(), self._explained(), storing_by(path):
            warnings.simplefilter("ignore")
            # What it was trained with is of no use to who predicts, and Keras cannot write each
            # optimizer's state into HDF5.
            model.save(path, include_optimizer=False)

    def load(self, path: Path) -> keras.Model:
        """Load a model that :meth:`save` has saved, to predict with it."""
        with self._explained(), storing_by(path):
            try:
                # Keras cannot read back all that a model may be trained with.
                return keras.models.load_model(path, compile=False)
            except (TypeError, ValueError) as error:
                cause = describe_error(error).split(". ")[0]
                raise SubmissionError(
                    f"the saved model cannot be loaded: {cause}; register each class and function "
                    "of your own with @keras.saving.register_keras_serializable()"
                ) from error

    def _feed(self, train: Rows, validation: Rows) -> dict[str, Any]:
        """Return the arguments by which Keras gets the data."""
        batch_size, seed = self._config["training.batch_size"], self._config["training.seed"]
        (features, outcome), (later, later_outcome) = train, validation
        if isinstance(features, Windows) and isinstance(later, Windows):
            return {
                "x": WindowBatches(features, batch_size, outcome=outcome, seed=seed),
                "validation_data": WindowBatches(later, batch_size, outcome=later_outcome),
                # The windows are shuffled already; Keras would shuffle whole batches.
                "shuffle": False,
            }
        # Another shape than that of the predictions broadcasts to a square.
        return {
            "x": features,
            "y": outcome.reshape(-1, 1),
            "validation_data": (later, later_outcome.reshape(-1, 1)),
            "batch_size": batch_size,
        }

    @contextmanager
    def _precision(self) -> Iterator[None]:
        """Let what is built inside compute as configured; what is built later does as before."""
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(self._config["training.precision"])
        try:
            yield
        finally:
            keras.config.set_dtype_policy(before)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            with explained(self._folder, _advise_on_model):
                yield
        except SubmissionError as error:
            if "RESOURCE_EXHAUSTED" in str(error):
                raise OutOfMemoryError(f"out of memory: {error}") from error
            if loss := find_loss(error.__cause__):
                raise DeviceError(f"the GPU is lost: {loss}; {ELSEWHERE}") from error
            raise


def model_params(config: Config) -> dict[str, Any]:
    """Return the ``model`` section as ``build_model`` gets it, free parameters among the others."""
    params = {
        key.removeprefix("model."): value
        for key, value in config.items()
        if key.startswith("model.") and not key.startswith(FREE_PREFIX) and key != "model.structure"
    }
    free = {
        key.removeprefix(FREE_PREFIX): value
        for key, value in config.items()
        if key.startswith(FREE_PREFIX)
    }
    return params | free


def _read_window(module: ModuleType) -> int:
    """Return what a structure says of the rows it wants to see."""
    window = getattr(module, "WINDOW", 1)
    if type(window) is not int or not 1 <= window <= MAX_WINDOW:
        raise SubmissionError(
            f"wrong window: WINDOW is {reprlib.repr(window)} in {MODEL_STRUCTURE.file_name}; give "
            f"it a whole number of rows from 1 to {MAX_WINDOW}"
        )
    return window


def _advise_on_model(error: BaseException) -> str | None:
    """Say what the author of a model can do about an exception, where Keras does not."""
    said = str(error) if isinstance(error, ValueError) else ""
    if match := _UNKNOWN_NAME.search(said):
        kind, name = match.groups()
        names = {name.lower(): name for name in dir(_KINDS[kind]) if name[0].isalpha()}
        like = get_close_matches(name.lower(), names, n=1)
        example = f", for example {names[like[0]]!r}" if like else ""
        return f"give it a name of {_KINDS[kind].__name__}{example}"
    if "expected min_ndim=3" in said or "expected ndim=3" in said:
        return "name the rows of a window as WINDOW in model.py, if the model is to see several"
    if type(error).__name__ == "TracerArrayConversionError":
        return "compute with keras.ops in place of NumPy and of what is made from it"
    if isinstance(error, KeyError) and error.args:
        frames = traceback.extract_tb(error.__traceback__)
        if frames and "params[" in (frames[-1].line or ""):
            key = reprlib.repr(error.args[0])
            return f"give it a default: params.get({key}, ...), since a training's config sets it"
    return None


def _explain_type(model: object) -> str:
    if isinstance(model, keras.Model):
        return (
            f"wrong type: {type(model).__name__} is a subclass of keras.Model, which no .h5 file "
            "can hold; build a keras.Sequential or a functional keras.Model(inputs, outputs)"
        )
    kind = type(model)
    package = kind.__module__.partition(".")[0]
    name = "None" if model is None else f"{package}.{kind.__name__}".removeprefix("builtins.")
    return f"wrong type: build_model returned {name}; return a keras.Sequential or keras.Model"


def _explain_shapes(model: keras.Model, shape: tuple[int, ...]) -> str:
    found, wanted = model.input_shape, (None, *shape)
    if found != wanted:
        problem = f"wrong shape: the model's input is {found}; take {wanted}"
        if len(shape) > 1:
            return f"{problem}, params['window'] rows, n_features wide"
        if isinstance(found, tuple) and len(found) > len(wanted):
            return f"{problem}, n_features wide, or name the rows of a window as WINDOW"
        return f"{problem}, n_features wide"
    found = model.output_shape
    return f"wrong shape: the model's output is {found}; end with keras.layers.Dense(1, 'sigmoid')"


class _StepClock(keras.callbacks.Callback):  # type: ignore[misc] # Keras ships no types
    """Adds up the time of a fit's steps; Keras calls its methods."""

    # Keras calls it beside the steps, with figures that have arrived: no step waits for it.
    async_safe = True

    def __init__(self, times: StepTimes) -> None:
        super().__init__()
        self._times = times
        self._is_compiled = False
        self._since: float | None = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        """Begin to count; not before the first step of all, which is compiled."""
        if self._is_compiled:
            self._since = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        """Note when the first is done."""
        if self._times.first_at is None:
            self._times.first_at = datetime.now(UTC)
        if not self._is_compiled:
            self._is_compiled, self._since = True, time.monotonic()

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        """Count what there was since: the steps of this epoch are done."""
        self._is_compiled = True
        if self._since is not None:
            self._times.seconds += time.monotonic() - self._since
            self._since = None


class _Listener(keras.callbacks.Callback):  # type: ignore[misc] # Keras ships no types
    """Tells each epoch, and stops at the first loss that is not a number."""

    def __init__(self, tell: EpochListener) -> None:
        super().__init__()
        self._tell = tell
        self._undefined: set[str] = set()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Tell the losses; Keras calls this."""
        # A metric may have a figure for each class; of one output there is one class.
        figures = {name: float(np.mean(value)) for name, value in (logs or {}).items()}
        for name, value in figures.items():
            if math.isfinite(value):
                continue
            if name in _LOSSES:
                raise DivergedError(
                    f"diverged: {name} became {value} in epoch {epoch + 1}; lower the learning "
                    "rate, or scale what the model computes"
                )
            if name not in self._undefined:
                # That a metric is undefined, as one that divides by nothing, is its own business.
                self._undefined.add(name)
                print(f"metric {name} is {value} in epoch {epoch + 1}: it is kept as null")
        self._tell(epoch + 1, self.params["epochs"], figures)
