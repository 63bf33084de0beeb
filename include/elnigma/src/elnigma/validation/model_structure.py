"""Validation of a model structure: builds, learns a little, predicts, and survives a round trip."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from elnigma.config import BY_KEY
from elnigma.errors import SubmissionError
from elnigma.guard import build_guard
from elnigma.isolation import Reply, run_isolated
from elnigma.loading import MODEL_STRUCTURE
from elnigma.progress import Progress
from elnigma.surroundings import change_all
from elnigma.validation.afresh import check_surroundings, compute_afresh

if TYPE_CHECKING:
    import keras

    from elnigma.networks import Inputs, Rows, Structure

WIDTH = 16
# Built as well: a structure that fits one width only fails when features come or go.
OTHER_WIDTH = 5
ROWS = 512
EPOCHS = 2
BATCH_SIZE = 64


def check_model_structure(reference: str, progress: Progress, *, seed: int) -> dict[str, Any]:
    """
    Return what was checked.

    :param reference: Folder or dotted name.
    :param progress: Told how far it is.
    :param seed: Of the made-up data and the model.
    :raises SubmissionError: With the first thing that is wrong.
    """
    progress.tell("checking", 5)
    first = run_isolated(partial(compute_model, reference, seed))
    progress.tell("checking in another process", 60)

    def compare(reply: Reply) -> str | None:
        found, other = first.numbers(), reply.numbers()
        if first.facts["parameters"] != reply.facts["parameters"]:
            counts = first.facts["parameters"][str(WIDTH)], reply.facts["parameters"][str(WIDTH)]
            return f"the model has {counts[1]} weights in place of {counts[0]}"
        if np.array_equal(found, other):
            return None
        count = int((found != other).sum())
        return f"{count} of {len(found)} predictions are others after the same training"

    compute = partial(compute_afresh, MODEL_STRUCTURE.name, reference=reference, seed=seed)
    check_surroundings(compute, compare, change_all())
    return first.facts


def compute_model(reference: str, seed: int) -> Reply:
    """
    Build a model, fit it, and predict with it, in this process, which is a child.

    :param reference: Folder or dotted name.
    :param seed: Of the made-up data and the model.
    :raises SubmissionError: If something is wrong with it.
    """
    # Imported in the child: the backend's threads would not survive a fork.
    from elnigma import networks

    guard = build_guard()
    guard.install()
    config = {key: param.default for key, param in BY_KEY.items()}
    config |= {"training.epochs": EPOCHS, "training.batch_size": BATCH_SIZE}
    with guard.on():
        structure = networks.Structure(reference, config)
        networks.set_seed(seed)
        other = structure.build(OTHER_WIDTH)
        model = structure.build(WIDTH)
        loss = structure.check_loss(model)
        features, outcome = _make_rows(seed, structure.window)
        choose = structure.hold(features)
        rows = np.arange(len(features) - ROWS, len(features))
        train, validation = (
            (choose(part), outcome[part]) for part in (rows[: ROWS // 2], rows[ROWS // 2 :])
        )
        _check_learning(structure, model, train, validation)
        predictions = structure.predict(model, choose(rows))
        _check_round_trip(structure, model, choose(rows), predictions)
    facts = {
        "parameters": {
            str(WIDTH): int(model.count_params()),
            str(OTHER_WIDTH): int(other.count_params()),
        },
        "fitted_epochs": EPOCHS,
        "h5_round_trip": True,
        "loss": loss,
        "window": structure.window,
    }
    return Reply(facts=facts, array=predictions)


def _make_rows(seed: int, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Return features and outcomes, of which the last ``ROWS`` have a whole window."""
    rng = np.random.default_rng(seed)
    count = ROWS + window - 1
    features = rng.standard_normal((count, WIDTH)).astype("float32")
    return features, (features[:, 0] + rng.standard_normal(count) > 0).astype("float32")


def _check_learning(
    structure: Structure, model: keras.Model, train: Rows, validation: Rows
) -> None:
    before = [weight.copy() for weight in model.get_weights()]
    structure.fit(model, train, validation, lambda *_: None)
    after = model.get_weights()
    if all(np.array_equal(old, new) for old, new in zip(before, after, strict=True)):
        raise SubmissionError(
            "the model learns nothing: no weight changed in training; give it a layer with "
            "weights, and a loss that one output can lower, as binary_crossentropy"
        )


def _check_round_trip(
    structure: Structure, model: keras.Model, features: Inputs, predictions: np.ndarray
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.h5"
        structure.save(model, path)
        again = structure.load(path)
    if not np.array_equal(predictions, structure.predict(again, features)):
        raise SubmissionError(
            "the model predicts otherwise after it is saved and loaded as .h5; let each layer of "
            "your own keep all that it needs in get_config() and in its weights"
        )
