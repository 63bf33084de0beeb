"""The forward score: which rows count, by hand; and what is refused."""

from __future__ import annotations

import hashlib
import json
import math
import random
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import mean, stdev

import pytest

START = datetime(2020, 1, 1, tzinfo=UTC)
OLD, NEW = 1200, 1700
TIMES = [START + timedelta(hours=hour) for hour in range(NEW)]
INTERVAL = 3
DRAW = random.Random(3)
CLOSE = [100.0]
for _ in TIMES[1:]:
    CLOSE.append(CLOSE[-1] * math.exp(DRAW.gauss(0, 0.002)))
VALIDATION, TEST = 14 * 24, 31 * 24
"""First rows of 15 January and 1 February."""
SCORES = [(DRAW.uniform(0.3, 0.7), DRAW.uniform(0.3, 0.7)) for _ in TIMES]
SAVED = TIMES[OLD - 100]
"""When the models were there: later rows of the old data do not count until a day has gone by."""
TOML = """
name = "walk"
version = "{version}"
file = "{file}"
sha256 = "{sha256}"
frequency = "1h"
calendar = "24x7"
time = "at"
[rows]
validation_from = 2020-01-15
test_from = 2020-02-01
[instruments.WALK]
role = "traded"
close = "last"
[columns.last]
instrument = "WALK"
[columns.volume]
instrument = "WALK"
"""


def write_data(folder: Path, version: str, rows: int, change=lambda lines: lines, toml=TOML):
    folder.mkdir()
    lines = [
        f"{moment.isoformat()},{close!r},{row}"
        for row, (moment, close) in enumerate(zip(TIMES[:rows], CLOSE, strict=False))
    ]
    content = "\n".join(["at,last,volume", *change(lines)]).encode()
    (folder / "walk.csv").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    (folder / "data.toml").write_text(toml.format(version=version, file="walk.csv", sha256=digest))
    return folder


def write_predictions(path: Path, rows: int, scores=SCORES, change=lambda lines: lines):
    parts = [("validation", VALIDATION, TEST - INTERVAL), ("test", TEST, rows - INTERVAL)]
    lines = [
        f"{TIMES[row].isoformat()},{part},{scores[row][0]!r},{scores[row][1]!r}"
        for part, first, end in parts
        for row in range(first, end)
    ]
    path.write_text("\n".join(["time,part,score_long,score_short", *change(lines)]) + "\n")
    return path


@pytest.fixture
def ask(tmp_path):
    """Ask the program; ``old`` and ``new`` change lines of the data, ``said`` of predictions."""

    def ask(*, new=lambda lines: lines, toml=TOML, said=lambda lines: lines, scores=SCORES, **more):
        was = write_data(tmp_path / "was", "1", OLD)
        now = write_data(tmp_path / "now", "2", NEW, new, toml)
        digest = hashlib.sha256((was / "data.toml").read_bytes() + (was / "walk.csv").read_bytes())
        rules = {
            "version": 1,
            "data_name": "walk 1",
            "data_sha256": digest.hexdigest(),
            "validation_from": "2020-01-15",
            "test_from": "2020-02-01",
            "test_to": None,
            "cost_bps": 1.0,
            "bars_per_year": 8760,
            "resamples": 200,
            **more.pop("rules", {}),
        }
        question = {
            "rules": rules,
            "interval": INTERVAL,
            "before": str(write_predictions(tmp_path / "before.csv", OLD)),
            "predictions": str(write_predictions(tmp_path / "after.csv", NEW, scores, said)),
            "data_before": str(was),
            "data_dir": str(now),
            "saved_at": SAVED.isoformat(),
            "added_at": TIMES[-1].isoformat(),
            **more,
        }
        done = subprocess.run(
            [sys.executable, "-I", "-m", "touchstone_judge", "forward"],
            input=json.dumps(question).encode(),
            capture_output=True,
            check=False,
            env={"OPENBLAS_NUM_THREADS": "1"},
        )
        return json.loads(done.stdout) if done.returncode == 0 else done.stderr.decode()

    return ask


def test_the_rows_after_the_models_are_scored_by_hand(ask):
    found = ask()

    first, end = OLD - 100 + 24 + 1, NEW - INTERVAL
    score = [long - short for long, short in SCORES]
    known = score[VALIDATION : TEST - INTERVAL]
    middle, spread = mean(known), stdev(known)
    opinions = [0.0] * (INTERVAL - 1)
    opinions += [max(-1, min(1, (each - middle) / spread / 2)) for each in score[first:end]]
    held = [sum(opinions[at : at + INTERVAL]) / INTERVAL for at in range(end - first)]
    net = [
        now * (CLOSE[row + 1] / CLOSE[row] - 1) - 1e-4 * abs(now - before)
        for row, now, before in zip(range(first, end), held, [0.0, *held[:-1]], strict=True)
    ]
    assert (found["judged"], found["rows"]) == (True, end - first)
    assert (found["first"], found["last"]) == (TIMES[first].isoformat(), TIMES[end - 1].isoformat())
    assert found["metrics"]["net_sharpe"] == pytest.approx(
        math.sqrt(8760) * mean(net) / stdev(net), rel=1e-9
    )
    assert found["metrics"]["total_return"] == pytest.approx(
        math.prod(1 + each for each in net) - 1, rel=1e-9
    )
    assert (
        found["metrics"]["net_sharpe_low"]
        < found["metrics"]["net_sharpe"]
        < found["metrics"]["net_sharpe_high"]
    )
    assert found["largest_difference"] == 0


