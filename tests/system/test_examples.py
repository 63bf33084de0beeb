"""
Every example ends as its folder says: the good ones accepted, the broken ones with a reason.

The trainer's own tests run all of them; ``make test-campaigns`` sends all through the whole stack,
CI a sample and what only a training shows.
"""

from __future__ import annotations

import json
import tomllib

import pytest

from system.installation import EXAMPLES
from waiting import wait_for

GOOD = [
    *("momentum", "mean_reversion", "volatility"),
    *("wide_mlp", "lstm", "tcn", "transformer"),
]
BROKEN = sorted(path.parent.name for path in EXAMPLES.glob("broken/*/expected.toml"))
RAISES = "raises_in_training"


def system_of(folder):
    return "model_structure" if (folder / "model.py").exists() else "feature_set"


def submit(installation, folder, *arguments):
    return installation.submit(folder, "--system", system_of(folder), *arguments)


def read_expected(name):
    return tomllib.loads((EXAMPLES / "broken" / name / "expected.toml").read_text())


def is_found_in_training(name):
    return name in BROKEN and read_expected(name).get("phase") == "train"


def sample(names):
    """Return names as parameters, of which CI runs one in four and what only a training shows."""
    some = pytest.mark.campaign
    return [
        name if is_found_in_training(name) else pytest.param(name, marks=some) for name in names
    ]


@pytest.fixture(scope="module")
def submitted(installation, request):
    """All examples at once: they queue for the validation slot, as users' do."""
    here = [item for item in request.session.items if item.path == request.path]
    names = {item.callspec.params["name"] for item in here if hasattr(item, "callspec")}
    return {
        name: submit(
            installation,
            EXAMPLES / name if name in GOOD else EXAMPLES / "broken" / name,
            *(["--intervals", "5"] if is_found_in_training(name) else []),
        )
        for name in sorted(names | {RAISES})
    }


def test_there_is_an_example_of_everything_that_goes_wrong():
    assert len(BROKEN) >= 12


@pytest.mark.parametrize("name", sample(GOOD))
def test_a_good_example_is_accepted(installation, submitted, name):
    submission = installation.wait_for_submission(submitted[name], "accepted", "rejected", "error")

    assert submission["status"] == "accepted", submission.get("reason")


@pytest.mark.parametrize("name", sample(BROKEN))
def test_a_broken_example_is_refused_with_the_right_reason_in_one_line(
    installation, submitted, name
):
    expected = read_expected(name)
    submission_id = submitted[name]

    submission = installation.wait_for_submission(
        submission_id, "rejected", "accepted", "error", "success"
    )
    if is_found_in_training(name):
        submission = installation.wait_for_submission(submission_id, "error")
        task = installation.task(submission_id, "i5")
    else:
        assert submission["status"] == "rejected"
        task = installation.task(submission_id, "validation")

    assert task["exit_code"] == expected["exit_code"]
    assert task["failure_class"] == expected["class"]
    assert "\n" not in submission["reason"]
    for part in expected["reason_contains"]:
        assert part in submission["reason"]
    assert task["attempt"] == 1, task["attempts"]
    assert not any(submission_id in running for running in installation.running_attempts())
    shown = installation.run("logs", submission_id)
    assert shown.returncode == 0, shown.stderr


def test_a_failed_training_keeps_its_traceback_for_whoever_asks(installation, submitted):
    submission_id = submitted[RAISES]
    installation.wait_for_submission(submission_id, "error")

    wait_for("it is stored", lambda: installation.task(submission_id, "i5").get("uploaded_at"))

    error = json.loads(
        installation.read_output(installation.task(submission_id, "i5"), "error.json")
    )
    assert error["message"] in installation.submission(submission_id)["reason"]
    assert "Traceback" in error["traceback"]
    assert "Traceback" in installation.run("logs", submission_id, "i5").stdout
