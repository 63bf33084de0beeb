"""Every loss, metric and optimiser of Keras: taken, and trained as Keras alone trains with it."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elnigma.config import BY_KEY
from elnigma.threads import limit_threads

# Before Keras is imported: it looks for its backend then.
limit_threads(1)

from elnigma.networks import Structure, keras, set_seed  # noqa: E402

ROWS, WIDTH, EPOCHS, BATCH = 96, 4, 2, 32
SEED = 7


def find_classes(module: Any, base: type) -> dict[str, type]:
    """Return what can be named in ``compile``: the classes of a module that are no mere bases."""
    return {
        name: kind
        for name, kind in vars(module).items()
        if inspect.isclass(kind) and issubclass(kind, base) and kind is not base
    }


LOSSES = find_classes(keras.losses, keras.losses.Loss)
METRICS = {
    name: kind
    for name, kind in find_classes(keras.metrics, keras.metrics.Metric).items()
    # Of values: Keras itself cannot give them targets and predictions.
    if name not in {"Mean", "Sum"}
}
OPTIMIZERS = {
    name: kind
    for name, kind in find_classes(keras.optimizers, keras.optimizers.Optimizer).items()
    # It is made of others, for layers that it is given.
    if name != "MultiOptimizer"
}
LOSS_FUNCTIONS = sorted(
    name
    for name, thing in vars(keras.losses).items()
    if inspect.isfunction(thing) and name not in {"get", "serialize", "deserialize"}
)
MADE_WITH = {
    "LossScaleOptimizer": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.05)),
    "MeanMetricWrapper": lambda: keras.metrics.MeanMetricWrapper(keras.losses.mean_squared_error),
    "MeanIoU": lambda: keras.metrics.MeanIoU(num_classes=2),
    "IoU": lambda: keras.metrics.IoU(num_classes=2, target_class_ids=[0]),
    "OneHotIoU": lambda: keras.metrics.OneHotIoU(num_classes=1, target_class_ids=[0]),
    "OneHotMeanIoU": lambda: keras.metrics.OneHotMeanIoU(num_classes=1),
    "PrecisionAtRecall": lambda: keras.metrics.PrecisionAtRecall(recall=0.5),
    "RecallAtPrecision": lambda: keras.metrics.RecallAtPrecision(precision=0.5),
    "SensitivityAtSpecificity": lambda: keras.metrics.SensitivityAtSpecificity(0.5),
    "SpecificityAtSensitivity": lambda: keras.metrics.SpecificityAtSensitivity(0.5),
}
METRIC_GROUPS = 6
"""A model is compiled for each, which takes most of the time."""
NOT_OF_ONE_OUTPUT = {
    *("CTC", "ctc"),
    *("CategoricalGeneralizedCrossEntropy", "categorical_generalized_cross_entropy"),
}
"""
What Keras itself cannot compute of one probability a row: the first aligns sequences, the second
has no gradient where the only class is not that of the row.
"""


def build(n_features: int, _params: dict[str, Any]) -> Any:
    return keras.Sequential(
        [
            keras.Input((n_features,)),
            keras.layers.Dense(5, activation="tanh"),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )


@pytest.fixture
def structure(tmp_path: Path) -> Structure:
    (tmp_path / "model.py").write_text("def build_model(n_features, params):\n    return None\n")
    config = {key: param.default for key, param in BY_KEY.items()}
    config |= {"training.epochs": EPOCHS, "training.batch_size": BATCH, "training.patience": 0}
    return Structure(str(tmp_path), config)


def make_rows() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(SEED)
    features = rng.standard_normal((ROWS, WIDTH)).astype("float32")
    return features, (features[:, 0] > 0).astype("float32")


def fit_both(structure: Structure, compile_with: Any) -> tuple[Any, Any]:
    """Fit two models of the same beginning: one as the trainer does, one as Keras' manual does."""
    features, outcome = make_rows()
    set_seed(SEED)
    ours = build(WIDTH, {})
    ours.compile(**compile_with())
    structure.check_loss(ours)
    structure.fit(ours, (features, outcome), (features, outcome), lambda *_: None)
    set_seed(SEED)
    plain = build(WIDTH, {})
    plain.compile(**compile_with())
    column = outcome.reshape(-1, 1)
    plain.fit(
        features,
        column,
        validation_data=(features, column),
        epochs=EPOCHS,
        batch_size=BATCH,
        verbose=0,
    )
    return ours, plain


def assert_same(structure: Structure, ours: Any, plain: Any, path: Path) -> None:
    for one, other in zip(ours.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)
    features, _ = make_rows()
    structure.save(ours, path)
    again = structure.load(path)
    np.testing.assert_array_equal(
        structure.predict(ours, features), structure.predict(again, features)
    )


@pytest.mark.campaign(sample=4)
@pytest.mark.parametrize("name", sorted(set(LOSSES) - NOT_OF_ONE_OUTPUT))
def test_a_loss_of_keras(structure: Structure, tmp_path: Path, name: str) -> None:
    ours, plain = fit_both(
        structure, lambda: {"optimizer": keras.optimizers.SGD(0.05), "loss": LOSSES[name]()}
    )
    assert_same(structure, ours, plain, tmp_path / "model.h5")


@pytest.mark.campaign(sample=4)
@pytest.mark.parametrize("name", ["mse", "mae"])
def test_a_loss_by_its_short_name(structure: Structure, tmp_path: Path, name: str) -> None:
    ours, plain = fit_both(
        structure, lambda: {"optimizer": keras.optimizers.SGD(0.05), "loss": name}
    )
    assert_same(structure, ours, plain, tmp_path / "model.h5")


@pytest.mark.campaign(sample=4)
@pytest.mark.parametrize("name", sorted(set(LOSS_FUNCTIONS) - NOT_OF_ONE_OUTPUT))
def test_a_name_of_a_loss_is_taken(structure: Structure, tmp_path: Path, name: str) -> None:
    """Names of the same functions; what they are trained to is tried with the classes."""
    model = build(WIDTH, {})
    model.compile(optimizer="sgd", loss=name)
    structure.check_loss(model)
    structure.save(model, tmp_path / "model.h5")
    structure.load(tmp_path / "model.h5")


@pytest.mark.campaign(sample=4)
@pytest.mark.parametrize("number", range(METRIC_GROUPS))
def test_metrics_of_keras(structure: Structure, tmp_path: Path, number: int) -> None:
    names = sorted(METRICS)[number::METRIC_GROUPS]
    ours, plain = fit_both(
        structure,
        lambda: {
            "optimizer": keras.optimizers.SGD(0.05),
            "loss": "binary_crossentropy",
            "metrics": [MADE_WITH.get(name, METRICS[name])() for name in names],
        },
    )
    assert_same(structure, ours, plain, tmp_path / "model.h5")


@pytest.mark.campaign(sample=4)
@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_an_optimizer_of_keras(structure: Structure, tmp_path: Path, name: str) -> None:
    make = MADE_WITH.get(name, OPTIMIZERS[name])
    ours, plain = fit_both(structure, lambda: {"optimizer": make(), "loss": "binary_crossentropy"})
    assert_same(structure, ours, plain, tmp_path / "model.h5")
