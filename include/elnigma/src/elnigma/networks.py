"""Keras models: built by a structure, fitted, saved; the only module that loads Keras."""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from elnigma.config import FREE_PREFIX, Config
from elnigma.device import ELSEWHERE, find_loss
from elnigma.errors import DeviceError, DivergedError, OutOfMemoryError, SubmissionError
from elnigma.loading import (
    MODEL_STRUCTURE,
    describe_error,
    explained,
    hidden_modules,
    load_entry_point,
)
from elnigma.storage import storing, storing_by

# What the backend would log concerns its makers, not a submitter.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

with hidden_modules("sklearn", "matplotlib"):
    # Keras loads these for wrappers and galleries that nobody here uses: half of its start.
    import keras

    from elnigma.losses import check_loss

_LOSSES = frozenset({"loss", "val_loss"})

# What keras.Model(inputs, outputs) makes; Keras has no public name for it.
_Functional = type(keras.Model(inputs=(_input := keras.Input((1,))), outputs=_input))

EpochListener = Callable[[int, int, dict[str, float]], None]
Rows = tuple[np.ndarray, np.ndarray]


def set_seed(seed: int) -> None:
    """Seed Python, NumPy and Keras."""
    keras.utils.set_random_seed(seed)


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
        self._config = config
        self._build = load_entry_point(MODEL_STRUCTURE, reference)

    def build(self, n_features: int) -> keras.Model:
        """
        Build and compile a model.

        :param n_features: Columns of the features.
        :raises SubmissionError: If it cannot be a model of one probability.
        """
        with self._explained():
            model = self._build(n_features, model_params(self._config))
        if not isinstance(model, keras.Sequential | _Functional):
            raise SubmissionError(_explain_type(model))
        for layer in model._flatten_layers(include_self=False):
            if isinstance(layer, keras.layers.Lambda):
                raise SubmissionError(
                    f"wrong layer: {layer.name!r} is a Lambda layer, whose code no .h5 file can "
                    "carry safely; write a keras.layers.Layer and register it with "
                    "keras.saving.register_keras_serializable()"
                )
        with self._explained():
            if not model.built:
                model.build((None, n_features))
            shapes = model.output_shape, model.input_shape
        if shapes != ((None, 1), (None, n_features)):
            raise SubmissionError(_explain_shapes(model, n_features))
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

    def fit(self, model: keras.Model, train: Rows, validation: Rows, tell: EpochListener) -> int:
        """
        Fit with early stopping and return the number of epochs.

        :param model: Compiled.
        :param train: Features and outcomes.
        :param validation: The same for the rows that stop the training.
        :param tell: Called after each epoch: its number, how many there may be, the losses.
        :raises DivergedError: If a loss is not a finite number.
        """
        callbacks: list[keras.callbacks.Callback] = [_Listener(tell)]
        patience = self._config["training.patience"]
        if patience:
            callbacks.append(
                keras.callbacks.EarlyStopping(patience=patience, restore_best_weights=True)
            )
        with self._explained():
            history = model.fit(
                *_as_column(train),
                validation_data=_as_column(validation),
                epochs=self._config["training.epochs"],
                batch_size=self._config["training.batch_size"],
                callbacks=callbacks,
                verbose=0,
            )
        return len(history.epoch)

    def predict(self, model: keras.Model, features: np.ndarray) -> np.ndarray:
        """
        Return one probability a row.

        :raises DivergedError: If one is not a finite number.
        :raises SubmissionError: If one is not between 0 and 1.
        """
        with self._explained():
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

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            with explained(self._folder):
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


def _as_column(rows: Rows) -> Rows:
    """Give the outcomes the shape of the predictions: another one broadcasts to a square."""
    features, outcome = rows
    return features, outcome.reshape(-1, 1)


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


def _explain_shapes(model: keras.Model, n_features: int) -> str:
    found, wanted = model.input_shape, (None, n_features)
    if found != wanted:
        return f"wrong shape: the model's input is {found}; take {wanted}, n_features wide"
    found = model.output_shape
    return f"wrong shape: the model's output is {found}; end with keras.layers.Dense(1, 'sigmoid')"


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
