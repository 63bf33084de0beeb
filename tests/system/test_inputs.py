"""A sample of what people really send, through the whole stack; the trainer's own tests run all."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from campaigns import sample

INPUTS = Path(__file__).parents[1] / "inputs"


def read_expected(name):
    return tomllib.loads((INPUTS / name / "expected.toml").read_text())


NAMES = sample(sorted(path.parent.name for path in INPUTS.glob("*/expected.toml")), 10)


@pytest.fixture(scope="module")
def submitted(installation):
    """All of them at once, as they come."""
    found = {}
    for name in NAMES:
        has_model = (INPUTS / name / "model.py").exists()
        told = read_expected(name).get("system")
        system = told or ("model_structure" if has_model else "feature_set")
        found[name] = installation.submit(INPUTS / name, "--system", system)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_an_input_ends_with_the_right_word_and_leaves_nothing_running(
    installation, submitted, name
):
    expected, submission_id = read_expected(name), submitted[name]

    submission = installation.wait_for_submission(submission_id, "accepted", "rejected", "error")

    assert submission["status"] == expected["outcome"], submission.get("reason")
    if expected["outcome"] == "rejected":
        assert submission["reason"] == expected["reason"]
        task = installation.task(submission_id, "validation")
        assert task["failure_class"] == expected.get("class", "submission")
        assert task["attempt"] == 1
    assert not any(submission_id in running for running in installation.running_attempts())
