"""Trainings as an image of contract 2 leaves them, made of random predictions."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path

import by_hand

SHA256 = "3e62ea89adb557b4b92e3d35a53ee7b443e9435efdbfee63e78d945ce361fc0c"
RULES = {
    "version": 1,
    "data_name": "sp500+nasdaq daily",
    "data_sha256": SHA256,
    "validation_from": "2011-01-01",
    "test_from": "2014-01-01",
    "test_to": None,
    "cost_bps": 1.0,
    "bars_per_year": 252,
    "resamples": 1000,
}


def find_prices() -> Path:
    """Return the folder with the market data."""
    spec = importlib.util.find_spec("arch")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "data"


def write_predictions(folder: Path, prices: Path, interval: int, seed: int = 0) -> Path:
    """Write predictions with some skill, so that no figure is zero by accident; return the file."""
    days, close = by_hand.read_closes(prices)
    _, validation, test = by_hand.find_rows(days, interval)
    draw = random.Random(seed)
    lines = ["time,part,score_long,score_short"]
    for part, rows in (("validation", validation), ("test", test)):
        for row in rows:
            drift = 3 * (close[row + interval] / close[row] - 1)
            long = min(max(0.5 + drift + draw.gauss(0, 0.1), 0.0), 1.0)
            short = min(max(0.5 - drift + draw.gauss(0, 0.1), 0.0), 1.0)
            lines.append(f"{days[row]}T00:00:00+00:00,{part},{long!r},{short!r}")
    path = folder / "predictions.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def build_result(predictions: Path, prices: Path, interval: int) -> dict:
    """Return the result.json of a trainer that tells the truth about these predictions."""
    found = by_hand.recompute(prices, predictions, interval)
    days, _ = by_hand.read_closes(prices)
    parts = dict(
        zip(("train", "validation", "test"), by_hand.find_rows(days, interval), strict=True)
    )
    times = {
        name: {
            "first": f"{days[rows[0]]}T00:00:00+00:00",
            "last": f"{days[rows[-1]]}T00:00:00+00:00",
        }
        for name, rows in parts.items()
    }
    return {
        "contract": 2,
        "submission_id": "s-1",
        "task_id": f"i{interval}",
        "prediction_interval": interval,
        "seed": 0,
        "scale": found["scale"],
        "metrics": found["metrics"],
        "metric_notes": {},
        "data": {
            "name": "sp500+nasdaq daily",
            "sha256": SHA256,
            "rows": len(days),
            "first": days[0],
            "last": days[-1],
        },
        "params": {
            "split.validation_from": "2011-01-01",
            "split.test_from": "2014-01-01",
            "split.test_to": "",
            "backtest.cost_bps": 1.0,
            "backtest.bars_per_year": 252,
            "backtest.n_resamples": 1000,
            "training.seed": 0,
        },
        "split": times,
        "files": [{"path": f"models/{side}.h5"} for side in ("long", "short")],
    }
