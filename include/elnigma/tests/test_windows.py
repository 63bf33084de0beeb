"""Models of windows: what they see, what they must not see, and what holding it costs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from conftest import Run
from elnigma.config import BY_KEY, build_config
from elnigma.data import load_market_data
from elnigma.errors import ConfigError, SubmissionError
from elnigma.feature_frame import check_frame, find_warm_up
from elnigma.features.reference import build_features
from elnigma.threads import limit_threads
from elnigma.train import Table, prepare

# Before Keras is imported: it looks for its backend then.
limit_threads(1)

from elnigma.networks import Structure, keras, set_seed  # noqa: E402
from elnigma.windows import WindowBatches, Windows, hold  # noqa: E402

# As deep as it takes to see all rows of a small window.
REFERENCES = {"lstm": 1, "tcn": 3, "transformer": 1}
ROWS, WIDTH, WINDOW = 200, 3, 8
SEED = 7
SMALL = {"model.window": WINDOW, "model.units": 8, "training.epochs": 2, "training.batch_size": 48}
ONE_BATCH = {"training.batch_size": ROWS}
"""Each size of a batch is compiled anew."""
SEQUENCE = """
import keras

{window}


def build_model(n_features, params):
    return keras.Sequential(
        [
            keras.Input({shape}),
            keras.layers.LSTM(4),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
"""


def configure(**changes: Any) -> dict[str, Any]:
    return {key: param.default for key, param in BY_KEY.items()} | changes


def make_features(rows: int = ROWS) -> np.ndarray:
    return np.random.default_rng(SEED).standard_normal((rows, WIDTH)).astype("float32")


def make_structure(reference: str, **changes: Any) -> Structure:
    layers = {"model.layers": REFERENCES.get(reference, 1)}
    return Structure(f"elnigma.models.{reference}", configure(**(SMALL | layers | changes)))


def build(structure: Structure) -> Any:
    set_seed(SEED)
    return structure.build(WIDTH)


def write_structure(folder: Path, *, window: str, shape: str) -> str:
    (folder / "model.py").write_text(SEQUENCE.format(window=window, shape=shape))
    return str(folder)


def gather(batches: WindowBatches) -> list[tuple[np.ndarray, ...]]:
    return [tuple(np.asarray(part) for part in batches[at]) for at in range(len(batches))]


# --- what a window is -------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 8, 64])
@pytest.mark.parametrize("batch_size", [1, 7, 20, 1000])
def test_a_window_is_the_rows_up_to_and_with_its_own_oldest_first(
    size: int, batch_size: int
) -> None:
    features, rows = make_features(), np.arange(size - 1, ROWS, 3)
    outcome = np.arange(len(rows), dtype="float32")
    windows = Windows(features=hold(features), rows=rows, size=size)
    found = gather(WindowBatches(windows, batch_size, outcome=outcome))

    assert [len(part) for part, _ in found] == [
        len(rows[at : at + batch_size]) for at in range(0, len(rows), batch_size)
    ]
    expected = np.stack([features[row - size + 1 : row + 1] for row in rows])
    assert np.array_equal(np.concatenate([part for part, _ in found]), expected)
    assert np.concatenate([part for _, part in found]).tolist() == [[n] for n in outcome]


def test_a_window_that_would_begin_before_the_first_row_is_refused() -> None:
    """A negative row number counts from the end, where the future is."""
    with pytest.raises(ValueError, match="row 6 has no 7 rows before it"):
        Windows(features=make_features(), rows=np.array([20, 6]), size=8)


def test_each_epoch_has_every_window_once_with_its_outcome_in_an_order_of_its_own() -> None:
    features, rows = make_features(), np.arange(4, ROWS)
    outcome = features[rows, 0]

    def read_epochs(seed: int) -> list[np.ndarray]:
        windows = Windows(features=hold(features), rows=rows, size=5)
        batches = WindowBatches(windows, 32, outcome=outcome, seed=seed)
        epochs = []
        for _ in range(3):
            batches.on_epoch_begin()
            found = gather(batches)
            last_rows = np.concatenate([part[:, -1, 0] for part, _ in found])
            assert np.array_equal(last_rows, np.concatenate([part[:, 0] for _, part in found]))
            epochs.append(last_rows)
        return epochs

    epochs = read_epochs(SEED)
    assert all(np.array_equal(np.sort(epoch), np.sort(outcome)) for epoch in epochs)
    assert len({epoch.tobytes() for epoch in [outcome, *epochs]}) == 4
    assert np.array_equal(epochs, read_epochs(SEED))
    assert not np.array_equal(epochs, read_epochs(SEED + 1))


def test_a_model_of_single_rows_gets_them_as_they_are() -> None:
    """Nothing of windows stands between such a model and Keras."""
    features, rows = make_features(), np.arange(20, 50)
    structure = Structure("elnigma.models.mlp", configure())
    found = structure.hold(features)(rows)

    assert structure.window == 1
    assert type(found) is np.ndarray
    assert np.array_equal(found, features[rows])
    assert structure.build(WIDTH).input_shape == (None, WIDTH)


# --- how large it is --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "configured", "expected"),
    [("WINDOW = 20", 0, 20), ("WINDOW = 20", 12, 12), ("", 12, 12)],
)
def test_the_configured_window_outranks_the_structures_own(
    tmp_path: Path, own: str, configured: int, expected: int
) -> None:
    reference = write_structure(tmp_path, window=own, shape='(params["window"], n_features)')
    structure = Structure(reference, configure(**{"model.window": configured}))

    assert structure.window == expected
    assert structure.build(WIDTH).input_shape == (None, expected, WIDTH)


@pytest.mark.parametrize(
    ("own", "shown"),
    [
        ("WINDOW = 0", "0"),
        ("WINDOW = 513", "513"),
        ("WINDOW = True", "True"),
        ("WINDOW = 20.0", "20.0"),
        ("WINDOW = None", "None"),
    ],
)
def test_a_window_that_is_no_number_of_rows_is_refused(
    tmp_path: Path, own: str, shown: str
) -> None:
    reference = write_structure(tmp_path, window=own, shape="(20, n_features)")
    with pytest.raises(SubmissionError, match=f"WINDOW is {shown} in model.py"):
        Structure(reference, configure())


@pytest.mark.parametrize(
    ("window", "shape", "message"),
    [
        (
            8,
            "(20, n_features)",
            r"\(None, 20, 3\); take \(None, 8, 3\), params\['window'\] rows",
        ),
        (8, "(None, n_features)", r"is \(None, None, 3\); take \(None, 8, 3\)"),
        (1, "(20, n_features)", r"is \(None, 20, 3\); take \(None, 3\), .* as WINDOW"),
    ],
)
def test_an_input_of_another_shape_is_told_what_to_take(
    tmp_path: Path, window: int, shape: str, message: str
) -> None:
    reference = write_structure(tmp_path, window="", shape=shape)
    with pytest.raises(SubmissionError, match=message):
        Structure(reference, configure(**{"model.window": window})).build(WIDTH)


# --- no look-ahead ----------------------------------------------------------------------------


@pytest.mark.parametrize("reference", REFERENCES)
def test_what_comes_after_a_row_changes_no_prediction_up_to_it(reference: str) -> None:
    features, rows = make_features(), np.arange(WINDOW - 1, ROWS)
    structure = make_structure(reference)
    model = build(structure)
    before = structure.predict(model, structure.hold(features)(rows))
    for last in (WINDOW - 1, 60, 150):
        changed = features.copy()
        changed[last + 1 :] = 100 * np.random.default_rng(last).standard_normal(
            changed[last + 1 :].shape
        )
        after = structure.predict(model, structure.hold(changed)(rows))
        assert np.array_equal(after[rows <= last], before[rows <= last])
        assert not np.array_equal(after[rows > last], before[rows > last])


@pytest.mark.parametrize("reference", REFERENCES)
def test_what_comes_before_a_window_changes_nothing(reference: str) -> None:
    features, rows = make_features(), np.arange(WINDOW - 1, ROWS)
    structure = make_structure(reference)
    model = build(structure)
    before = structure.predict(model, structure.hold(features)(rows))
    changed = features.copy()
    changed[:100] = -50
    after = structure.predict(model, structure.hold(changed)(rows))
    untouched = rows - WINDOW + 1 >= 100
    assert np.array_equal(after[untouched], before[untouched])
    assert not np.array_equal(after[~untouched], before[~untouched])


@pytest.mark.parametrize("reference", REFERENCES)
def test_a_prediction_does_not_depend_on_which_batch_comes_when(reference: str) -> None:
    batch = int(SMALL["training.batch_size"])
    features, rows = make_features(), np.arange(WINDOW - 1, WINDOW - 1 + 3 * batch)
    structure = make_structure(reference)
    model, choose = build(structure), structure.hold(features)
    in_order = structure.predict(model, choose(rows)).reshape(3, batch)
    turned = structure.predict(model, choose(rows.reshape(3, batch)[::-1].ravel()))
    assert np.array_equal(turned.reshape(3, batch)[::-1], in_order)


@pytest.fixture(scope="module")
def market() -> pd.DataFrame:
    return load_market_data().frame


def build_table(market: pd.DataFrame, horizon: int) -> Table:
    """The reference features, which this process computes itself: its backend outlives no fork."""
    features = check_frame(build_features(market), market)
    close = market["close"]
    return Table(
        features=features.to_numpy(),
        warm_up=find_warm_up(features),
        target=close.shift(-horizon) / close - 1,
        next_returns=(close.shift(-1) / close - 1).to_numpy(),
        columns=features.shape[1],
        checks={},
    )


def test_the_first_row_is_the_first_whose_window_is_behind_the_warm_up(
    market: pd.DataFrame,
) -> None:
    config = build_config("default.toml", [], [])
    table = build_table(market, 5)
    whole = prepare(table, 5, {**config, "model.window": 1})
    prepared = prepare(table, 5, {**config, "model.window": 32})

    assert table.warm_up > 0
    assert whole.split.train[0] == table.warm_up
    assert prepared.split.train[0] == table.warm_up + 31
    assert np.isnan(table.features[table.warm_up - 1]).any()
    for part in ("validation", "test"):
        # Days before are there for all of these.
        assert np.array_equal(getattr(prepared.split, part), getattr(whole.split, part))
    for rows in (prepared.split.train, prepared.split.validation, prepared.split.test):
        windows = Windows(features=hold(prepared.features), rows=rows, size=32)
        ((found,),) = gather(WindowBatches(windows, len(rows)))
        assert np.isfinite(found).all()
    assert prepared.features[prepared.split.train].mean(axis=0) == pytest.approx(0, abs=0.05)


def test_a_window_too_large_for_the_data_is_named(market: pd.DataFrame) -> None:
    config = build_config("default.toml", [], ["split.validation_from=2001-06-01"])
    table = build_table(market, 5)
    prepare(table, 5, {**config, "model.window": 2})
    with pytest.raises(
        ConfigError,
        match=r"split: \d+ training rows, at least 500 .* lower model.window, which is 200, or",
    ):
        prepare(table, 5, {**config, "model.window": 200})


# --- fitting and keeping ----------------------------------------------------------------------


def fit(structure: Structure, model: Any, features: np.ndarray) -> list[dict[str, float]]:
    told: list[dict[str, float]] = []
    choose, outcome = structure.hold(features), (features[:, 0] > 0).astype("float32")
    train, validation = np.arange(WINDOW - 1, 150), np.arange(150, ROWS)
    structure.fit(
        model,
        (choose(train), outcome[train]),
        (choose(validation), outcome[validation]),
        lambda _epoch, _total, losses: told.append(losses),
    )
    return told


@pytest.mark.campaign(sample=3)
@pytest.mark.parametrize("reference", REFERENCES)
def test_a_reference_structure_learns_and_is_kept_by_keras_own_layers(
    reference: str, tmp_path: Path
) -> None:
    changes = {"training.epochs": 40, "training.patience": 0, "training.learning_rate": 3e-2}
    structure = make_structure(reference, **ONE_BATCH, **changes, **{"model.dropout": 0.0})
    model = build(structure)
    told = fit(structure, model, make_features())
    assert told[-1]["loss"] < told[0]["loss"] / 2
    assert told[-1]["val_loss"] < told[0]["val_loss"]

    choose, rows = structure.hold(make_features()), np.arange(WINDOW - 1, ROWS)
    structure.save(model, tmp_path / "model.h5")
    again = structure.load(tmp_path / "model.h5")
    assert np.array_equal(
        structure.predict(again, choose(rows)), structure.predict(model, choose(rows))
    )
    assert {type(layer).__module__.partition(".")[0] for layer in again.layers} == {"keras"}


def test_batches_larger_than_the_data_are_one(tmp_path: Path) -> None:
    structure = make_structure("tcn", **{"training.batch_size": 5000, "training.epochs": 1})
    (losses,) = fit(structure, build(structure), make_features())
    assert np.isfinite(list(losses.values())).all()


@pytest.mark.parametrize(
    ("reference", "precision"),
    [
        ("mlp", "mixed_float16"),
        ("lstm", "mixed_bfloat16"),
        ("tcn", "mixed_bfloat16"),
        ("transformer", "mixed_float16"),
    ],
)
def test_mixed_precision_is_of_the_model_alone(reference: str, precision: str) -> None:
    window = 1 if reference == "mlp" else WINDOW
    changes = {"model.window": window, "training.precision": precision}
    structure = make_structure(reference, **ONE_BATCH, **changes)
    before = keras.config.dtype_policy().name
    model = build(structure)
    assert keras.config.dtype_policy().name == before == "float32"
    computed = {layer.compute_dtype for layer in model.layers if layer.weights}
    assert computed == {precision.removeprefix("mixed_"), "float32"}
    assert model.layers[-1].compute_dtype == "float32"
    assert {weight.dtype for weight in model.trainable_weights} == {"float32"}

    told = fit(structure, model, make_features())
    assert len(told) == 2
    scores = structure.predict(model, structure.hold(make_features())(np.arange(50, ROWS)))
    assert len(np.unique(scores)) > 100  # more than a number of eight bits can tell apart


def test_a_structure_that_raises_leaves_the_precision_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("def build_model(n_features, params):\n    1 / 0\n")
    structure = Structure(str(tmp_path), configure(**{"training.precision": "mixed_bfloat16"}))
    with pytest.raises(SubmissionError, match="ZeroDivisionError"):
        structure.build(WIDTH)
    assert keras.config.dtype_policy().name == "float32"


# --- by the command ---------------------------------------------------------------------------


@pytest.mark.campaign(sample=3)
@pytest.mark.parametrize(
    ("reference", "configured", "window"),
    [("lstm", 0, 32), ("tcn", 8, 8), ("transformer", 8, 8)],
)
def test_a_reference_structure_trains_to_the_same_bits_in_two_processes(
    run_attempt: Callable[..., Run], reference: str, configured: int, window: int
) -> None:
    """Where none is configured, the structure's own window stands in what is kept of the run."""
    overrides = (
        *(f"model.window={configured}", "model.units=8", "model.layers=1"),
        "backtest.n_resamples=100",
        # One batch of everything: each size of a batch is compiled anew.
        *("training.epochs=2", "training.batch_size=4096"),
    )
    runs = [
        run_attempt(
            *("train", "--config", f"{reference}.toml", "--prediction-interval", "5"),
            *(word for override in overrides for word in ("--config_override", override)),
            name=name,
            SEED="3",
        )
        for name in ("first", "second")
    ]
    assert [run.verdict["reason"] for run in runs] == [None, None]
    first, second = (run.result for run in runs)
    assert first["predictions_sha256"] == second["predictions_sha256"]
    assert first["params"]["model.window"] == window
    config = json.loads((runs[0].out / "effective_config.json").read_text())
    assert config["model"]["window"] == window
    assert first["metrics"]["n_test_rows"] == 1253  # as without windows: earlier days are there
    frame = pd.read_csv(runs[0].out / "predictions.csv")
    scored = frame[frame["part"] == "test"]
    assert scored["time"].iloc[0] == "2014-01-02T00:00:00+00:00"
    assert frame[["score_long", "score_short"]].to_numpy().std() > 0


# --- what it costs ----------------------------------------------------------------------------

MEASURE = """
import resource, sys
import numpy as np
from elnigma.threads import limit_threads

limit_threads(1)
from elnigma.config import BY_KEY
from elnigma.networks import Structure

count, width, window = map(int, sys.argv[2:])
config = {key: param.default for key, param in BY_KEY.items()}
config |= {"model.window": window, "training.epochs": 1, "training.batch_size": 512}
structure = Structure(sys.argv[1], config)
features = np.random.default_rng(0).standard_normal((count, width)).astype("float32")
outcome = (features[:, 0] > 0).astype("float32")


def work(model, rows):
    choose = structure.hold(features)
    half = len(rows) // 2
    parts = [(choose(part), outcome[part]) for part in (rows[:half], rows[half:])]
    structure.fit(model, *parts, lambda *_: None)
    structure.predict(model, choose(rows))


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# Everything is compiled and loaded by the first fit, of some rows.
work(structure.build(width), np.arange(window - 1, window - 1 + 4096))
before = peak()
work(structure.build(width), np.arange(window - 1, count))
print(peak() - before)
"""


def test_memory_grows_with_the_rows_and_not_with_the_windows_of_them(tmp_path: Path) -> None:
    count, width, window = 200_000, 16, 64
    (tmp_path / "model.py").write_text(
        "import keras\n\n\n"
        "def build_model(n_features, params):\n"
        '    rows = keras.Input((params["window"], n_features))\n'
        "    mean = keras.layers.GlobalAveragePooling1D()(rows)\n"
        '    return keras.Model(rows, keras.layers.Dense(1, activation="sigmoid")(mean))\n'
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", MEASURE, str(tmp_path), *map(str, (count, width, window))],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    grown = int(done.stdout.split()[-1])
    assert grown < count * window * width * 4 / 4, f"{grown / 2**20:.0f} MiB"
