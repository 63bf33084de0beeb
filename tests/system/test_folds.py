"""An interval in two forward folds: two tasks, judged by themselves, and compared together."""

from __future__ import annotations

import pytest

from system.installation import EXAMPLES

FOLDS = ("2010-01-01", "2014-01-01")
EVENT = f"""\
schema_version = 1
title = "Two folds"

[rows]
folds = [{", ".join(FOLDS)}]

[judging]
intervals = [5]
baseline = "flat"
"""


@pytest.fixture(scope="module")
def event(installation, tmp_path_factory):
    file = tmp_path_factory.mktemp("events") / "two-folds.toml"
    file.write_text(EVENT)
    assert installation.ask("event", "apply", str(file))["refused"] == {}
    return "two-folds"


@pytest.fixture(scope="module")
def trained(installation, event):
    return installation.ask(
        "submit",
        str(EXAMPLES / "momentum"),
        *("--event", event, "--intervals", "5", "--config", "fast.toml"),
        *("--override", "training.epochs=1"),
        *(word for day in FOLDS for word in ("--folds", day)),
        "--wait",
    )["submission_id"]


def test_each_fold_is_a_task_that_is_judged_on_its_own_rows(installation, trained):
    tasks = {task["task_id"]: task for task in installation.tasks(trained)}

    assert set(tasks) == {"validation", "i5-f0", "i5-f1"}
    judged = []
    for number, first in enumerate(FOLDS):
        task = tasks[f"i5-f{number}"]
        assert task["status"] == "success", task
        assert installation.read_result(task)["task_id"] == f"i5-f{number}"
        judged.append(task["published"]["judged"])
        assert (judged[number]["status"], judged[number].get("reason")) == ("judged", None)
        assert judged[number]["first"][:4] == first[:4]
    assert judged[0]["last"][:4] == "2013"
    assert judged[0]["rules"]["sha256"] != judged[1]["rules"]["sha256"]


def test_the_interval_has_figures_of_all_of_their_rows(installation, trained):
    rows = installation.ask("results", trained)["results"]

    together = [row for row in rows if row.get("fold") is None]
    alone = [row for row in rows if row.get("fold") is not None]
    assert (len(together), [row["fold"] for row in alone]) == (1, [0, 1])
    counts = [row["metrics"]["n_test_rows"] for row in (*together, *alone)]
    assert counts[0] == sum(counts[1:]) > 2200


def test_they_are_compared_together(installation, trained, event):
    (row,) = installation.ask("compare", trained)["rows"]

    assert row["verdict"] in {"better", "worse", "not distinguishable"}, row
    assert row["event"] == event
    (entry,) = [
        each for each in installation.ask("leaderboard", event)["rows"] if each["name"] == trained
    ]
    assert (entry["fold_count"], entry["score"] is None) == (len(FOLDS), False)
