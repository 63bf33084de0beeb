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
from elnigma.errors import DivergedError, OutOfMemoryError, SubmissionError
from elnigma.loading import MODEL_STRUCTURE, explained, hidden_modules, load_entry_point

# What the backend would log concerns its makers, not a submitter.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

with hidden_modules("sklearn", "matplotlib"):
    # Keras loads these for wrappers and galleries that nobody here uses: half of its start.
    import keras

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
        if not isinstance(model, keras.Model):
            raise SubmissionError(
                f"wrong type: build_model must return a keras.Model, not {type(model).__name__}"
            )
        with self._explained():
            if not model.built:
                model.build((None, n_features))
            shape = tuple(model.output_shape)
        if shape != (None, 1):
            raise SubmissionError(f"wrong shape: the model's output is {shape}, not (None, 1)")
        if not model.compiled:
            optimizer = keras.optimizers.Adam(self._config["training.learning_rate"])
            model.compile(optimizer=optimizer, loss="binary_crossentropy")
        return model

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
                *train,
                validation_data=validation,
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
                f"wrong shape: {scores.shape} predictions for {len(features)} rows of features"
            )
        scores = scores[:, 0]
        if not np.isfinite(scores).all():
            raise DivergedError(
                f"diverged: {int((~np.isfinite(scores)).sum())} of {len(scores)} predictions are "
                "not finite"
            )
        if scores.min() < 0 or scores.max() > 1:
            raise SubmissionError(
                f"wrong range: predictions from {scores.min():.3g} to {scores.max():.3g} are no "
                "probabilities; end the model with a sigmoid"
            )
        return scores

    def save(self, model: keras.Model, path: Path) -> None:
        """Save a model in HDF5."""
        path.parent.mkdir(parents=True, exist_ok=True)
        # Keras calls the format legacy on every save; it is the one that the models' users read.
        logging.getLogger("absl").setLevel(logging.ERROR)
        with warnings.catch_warnings(), self._explained():
            warnings.simplefilter("ignore")
            model.save(path)

    def load(self, path: Path) -> keras.Model:
        """Load a model that :meth:`save` has saved."""
        with self._explained():
            return keras.models.load_model(path)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            with explained(self._folder):
                yield
        except SubmissionError as error:
            if "RESOURCE_EXHAUSTED" in str(error):
                raise OutOfMemoryError(f"out of memory: {error}") from error
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


class _Listener(keras.callbacks.Callback):  # type: ignore[misc] # Keras ships no types
    """Tells each epoch, and stops at the first loss that is not a number."""

    def __init__(self, tell: EpochListener) -> None:
        super().__init__()
        self._tell = tell

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Tell the losses; Keras calls this."""
        figures = {name: float(value) for name, value in (logs or {}).items()}
        for name, value in figures.items():
            if not math.isfinite(value):
                raise DivergedError(f"diverged: {name} became {value} in epoch {epoch + 1}")
        self._tell(epoch + 1, self.params["epochs"], figures)