def test_models_that_were_saved_later_have_fewer_rows_and_no_interval_of_few(ask):
    found = ask(saved_at=TIMES[NEW - 100].isoformat())
    assert found["rows"] == 100 - 25 - INTERVAL
    assert found["metrics"]["net_sharpe"] is not None
    assert found["metrics"]["net_sharpe_low"] is None
    assert "too few rows" in found["notes"]["net_sharpe_low"]


def test_rows_count_only_when_a_day_has_gone_by(ask):
    told = ask(saved_at=TIMES[NEW - 20].isoformat())
    assert told["judged"] is False
    assert told["reason"].startswith("no rows yet (rows count from 2020-03-12T00")


def test_an_event_that_ended_goes_on_behind_its_last_day(ask, tmp_path):
    # The training was judged, and so has predicted, to 10 February alone.
    ended = TIMES[41 * 24].isoformat()
    before = write_predictions(
        tmp_path / "ended.csv", OLD, change=lambda lines: [each for each in lines if each < ended]
    )
    found = ask(rules={"test_to": "2020-02-10"}, before=str(before))
    assert (found["judged"], found["last"]) == (True, TIMES[NEW - INTERVAL - 1].isoformat())


def test_a_difference_that_rounding_makes_is_none(ask):
    scores = [(long + 1e-5, short) for long, short in SCORES]
    found = ask(scores=scores)
    assert found["judged"] is True
    assert found["largest_difference"] == pytest.approx(1e-5, rel=1e-6)


def _replace(at, text):
    return lambda lines: [*lines[:at], text(lines[at]), *lines[at + 1 :]]


AT = 500
WHEN = TIMES[AT].isoformat()
REVISED = {
    "a close of before": (
        _replace(AT, lambda line: f"{WHEN},99.0,{AT}"),
        f"other data (last of {WHEN} is 99.0 in walk 2, and ",
    ),
    "another column of before": (
        _replace(AT, lambda line: line.replace(f",{AT}", ",7")),
        f"other data (volume of {WHEN} is 7.0 in walk 2, and {AT}.0 in walk 1)",
    ),
    "a row of before is gone": (
        lambda lines: lines[:AT] + lines[AT + 1 :],
        f"other data (walk 2 has no row of {WHEN} where walk 1 has it)",
    ),
    "a row between those of before": (
        lambda lines: (
            [*lines[:AT], f"{(TIMES[AT] - timedelta(minutes=5)).isoformat()},1,1", *lines[AT:]]
        ),
        f"other data (walk 2 has no row of {WHEN} where walk 1 has it)",
    ),
    "fewer rows": (lambda lines: lines[: OLD - 5], "other data (walk 2 has no row of "),
}


@pytest.mark.parametrize(("change", "reason"), REVISED.values(), ids=REVISED)
def test_data_whose_old_rows_changed_are_refused_by_row_and_column(ask, change, reason):
    told = ask(new=change)
    assert told["judged"] is False
    assert told["reason"].startswith(reason)


def test_data_that_mean_something_else_are_refused(ask):
    told = ask(toml=TOML.replace('[columns.volume]\ninstrument = "WALK"', ""))
    assert told["reason"] == "other data (data.toml: 'columns' of walk 2 is not walk 1's)"


def test_rows_that_nobody_could_know_are_refused(ask):
    told = ask(added_at=TIMES[OLD].isoformat())
    assert told["reason"].startswith("other data (its last row is of 2020-03-11")


HOSTILE = {
    "wrong rows": (lambda lines: lines[:-1], "is missing"),
    "no new rows": (lambda lines: lines[: OLD - VALIDATION - 2 * INTERVAL], "is missing, and 4"),
    "a row twice": (lambda lines: [*lines, lines[-1]], "is there twice"),
    "too many": (lambda lines: lines * 3, "has more than "),
    "not a number": (_replace(-5, lambda line: line[: line.rindex(",")] + ",nan"), "is nan, not a"),
    "no probability": (_replace(-5, lambda line: line[: line.rindex(",")] + ",1.5"), "is 1.5, not"),
    "another part": (
        _replace(-5, lambda line: line.replace("test", "validation")),
        "is a test row",
    ),
}


@pytest.mark.parametrize(("change", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_predictions_of_other_rows_or_no_numbers_are_refused(ask, change, reason):
    # A last line is a whole one: -5 and what follows it stay in place.
    told = ask(said=lambda lines: change(list(lines)))
    assert told["judged"] is False
    assert reason in told["reason"]


@pytest.mark.parametrize("row", [VALIDATION + 3, TEST + 3])
def test_other_models_are_known_by_the_rows_of_before(ask, row):
    scores = [*SCORES]
    scores[row] = (SCORES[row][0] + 0.01, SCORES[row][1])
    told = ask(scores=scores)
    assert told["judged"] is False
    assert told["reason"].startswith("other models (predictions.csv: ")
    assert TIMES[row].isoformat() in told["reason"]


@pytest.mark.parametrize(
    "changes",
    [
        {"interval": 0},
        {"interval": True},
        {"saved_at": "2020-01-01"},
        {"saved_at": None},
        {"data_dir": "/nowhere"},
        {"before": "/nowhere"},
        {"rules": {"data_sha256": "0" * 64}},
    ],
)
def test_a_question_that_makes_no_sense_gets_no_answer(ask, changes):
    told = ask(**changes)
    assert isinstance(told, str)
    assert told
