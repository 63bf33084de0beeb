"""Validation of a model structure: builds, learns a little, predicts, and survives a round trip."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from elnigma.config import BY_KEY
from elnigma.errors import SubmissionError
from elnigma.guard import build_guard
from elnigma.isolation import Child, Reply
from elnigma.loading import MODEL_STRUCTURE
from elnigma.progress import Progress
from elnigma.sandbox import confine
from elnigma.surroundings import Surroundings, change_all, hide_task
from elnigma.threads import compile_fast
from elnigma.validation.afresh import begin_afresh, check_surroundings, compute_afresh
from elnigma.validation.look_ahead import format_two

if TYPE_CHECKING:
    import keras

    from elnigma.networks import Inputs, Rows, Structure

WIDTH = 16
# Built as well: a structure that fits one width only fails when features come or go.
OTHER_WIDTH = 5
ROWS = 512
EPOCHS = 2
BATCH_SIZE = 64
# Of the memory, for two processes at once: what they take between two looks must fit beside it.
_MEMORY_SHARE = 0.6
_LOOK_SECONDS = 0.2
# Of what predictions of one row may differ by, in another batch.
_SHARE_OF_SPREAD = 1e-3
_TOLERANCES = (3e-7, 1e-5)


def check_model_structure(
    reference: str,
    progress: Progress,
    *,
    seed: int,
    memory_bytes: int | None = None,
    data_folder: str | None = None,
) -> dict[str, Any]:
    """
    Return what was checked.

    Two processes build, fit and predict at once, the second where all is otherwise that a model
    must not depend on. What the first refuses is refused in its words, and the second is ended.

    :param reference: Folder or dotted name.
    :param progress: Told how far it is.
    :param seed: Of the made-up data and the model.
    :param memory_bytes: All that there is; models that are too large for two at once go one after
        the other. ``None`` for no limit.
    :param data_folder: Where the module must not read; ``None`` for no such folder.
    :raises SubmissionError: With the first thing that is wrong.
    """
    progress.tell("checking", 5)
    everything = change_all()
    arguments = {"reference": reference, "seed": seed, "data_folder": data_folder}
    system = MODEL_STRUCTURE.name
    # Forked before the other one begins, whose reply is none of a module's business.
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        Child.fork(partial(_compute_first, reference, seed, data_folder, folder)) as child,
        begin_afresh(system, everything, **arguments) as beside,
    ):
        _let_work(child, beside, memory_bytes)
        first = child.result()
        progress.tell("checking in another process", 60)

        def compute(surroundings: Surroundings) -> Reply:
            if surroundings == everything and not beside.is_over:
                return beside.result()
            return compute_afresh(system, surroundings, **arguments)

        check_surroundings(compute, partial(_compare, first), everything)
    return first.facts


def _let_work(child: Child, beside: Child, memory_bytes: int | None) -> None:
    """Return when a child has something to say; end the other one if they need too much."""
    while child.is_silent(_LOOK_SECONDS):
        used = child.resident_bytes() + beside.resident_bytes()
        if memory_bytes is not None and used > memory_bytes * _MEMORY_SHARE:
            beside.end()
            return


def _compare(first: Reply, reply: Reply) -> str | None:
    found, other = first.numbers(), reply.numbers()
    if first.facts["parameters"] != reply.facts["parameters"]:
        counts = first.facts["parameters"][str(WIDTH)], reply.facts["parameters"][str(WIDTH)]
        return f"the model has {counts[1]} weights in place of {counts[0]}"
    if np.array_equal(found, other):
        return None
    count = int((found != other).sum())
    return f"{count} of {len(found)} predictions are others after the same training"


def _compute_first(reference: str, seed: int, data_folder: str | None, folder: str) -> Reply:
    hide_task()
    confine(
        folders=[folder],
        readable=[reference],
        hidden=[data_folder, tempfile.gettempdir()],
        may_fork=True,
    )
    os.environ["TMPDIR"] = os.environ["HOME"] = folder
    tempfile.tempdir = None
    return compute_model(reference, seed, data_folder)


def compute_model(reference: str, seed: int, data_folder: str | None = None) -> Reply:
    """
    Build a model, fit it, and predict with it, in this process, which is a child.

    :param reference: Folder or dotted name.
    :param seed: Of the made-up data and the model.
    :param data_folder: Where it must not read; ``None`` for no such folder.
    :raises SubmissionError: If something is wrong with it.
    """
    compile_fast()
    # Imported in the child: the backend's threads would not survive a fork.
    from elnigma import networks

    guard = build_guard(data_folder)
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
        _check_rows_alone(structure, model, choose, rows, predictions, seed)
    facts = {
        "parameters": {
            str(WIDTH): int(model.count_params()),
            str(OTHER_WIDTH): int(other.count_params()),
        },
        "fitted_epochs": EPOCHS,
        "h5_round_trip": True,
        "rows_alone": True,
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


def _check_rows_alone(
    structure: Structure,
    model: keras.Model,
    choose: Callable[[np.ndarray], Inputs],
    rows: np.ndarray,
    predictions: np.ndarray,
    seed: int,
) -> None:
    """Refuse a model whose prediction of a row goes by the rows that are predicted with it."""
    order = np.random.default_rng([seed, 2]).permutation(len(rows))
    mixed = np.empty_like(predictions)
    mixed[order] = structure.predict(model, choose(rows[order]))
    halves = [structure.predict(model, choose(part)) for part in np.array_split(rows, 2)]
    # What is lost of a float32 is no difference, however little the predictions differ themselves.
    tolerance = np.clip(_SHARE_OF_SPREAD * predictions.std(), *_TOLERANCES)
    for how, again in (
        ("stand in another order", mixed),
        ("are predicted in two halves", np.concatenate(halves)),
    ):
        differs = np.abs(again - predictions)
        if differs.max() > tolerance:
            at = int(np.argmax(differs))
            before, after = format_two(predictions[at], again[at])
            raise SubmissionError(
                f"look-ahead: the prediction of row {at} of {len(rows)} changes from {before} to "
                f"{after} when the rows {how}, likely cause: a layer reads along the batch, where "
                "later rows stand; compute each row's prediction from that row"
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
