"""An event on a data set of its own: hourly bars, from their folder to a verdict."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import pytest

from system.installation import EXAMPLES

TEXT = """\
schema_version = 1
name = "eurusd-hourly"
version = "2018-02"
title = "EURUSD, hourly"
file = "eurusd.csv"
sha256 = "{sha256}"
frequency = "1h"
calendar = "24x5"
time = "time"

[rows]
validation_from = 2017-10-01
test_from = 2017-12-01

[instruments.EURUSD]
role = "traded"
close = "close"

[columns.close]
instrument = "EURUSD"
available_at = "bar"
"""
EVENT = """\
schema_version = 1
title = "EURUSD, hourly"

[data]
name = "eurusd-hourly"

[judging]
intervals = [1]
baseline = "flat"
"""
LABEL = "eurusd-hourly 2018-02"
HEADER = "time,open,high,low,close,volume"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The hourly bars that the package ``backtesting`` brings for its own tests."""
    found = importlib.util.find_spec("backtesting")
    assert found is not None
    assert found.origin is not None
    bars = Path(found.origin).parent / "test" / "EURUSD.csv"
    # Its index has no name.
    _, *rows = (row.replace(" ", "T", 1) for row in bars.read_text().splitlines())
    folder = tmp_path_factory.mktemp("data") / "eurusd-hourly"
    folder.mkdir()
    (folder / "eurusd.csv").write_text("\n".join([HEADER, *rows, ""]))
    sha256 = hashlib.sha256((folder / "eurusd.csv").read_bytes()).hexdigest()
    (folder / "data.toml").write_text(TEXT.format(sha256=sha256))
    return folder


@pytest.fixture(scope="module")
def added(installation, folder):
    return installation.ask("data", "add", str(folder))


@pytest.fixture(scope="module")
def event(installation, added, tmp_path_factory):
    file = tmp_path_factory.mktemp("events") / "eurusd.toml"
    file.write_text(EVENT)
    assert installation.ask("event", "apply", str(file))["refused"] == {}
    return installation.ask("event", "show", "eurusd")


@pytest.fixture(scope="module")
def trained(installation, event):
    return installation.ask(
        "submit",
        str(EXAMPLES / "momentum"),
        *("--event", "eurusd", "--intervals", "1"),
        *("--override", "training.epochs=2", "--wait"),
    )["submission_id"]


def test_the_event_is_on_the_newest_version_with_its_rows_and_bars(added, event):
    assert added["is_changed"]
    assert event["data"] == {"name": "eurusd-hourly", "version": "2018-02"}
    assert event["rows"]["validation_from"] == "2017-10-01"
    assert event["rows"]["test_from"] == "2017-12-01"
    assert event["judging"]["bars_per_year"] == 6240


def test_validation_and_training_were_on_it(installation, trained, added):
    for task_id in ("validation", "i1"):
        task = installation.task(trained, task_id)
        assert task["status"] == "success", task
        assert task["config"]["data"]["digest"] == added["digest"]
    result = installation.read_result(installation.task(trained, "i1"))
    assert (result["data"]["name"], result["data"]["sha256"]) == (LABEL, added["digest"])
    predictions = installation.read_output(installation.task(trained, "i1"), "predictions.csv")
    times = [line.split(",")[0] for line in predictions.decode().splitlines()[1:]]
    # Bars, and not days.
    assert len(set(times)) == len(times) > len({time[:10] for time in times})


def test_the_figures_are_the_judges(installation, trained):
    judged = installation.task(trained, "i1")["published"]["judged"]

    assert (judged["status"], judged.get("reason")) == ("judged", None)
    assert judged["first"].startswith("2017-12-01T00:00")
    assert judged["last"].startswith("2018-02-07")


def test_it_ends_with_a_verdict(installation, trained):
    (row,) = installation.ask("compare", trained)["rows"]

    assert row["verdict"] in {"better", "worse", "not distinguishable"}, row
    assert row["event"] == "eurusd"
    assert row["score"] is not None
    board = installation.ask("leaderboard", "eurusd")
    assert trained in [each["name"] for each in board["rows"] if each["rank"]]


def test_the_same_folder_again_changes_nothing_and_another_content_is_refused(
    installation, trained, folder, tmp_path
):
    assert not installation.ask("data", "add", str(folder))["is_changed"]
    other = tmp_path / "other"
    other.mkdir()
    for file in folder.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    text = (other / "data.toml").read_text()
    (other / "data.toml").write_text(text.replace('title = "EURUSD', 'title = "Euro'))

    done = installation.run("data", "add", str(other))

    assert done.returncode != 0
    assert f"{LABEL} is there already with another content" in done.stderr
