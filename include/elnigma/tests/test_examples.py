"""Every example through the runner: the good ones pass, each broken one for its own reason."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import EXAMPLES, Run

GOOD = sorted(path.parent for path in EXAMPLES.glob("*/*.py") if path.stem in ("features", "model"))
BROKEN = sorted(path.parent for path in EXAMPLES.glob("broken/*/expected.toml"))
# Small enough to be reached soon, large enough for what is right.
WALL_SECONDS = "1200"
SHORT_WALL_SECONDS = "6"
MEMORY_MIB = "1024"


def _system(folder: Path) -> str:
    return "model_structure" if (folder / "model.py").exists() else "feature_set"


def _run(run_attempt: Callable[..., Run], folder: Path, phase: str, **variables: str) -> Run:
    variables = {"WALL_SECONDS": WALL_SECONDS, "MEMORY_MIB": MEMORY_MIB, **variables}
    if phase == "train":
        option = "--" + _system(folder).replace("_", "-")
        arguments = ["train", "--config", "fast.toml", option, str(folder)]
        arguments += ["--prediction-interval", "5"]
    else:
        arguments = ["validate", "--system", _system(folder), "--module", str(folder)]
    return run_attempt(*arguments, **variables)


@pytest.mark.campaign(sample=3)
@pytest.mark.parametrize("folder", GOOD, ids=lambda path: path.name)
def test_a_good_example_is_valid(run_attempt: Callable[..., Run], folder: Path) -> None:
    run = _run(run_attempt, folder, "validate")
    assert run.verdict["reason"] is None
    assert run.result["validated"] is True
    if _system(folder) == "feature_set":
        assert run.result["checks"]["look_ahead_cuts"] == 16
        assert run.result["columns"]


def test_a_feature_set_is_judged_without_what_only_a_training_needs(
    run_attempt: Callable[..., Run], tmp_path: Path
) -> None:
    """Importing Keras and JAX costs more than all the rest of a validation."""
    folder = tmp_path / "module"
    shutil.copytree(EXAMPLES / "momentum", folder)
    features = folder / "features.py"
    asked = "print('loaded:', sorted({'keras', 'jax', 'tensorflow'} & set(sys.modules)))"
    features.write_text(f"{features.read_text()}\nimport sys\n{asked}\n")
    run = _run(run_attempt, folder, "validate")
    assert run.verdict["reason"] is None
    assert "loaded: []" in run.console


@pytest.mark.parametrize("folder", BROKEN, ids=lambda path: path.name)
def test_a_broken_example_fails_for_its_own_reason(
    run_attempt: Callable[..., Run], folder: Path
) -> None:
    expected: dict[str, Any] = tomllib.loads((folder / "expected.toml").read_text())
    limits = {"WALL_SECONDS": SHORT_WALL_SECONDS} if folder.name == "endless_loop" else {}
    run = _run(run_attempt, folder, expected.get("phase", "validate"), **limits)
    verdict = run.verdict
    assert (verdict["exit_code"], verdict["class"]) == (expected["exit_code"], expected["class"])
    assert run.exit_code == expected["exit_code"]
    for part in expected["reason_contains"]:
        assert part in verdict["reason"]
    assert "\n" not in verdict["reason"]
    assert not (run.out / "result.json").exists()


def test_what_fails_in_training_passes_validation(run_attempt: Callable[..., Run]) -> None:
    run = _run(run_attempt, EXAMPLES / "broken" / "raises_in_training", "validate")
    assert run.exit_code == 0


def test_a_failing_module_leaves_its_traceback_in_the_console_and_in_error_json(
    run_attempt: Callable[..., Run],
) -> None:
    run = _run(run_attempt, EXAMPLES / "broken" / "tries_network", "validate")
    assert 'features.py", line 9, in build_features' in run.console
    error = json.loads((run.out / "error.json").read_text())
    assert error["class"] == "submission"
    assert "build_features" in error["traceback"]


def test_a_module_that_hides_its_network_access_is_refused(
    run_attempt: Callable[..., Run], tmp_path: Path
) -> None:
    (tmp_path / "features.py").write_text(
        "import socket\n"
        "def build_features(data):\n"
        "    try:\n"
        "        socket.create_connection(('192.0.2.1', 80), timeout=1)\n"
        "    except Exception:\n"
        "        pass\n"
        "    return data[['close']].pct_change(5)\n"
    )
    run = _run(run_attempt, tmp_path, "validate")
    assert (run.exit_code, run.verdict["class"]) == (3, "submission")
    assert "network access is not allowed" in run.verdict["reason"]


def test_a_module_that_does_not_exist_is_told_apart_from_one_that_fails(
    run_attempt: Callable[..., Run],
) -> None:
    run = run_attempt("validate", "--system", "feature_set", "--module", "/nowhere/content")
    assert (run.exit_code, run.verdict["class"]) == (2, "config")
