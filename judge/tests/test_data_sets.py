"""Data sets in place of the canned series: read, refused, and judged by their times."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import os
import random
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from touchstone_judge import data as module
from touchstone_judge.data import count_bars, load_market_data
from touchstone_judge.errors import JudgeFault
from touchstone_judge.recompute import answer
from touchstone_judge.rows import find_rows
from touchstone_judge.rules import Rules, read_border

START = datetime(2020, 1, 1, tzinfo=UTC)
TIMES = [START + timedelta(hours=hour) for hour in range(1200)]
draw = random.Random(1)
CLOSE = [100.0]
for _ in TIMES[1:]:
    CLOSE.append(CLOSE[-1] * math.exp(draw.gauss(0, 0.002)))
TOML = """
schema_version = 1
name = "walk"
version = "1"
file = "{file}"
sha256 = "{sha256}"
frequency = "1h"
calendar = "24x7"
time = "at"
[rows]
validation_from = 2020-01-15
test_from = 2020-02-01
[instruments.OTHER]
role = "reference"
close = "other"
[instruments.WALK]
role = "traded"
close = "last"
[columns.last]
instrument = "WALK"
"""
LINES = [
    f"{moment.replace(tzinfo=None).isoformat(sep=' ')},{2 * price!r},{price!r}"
    for moment, price in zip(TIMES, CLOSE, strict=True)
]


def write(folder: Path, lines=LINES, *, file="walk.csv", text=TOML, header="at,other,last"):
    folder.mkdir(exist_ok=True)
    content = "\n".join([header, *lines]).encode()
    if file.endswith(".gz"):
        content = gzip.compress(content)
    (folder / file).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    (folder / "data.toml").write_text(text.format(file=file, sha256=digest))
    return folder


def digest_of(folder: Path, file="walk.csv"):
    content = (folder / "data.toml").read_bytes() + (folder / file).read_bytes()
    return hashlib.sha256(content).hexdigest()


def rules_for(folder: Path, **changes):
    return {
        "version": 1,
        "data_name": "walk 1",
        "data_sha256": digest_of(folder),
        "validation_from": "2020-01-15",
        "test_from": "2020-02-01",
        "test_to": None,
        "cost_bps": 1.0,
        "bars_per_year": 8760,
        "resamples": 100,
        **changes,
    }


# --- reading ------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["walk.csv", "walk.csv.gz"])
def test_a_data_set_has_the_times_and_closes_of_what_is_traded(tmp_path, file):
    data = load_market_data(write(tmp_path / "data", file=file))

    assert data.name == "walk 1"
    assert data.sha256 == digest_of(tmp_path / "data", file)
    assert list(data.times) == TIMES
    assert data.close.tolist() == CLOSE
    assert data.bars_per_year == 8760
    assert data.show(0) == "2020-01-01T00:00:00+00:00"


def test_a_parquet_file_is_read_as_well(tmp_path):
    import fastparquet
    import pandas as pd

    folder = write(tmp_path / "data")
    path = folder / "walk.parquet"
    fastparquet.write(
        str(path), pd.DataFrame({"at": [t.isoformat() for t in TIMES], "last": CLOSE})
    )
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "data.toml").write_text(TOML.format(file=path.name, sha256=sha256))

    data = load_market_data(folder)

    assert (list(data.times), data.close.tolist()) == (TIMES, CLOSE)


@pytest.mark.parametrize(
    ("frequency", "calendar", "bars"),
    [("1d", "XNYS", 252), ("2d", "XNYS", 126), ("1h", "24x5", 6240), ("30min", "XNYS", 3276)],
)
def test_bars_a_year_follow_from_calendar_and_frequency(frequency, calendar, bars):
    assert count_bars(frequency, calendar) == bars


def _swap(at, text):
    return [*LINES[:at], text, *LINES[at + 1 :]]


WRONG_ROWS = {
    "none": ([], "has 0 rows"),
    "a close of zero": (_swap(5, "2020-01-01 05:00:00,1,0"), "the close of 2020-01-01T05"),
    "no close": (_swap(5, "2020-01-01 05:00:00,1,"), "cannot be read"),
    "no number": (_swap(5, "2020-01-01 05:00:00,1,nan"), "the close of 2020-01-01T05"),
    "endless": (_swap(5, "2020-01-01 05:00:00,1,1e999"), "the close of 2020-01-01T05"),
    "a time twice": (_swap(5, LINES[4]), "stands behind 2020-01-01T04"),
    "a time earlier": (_swap(5, "2019-01-01,1,1"), "stands behind 2020-01-01T04"),
    "no time": (_swap(5, "now,1,1"), "cannot be read"),
    "a time beyond all": (_swap(5, "0001-01-01T00:00+14:00,1,1"), "cannot be read"),
    "a field too many": (_swap(5, LINES[5] + ",1"), "has 4 fields"),
    "a field too few": (_swap(5, "2020-01-01 05:00:00,1"), "has 2 fields"),
    "a quote that does not end": (_swap(5, '"2020'), "cannot be read"),
}


@pytest.mark.parametrize(("lines", "reason"), WRONG_ROWS.values(), ids=WRONG_ROWS)
def test_wrong_rows_are_the_judges_fault(tmp_path, lines, reason):
    with pytest.raises(JudgeFault, match=reason):
        load_market_data(write(tmp_path / "data", lines))


WRONG_TOML = {
    "another digest": ('"{sha256}"', '"0"', "has the sha256"),
    "a file elsewhere": ('"{file}"', '"../{file}"', "makes no sense"),
    "no such file": ('"{file}"', '"other.csv"', "other.csv cannot be read"),
    "no calendar": ('"24x7"', '"24x8"', "makes no sense"),
    "no frequency": ('"1h"', '"h"', "makes no sense"),
    "no instruments": ("[instruments.WALK]", "[instruments]", "makes no sense"),
    "two are traded": ('"reference"', '"traded"', "2 instruments are traded"),
    "no such column": ('"last"', '"final"', "0 columns are called 'final'"),
    "no toml": ("[rows]", "[rows", "makes no sense"),
    "too long": ("[rows]", "#" + "x" * 70_000 + "\n[rows]", "more than 65536 bytes"),
}


@pytest.mark.parametrize(("old", "new", "reason"), WRONG_TOML.values(), ids=WRONG_TOML)
def test_a_wrong_description_is_the_judges_fault(tmp_path, old, new, reason):
    with pytest.raises(JudgeFault, match=reason):
        load_market_data(write(tmp_path / "data", text=TOML.replace(old, new, 1)))


@pytest.mark.parametrize(
    ("file", "content"),
    [("x.csv.gz", b"none"), ("x.csv.gz", gzip.compress(b"at,last\n" * 99)[:-5]),
     ("x.parquet", b"none"), ("x.parquet", b"PAR1" + bytes(40) + b"PAR1"), ("x.csv", b"\xff\xfe")],
)  # fmt: skip
def test_a_file_that_is_none_is_the_judges_fault(tmp_path, file, content):
    folder = write(tmp_path / "data")
    (folder / file).write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    (folder / "data.toml").write_text(TOML.format(file=file, sha256=sha256))

    with pytest.raises(JudgeFault, match=f"{file} cannot be read"):
        load_market_data(folder)


@pytest.mark.parametrize("name", ["data.toml", "walk.csv"])
def test_what_is_no_regular_file_is_not_opened(tmp_path, name):
    folder = write(tmp_path / "data")
    (folder / name).unlink()
    # Whoever opened it would wait for ever.
    os.mkfifo(folder / name)

    with pytest.raises(JudgeFault, match=f"{name} cannot be read: there is no such file"):
        load_market_data(folder)


def test_two_columns_of_one_name_are_the_judges_fault(tmp_path):
    with pytest.raises(JudgeFault, match="2 columns are called 'last'"):
        load_market_data(write(tmp_path / "data", header="at,last,last"))


def test_what_is_too_large_is_the_judges_fault(tmp_path, monkeypatch):
    folder = write(tmp_path / "data")
    packed = write(tmp_path / "packed", file="walk.csv.gz")
    monkeypatch.setattr(module, "MAX_ROWS", 1199)
    with pytest.raises(JudgeFault, match="more than 1199 rows"):
        load_market_data(folder)
    size = (packed / "walk.csv.gz").stat().st_size
    monkeypatch.setattr(module, "MAX_DATA_BYTES", size)
    for each in (folder, packed):
        with pytest.raises(JudgeFault, match=f"more than {size} bytes"):
            load_market_data(each)


# --- rows ---------------------------------------------------------------------------------------


def _find(folder, **borders):
    data = load_market_data(folder)
    rules = Rules(
        version=1,
        data_name=data.name,
        data_sha256=data.sha256,
        cost_bps=1.0,
        bars_per_year=8760,
        resamples=100,
        **{"validation_from": date(2020, 1, 15), "test_from": date(2020, 2, 1), "test_to": None}
        | borders,
    )
    return find_rows(data, rules, 6)


def test_a_day_has_all_its_bars_and_a_time_the_bar_that_has_it(tmp_path):
    folder = write(tmp_path / "data")
    of_days = _find(folder, test_to=date(2020, 2, 10))
    of_times = _find(
        folder,
        validation_from=datetime(2020, 1, 15, 3, tzinfo=UTC),
        test_from=datetime(2020, 2, 1, 5, tzinfo=UTC),
        test_to=datetime(2020, 2, 10, 2, tzinfo=UTC),
    )

    assert TIMES[of_days.validation[0]] == datetime(2020, 1, 15, tzinfo=UTC)
    assert TIMES[of_days.validation[-1]] == datetime(2020, 1, 31, 17, tzinfo=UTC)
    assert TIMES[of_days.test[0]] == datetime(2020, 2, 1, tzinfo=UTC)
    assert TIMES[of_days.test[-1]] == datetime(2020, 2, 10, 23, tzinfo=UTC)
    assert TIMES[of_days.train_until] == datetime(2020, 1, 14, 17, tzinfo=UTC)
    assert TIMES[of_times.validation[0]] == datetime(2020, 1, 15, 3, tzinfo=UTC)
    assert TIMES[of_times.test[0]] == datetime(2020, 2, 1, 5, tzinfo=UTC)
    assert TIMES[of_times.test[-1]] == datetime(2020, 2, 10, 2, tzinfo=UTC)


def test_a_border_is_a_day_or_a_time():
    assert read_border("2020-02-01") == date(2020, 2, 1)
    assert read_border("2020-02-01T05:00") == datetime(2020, 2, 1, 5, tzinfo=UTC)
    assert read_border("2020-02-01T05:00+05:00") == datetime(2020, 2, 1, tzinfo=UTC)
    with pytest.raises(ValueError, match="Invalid isoformat"):
        read_border("tomorrow")


# --- judging ------------------------------------------------------------------------------------


class Left:
    """What a training by the hour has left: every score is a half, but for the first ones."""

    def __init__(self, folder: Path) -> None:
        self.data = write(folder / "data")
        self.out = folder
        rows = _find(self.data)
        scores = random.Random(3)
        self.lines = [
            f"{TIMES[row].isoformat()},{part},{scores.random()!r},{scores.random()!r}"
            for part, some in (("validation", rows.validation), ("test", rows.test))
            for row in some
        ]
        split = {
            name: {"first": TIMES[some[0]].isoformat(), "last": TIMES[some[-1]].isoformat()}
            for name, some in (
                ("train", [0, rows.train_until]),
                ("validation", rows.validation),
                ("test", rows.test),
            )
        }
        early = [
            float(long) - float(short)
            for _, part, long, short in (line.split(",") for line in self.lines)
            if part == "validation"
        ]
        middle = math.fsum(early) / len(early)
        spread = math.sqrt(math.fsum((x - middle) ** 2 for x in early) / (len(early) - 1))
        self.result = {
            "contract": 2,
            "prediction_interval": 6,
            "scale": {"mean": middle, "std": spread},
            "metrics": {"n_test_rows": float(len(rows.test))},
            "data": {
                "sha256": digest_of(self.data),
                "first": TIMES[0].isoformat(),
                "last": TIMES[-1].isoformat(),
            },
            "params": {
                "split.validation_from": "2020-01-15",
                "split.test_from": "2020-02-01",
                "split.test_to": "",
                "backtest.cost_bps": 1.0,
                "backtest.bars_per_year": 8760,
            },
            "split": split,
        }

    def ask(self, **changes):
        predictions, result = self.out / "predictions.csv", self.out / "result.json"
        header = "time,part,score_long,score_short"
        predictions.write_text("\n".join([header, *self.lines]) + "\n")
        result.write_text(json.dumps(self.result))
        question = {
            "rules": rules_for(self.data),
            "interval": 6,
            "result": str(result),
            "predictions": str(predictions),
            "data_dir": str(self.data),
            **changes,
        }
        return subprocess.run(
            [sys.executable, "-I", "-m", "touchstone_judge", "recompute"],
            input=json.dumps(question).encode(),
            capture_output=True,
            check=False,
            env={"OPENBLAS_NUM_THREADS": "1"},
        )

    def judge(self, **changes):
        done = self.ask(**changes)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def left(tmp_path):
    return Left(tmp_path)


def test_a_training_by_the_hour_is_judged(left):
    told = left.judge()

    assert told["judged"] is True, told
    assert told["time"][0] == "2020-02-01T00:00:00+00:00"
    assert told["time"][1] == "2020-02-01T01:00:00+00:00"
    place = TIMES.index(datetime(2020, 2, 1, tzinfo=UTC))
    assert told["market"][0] == CLOSE[place + 1] / CLOSE[place] - 1


def test_times_of_another_zone_are_the_same_times(left):
    left.lines = [line.replace("T05:00:00+00:00", "T06:00:00+01:00") for line in left.lines]

    assert left.judge()["judged"] is True


REFUSED_LINES = {
    "half an hour off": (
        lambda lines: [lines[0].replace("T00:00", "T00:30"), *lines[1:]],
        "other rows (predictions.csv: 2020-01-15T00:30:00+00:00 is none of them)",
    ),
    "an hour is missing": (
        lambda lines: [*lines[:1], *lines[2:]],
        "other rows (predictions.csv: 2020-01-15T01:00:00+00:00 is missing)",
    ),
    "an hour is there twice": (
        lambda lines: [lines[0], *lines],
        "other rows (predictions.csv: 2020-01-15T00:00:00+00:00 is there twice)",
    ),
    "two have changed places": (
        lambda lines: [lines[1], lines[0], *lines[2:]],
        "other rows (predictions.csv: 2020-01-15T01:00:00+00:00 stands where "
        "2020-01-15T00:00:00+00:00 should)",
    ),
    "a row of another part": (
        lambda lines: [lines[0].replace("validation", "test"), *lines[1:]],
        "is a validation row, not a test row",
    ),
    "a day alone": (
        lambda lines: ["2020-01-15,validation,0.5,0.5", *lines[1:]],
        "names no zone",
    ),
}


@pytest.mark.parametrize(("change", "reason"), REFUSED_LINES.values(), ids=REFUSED_LINES)
def test_other_hours_are_not_judged(left, change, reason):
    left.lines = change(left.lines)

    told = left.judge()

    assert told["judged"] is False
    assert reason in told["reason"]


def test_another_border_is_not_judged(left):
    left.result["params"]["split.test_from"] = "2020-02-01T00:00:00+00:00"

    assert left.judge()["reason"] == (
        "other rows (split.test_from is 2020-02-01T00:00:00+00:00, the rules say 2020-02-01)"
    )


def test_a_border_may_be_a_time_however_it_is_written(left):
    rules = rules_for(left.data, test_from="2020-02-01T00:00:00+00:00")
    left.result["params"]["split.test_from"] = "2020-02-01T01:00:00+01:00"
    assert left.judge(rules=rules)["judged"] is True

    left.result["params"]["split.test_from"] = "2020-02-01T01:00:00+00:00"
    assert left.judge(rules=rules)["judged"] is False


def test_the_bars_a_year_are_those_of_the_calendar(left):
    done = left.ask(rules=rules_for(left.data, bars_per_year=8761))

    assert done.returncode == 2
    assert b"rules with 8761 bars a year, the calendar of 'walk 1' gives 8760" in done.stderr


@pytest.mark.parametrize("folder", ["", 7, ["x"], "/nowhere", "a\0b"])
def test_a_data_dir_that_is_none_is_the_judges_fault(left, folder):
    done = left.ask(data_dir=folder)

    assert done.returncode == 2
    assert b"JudgeFault" in done.stderr


def test_rules_of_one_data_set_judge_by_no_other(left):
    done = left.ask(data_dir=None)

    assert done.returncode == 2
    assert b"this judge has 'sp500+nasdaq daily'" in done.stderr


def test_a_question_without_a_data_dir_is_of_the_canned_series(left):
    question = {"rules": rules_for(left.data), "interval": 6, "result": "x", "predictions": None}
    with pytest.raises(JudgeFault, match="this judge has 'sp500"):
        answer(question)
