"""Trainings of contract 2, by the scripts of the judge's own tests."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
SCRIPTS = REPOSITORY / "judge" / "tests"


def find_prices() -> Path:
    """Return the folder with the market data of the judge's environment."""
    (folder,) = (REPOSITORY / "judge" / ".venv" / "lib").glob("python3.*/site-packages/arch/data")
    return folder


def write_training(folder: Path, interval: int = 5, seed: int = 0) -> dict[str, Any]:
    """Write ``predictions.csv`` and ``result.json`` of an honest training; return the latter."""
    sys.path.insert(0, str(SCRIPTS))
    try:
        trainings = importlib.import_module("trainings")
    finally:
        sys.path.remove(str(SCRIPTS))
    prices = find_prices()
    predictions = trainings.write_predictions(folder, prices, interval, seed)
    result: dict[str, Any] = trainings.build_result(predictions, prices, interval)
    (folder / "result.json").write_text(json.dumps(result))
    return result
