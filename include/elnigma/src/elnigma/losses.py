"""Does the loss of a model belong to the rows that it is computed from?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from elnigma.errors import SubmissionError

_ROWS = 7
"""A prime: no product of other sizes is taken for it."""
_OUTCOMES = (0, 1, 1, 0, 1, 0, 0)
_PREDICTIONS = (0.15, 0.7, 0.85, 0.4, 0.25, 0.6, 0.95)
_TOLERANCE = 1e-4

Loss = Callable[[Any, Any], Any]


def check_loss(model: keras.Model) -> str:
    """
    Return the name of a compiled model's loss, if each row counts for itself.

    The loss of a batch must be one number a row, or their mean, and those must be the losses of the
    rows alone. Shapes that do not fit broadcast to one number for each *pair* of rows otherwise,
    and a model is trained on outcomes that are not its own. Keras' own losses are taken as they
    are.

    :raises SubmissionError: If it is not so.
    """
    loss = _find_loss(model)
    name = _name(loss)
    if loss is None or _is_keras_own(loss):
        return name
    outcomes = np.asarray(_OUTCOMES, "float32").reshape(_ROWS, 1)
    predictions = np.asarray(_PREDICTIONS, "float32").reshape(_ROWS, 1)
    compute = loss.call if isinstance(loss, keras.losses.Loss) else loss
    whole = _compute(compute, outcomes, predictions)
    single = np.array(
        [
            _compute(compute, outcomes[row : row + 1], predictions[row : row + 1]).mean()
            for row in range(_ROWS)
        ]
    )
    if whole.size not in (1, _ROWS):
        raise SubmissionError(
            f"wrong loss: {name} gives {whole.size} numbers of shape {whole.shape} for {_ROWS} "
            f"rows of shape {predictions.shape}; return one for each row, as "
            "keras.ops.mean(..., axis=-1) does"
        )
    expected = single if whole.size == _ROWS else single.mean()
    if not np.allclose(whole.reshape(-1), expected, rtol=_TOLERANCE, atol=_TOLERANCE):
        raise SubmissionError(
            f"wrong loss: {name} of {_ROWS} rows together is {whole.mean():.4g}, the mean of the "
            f"same rows alone is {single.mean():.4g}; compute each row's loss from that row: "
            f"targets and predictions both have the shape {predictions.shape}"
        )
    return name


def _find_loss(model: keras.Model) -> Loss | None:
    given = model.loss
    while isinstance(given, dict | list | tuple) and len(given) == 1:
        given = next(iter(given.values() if isinstance(given, dict) else given))
    if given is None or isinstance(given, dict | list | tuple):
        return None
    loss: Loss | None = keras.losses.get(given)
    return loss


def _is_keras_own(loss: Loss) -> bool:
    if not isinstance(loss, keras.losses.Loss):
        return _is_of_keras(loss)
    # A wrapper of Keras around somebody's function is not Keras' own.
    return _is_of_keras(type(loss)) and _is_of_keras(getattr(loss, "fn", type(loss)))


def _is_of_keras(thing: object) -> bool:
    return str(getattr(thing, "__module__", "")).partition(".")[0] == "keras"


def _name(loss: Loss | None) -> str:
    return "none" if loss is None else str(getattr(loss, "name", None) or loss.__name__)


def _compute(loss: Loss, outcomes: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    return np.asarray(
        keras.ops.convert_to_numpy(
            loss(keras.ops.convert_to_tensor(outcomes), keras.ops.convert_to_tensor(predictions))
        ),
        dtype="float64",
    )
