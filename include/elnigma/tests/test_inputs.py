"""
What people really send, validated by the trainer: the outcome and every word that is said of it.

Each folder of ``tests/inputs`` has an ``expected.toml``: ``outcome``, the whole ``reason``, and the
``system`` where the files do not tell.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

INPUTS = Path(__file__).resolve().parents[3] / "tests" / "inputs"
NAMES = sorted(path.parent.name for path in INPUTS.glob("*/expected.toml"))
JUDGE = Path(__file__).parent / "judge.py"
WORKERS = 2
IMPERATIVES = (
    "add", "build", "call", "clip", "compute", "define", "divide", "drop", "end", "fill",
    "give", "go", "import", "keep", "leave", "let", "lower", "mend", "name", "put", "raise",
    "register", "rename", "return", "run", "save", "see", "seed", "shorten", "submit",
    "subtract", "take", "turn", "use", "write",
)  # fmt: skip


VALUE = r"['\d(]|\b(no|None)\b|\.py\b|\breturned [\w.]+$|: \w+$"
"""Something quoted, counted or named: what was found."""


def read_expected(name: str) -> dict[str, Any]:
    return tomllib.loads((INPUTS / name / "expected.toml").read_text())


def find_system(name: str) -> str:
    told = read_expected(name).get("system")
    has_model = (INPUTS / name / "model.py").exists()
    return str(told or ("model_structure" if has_model else "feature_set"))


@pytest.fixture(scope="module")
def judged(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> dict[str, Path]:
    """Where the trainer has left its word, by name of the input."""
    out = tmp_path_factory.mktemp("judged")
    here = [item for item in request.session.items if item.path == request.path]
    names = sorted(item.callspec.params["name"] for item in here if "judged" in item.fixturenames)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(out),
        "TMPDIR": str(tmp_path_factory.mktemp("tmp")),
        # As the runner does it.
        "PYTHONHASHSEED": "0",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
    }
    arguments = [f"{find_system(name)}={INPUTS / name}" for name in names]
    processes = []
    for number in range(WORKERS):
        with (out / f"log-{number}").open("wb") as log:
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-P", str(JUDGE), str(out), *arguments[number::WORKERS]],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            )
    for process in processes:
        assert process.wait() == 0
    return {name: out / name for name in names}


def test_there_are_enough_of_them() -> None:
    assert len(NAMES) >= 60


@pytest.mark.campaign(sample=4)
@pytest.mark.parametrize("name", NAMES)
def test_an_input_gets_the_right_answer(judged: dict[str, Path], name: str) -> None:
    expected, out = read_expected(name), judged[name]
    if expected["outcome"] == "accepted":
        assert not (out / "error.json").exists(), (out / "error.json").read_text()
        assert json.loads((out / "result.json").read_text())["validated"] is True
        return
    error = json.loads((out / "error.json").read_text())
    assert error["message"] == expected["reason"]
    assert error["class"] == expected.get("class", "submission")
    assert not (out / "result.json").exists()


@pytest.mark.parametrize(
    "name", [name for name in NAMES if read_expected(name)["outcome"] == "rejected"]
)
def test_a_reason_says_what_is_wrong_and_what_to_do(name: str) -> None:
    reason = read_expected(name)["reason"]
    assert reason.isprintable()
    assert len(reason) <= 500  # what a verdict keeps
    subject, separator, advice = reason.partition("; ")
    assert separator, "it names no way out"
    assert re.search(rf"\b({'|'.join(IMPERATIVES)})\b", advice), f"it has no imperative: {advice}"
    assert re.search(VALUE, subject), f"it names no value: {subject}"
