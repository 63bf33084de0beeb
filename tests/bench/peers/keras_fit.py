"""
Fits one model to the reference data and prints how long the fit took, and of the CPU, as JSON.

Run by the trainer's Python: ``keras_fit.py ours|plain STRUCTURE EPOCHS``; the structure is one
of ``elnigma.models``. Ours is the trainer's own fit; plain is what Keras' manual does, with windows
that were made before. Compiling the steps is part of both.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np

from elnigma.config import build_config
from elnigma.data import load_market_data
from elnigma.feature_frame import check_frame, find_warm_up
from elnigma.features.reference import build_features
from elnigma.threads import limit_threads
from elnigma.train import Table, prepare

limit_threads(1)

import keras  # noqa: E402 # it looks for its backend when it is imported

from elnigma.networks import Structure, set_seed  # noqa: E402

HORIZON = 5


def main() -> None:
    """Fit and print."""
    kind, name, epochs = sys.argv[1:]
    overrides = [f"training.epochs={epochs}", "training.patience=0"]
    overrides.append(f"model.structure=elnigma.models.{name}")
    config = build_config("default.toml", [], overrides)
    structure = Structure(config["model.structure"], config)
    config["model.window"] = structure.window
    prepared = prepare(build_table(), HORIZON, config)
    outcome = (prepared.target.to_numpy() > prepared.threshold).astype("float32")
    set_seed(config["training.seed"])
    model = structure.build(prepared.features.shape[1])
    fit = fit_ours if kind == "ours" else fit_plainly
    seconds, cpu_seconds, losses = fit(structure, model, prepared, outcome, config)
    told = {"seconds": seconds, "cpu_seconds": cpu_seconds}
    told |= {"epochs": len(losses), "loss": losses[-1]}
    print(json.dumps({**told, "window": structure.window, "rows": len(prepared.split.train)}))


def build_table() -> Table:
    """Return the reference features, which need no check here."""
    market = load_market_data().frame
    features, close = check_frame(build_features(market), market), market["close"]
    return Table(
        features=features.to_numpy(),
        warm_up=find_warm_up(features),
        target=close.shift(-HORIZON) / close - 1,
        next_returns=(close.shift(-1) / close - 1).to_numpy(),
        columns=features.shape[1],
        checks={},
    )


def fit_ours(
    structure: Structure, model: Any, prepared: Any, outcome: np.ndarray, _config: dict[str, Any]
) -> tuple[float, float, list[float]]:
    """Return the seconds of the trainer's fit, those of CPU, and the loss of each epoch."""
    losses: list[float] = []
    started, cpu_started = time.perf_counter(), time.process_time()
    choose, split = structure.hold(prepared.features), prepared.split
    structure.fit(
        model,
        (choose(split.train), outcome[split.train]),
        (choose(split.validation), outcome[split.validation]),
        lambda _epoch, _total, told: losses.append(told["loss"]),
    )
    return time.perf_counter() - started, time.process_time() - cpu_started, losses


def fit_plainly(
    structure: Structure, model: Any, prepared: Any, outcome: np.ndarray, config: dict[str, Any]
) -> tuple[float, float, list[float]]:
    """Return the same of Keras alone."""

    def make(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        size = structure.window
        if size == 1:
            return prepared.features[rows], outcome[rows].reshape(-1, 1)
        windows = np.stack([prepared.features[row - size + 1 : row + 1] for row in rows])
        return windows, outcome[rows].reshape(-1, 1)

    train, validation = make(prepared.split.train), make(prepared.split.validation)
    model.compile(
        optimizer=keras.optimizers.Adam(config["training.learning_rate"]),
        loss="binary_crossentropy",
    )
    started, cpu_started = time.perf_counter(), time.process_time()
    history = model.fit(
        *train,
        validation_data=validation,
        epochs=config["training.epochs"],
        batch_size=config["training.batch_size"],
        verbose=0,
    )
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    return seconds, cpu_seconds, history.history["loss"]


if __name__ == "__main__":
    main()
