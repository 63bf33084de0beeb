"""Data sets of one's own: read, refused, delayed; validated and trained on, and judged."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from eurusd import TOML, read_prices, write_data_set

from conftest import Run
from elnigma import data_set as module
from elnigma.config import build_config
from elnigma.data_set import count_bars, read_data_set
from elnigma.describe import describe
from elnigma.errors import ConfigError, DataError
from elnigma.split import find_borders
from elnigma.train import describe_data
from elnigma.validation.look_ahead import find_short_block_ends, replace_future
from elnigma.validation.worlds import build_world

RunAttempt = Callable[..., Run]
JUDGE = Path(__file__).resolve().parents[3] / "judge" / "src"
HONEST = """
import numpy as np
import pandas as pd


def build_features(data):
    close = np.log(data["close"])
    volume = np.log(data["volume"] + 1)
    features = {f"momentum_{n}": close.diff(n) for n in (1, 6, 24)}
    features["range"] = np.log(data["high"] / data["low"])
    features["volume_surprise"] = volume - volume.rolling(24).mean()
    features["hour"] = data.index.hour.to_numpy(dtype="float64")
    return pd.DataFrame(features, index=data.index)
"""
PEEKS = HONEST.replace("close.diff(n)", "close.diff(n).shift(-1).fillna(0)")


def write_features(folder: Path, text: str) -> str:
    folder.mkdir()
    (folder / "features.py").write_text(text)
    return str(folder)


# --- reading ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data_set(tmp_path_factory.mktemp("eurusd") / "data")


def test_a_data_set_is_what_its_file_has(folder: Path) -> None:
    data_set = read_data_set(folder)
    data = data_set.load()
    prices = read_prices()
    assert (data_set.label, data.name) == ("eurusd-hourly 2018-02", "eurusd-hourly 2018-02")
    assert list(data.frame.columns) == ["open", "high", "low", "close", "volume"]
    assert data.frame["close"].to_numpy().tolist() == prices["close"].tolist()
    assert [str(time) for time in data.frame.index[[0, -1]]] == [
        "2017-04-19 09:00:00+00:00",
        "2018-02-07 15:00:00+00:00",
    ]
    assert data.is_short
    # Prices move with the close; the volume stands for itself.
    assert [group.columns for group in data.groups] == [("open", "high", "low", "close")]
    assert describe_data(data)["first"] == "2017-04-19T09:00:00+00:00"


def test_its_defaults_yield_to_flags_and_overrides(folder: Path) -> None:
    settings = read_data_set(folder).settings
    config = build_config("default.toml", [], ["split.test_from=2017-12-05"], settings)
    assert config["split.validation_from"] == "2017-10-01"
    assert config["split.test_from"] == "2017-12-05"
    assert config["backtest.bars_per_year"] == 260 * 24


def test_its_digest_is_that_of_both_files(folder: Path) -> None:
    import hashlib

    content = (folder / "data.toml").read_bytes() + (folder / "eurusd.csv").read_bytes()
    assert read_data_set(folder).load().sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("file", ["eurusd.csv.gz", "eurusd.parquet"])
def test_other_formats_have_the_same_rows(tmp_path: Path, folder: Path, file: str) -> None:
    other = read_data_set(write_data_set(tmp_path / "data", file=file)).load()
    pd.testing.assert_frame_equal(other.frame, read_data_set(folder).load().frame)


def test_a_parquet_file_may_have_times_of_its_own_kind(tmp_path: Path, folder: Path) -> None:
    frame = read_prices()
    frame["time"] = pd.to_datetime(frame["time"])
    other = read_data_set(write_data_set(tmp_path / "data", frame=frame, file="x.parquet")).load()
    pd.testing.assert_frame_equal(other.frame, read_data_set(folder).load().frame)


def test_the_last_day_asked_for_is_in_with_all_its_bars(folder: Path) -> None:
    data_set = read_data_set(folder)
    data = data_set.load("2018-01-31")
    assert str(data.frame.index[-1]) == "2018-01-31 23:00:00+00:00"
    assert len(data.close) == len(data.frame)
    with pytest.raises(ConfigError, match="the data begin on 2017-04-19"):
        data_set.load("2017-04-18")


def test_a_zone_is_heeded(tmp_path: Path, folder: Path) -> None:
    frame = read_prices()
    frame["time"] = frame["time"].str.replace(" ", "T") + "+02:00"
    index = read_data_set(write_data_set(tmp_path / "data", frame=frame)).load().frame.index
    assert index[0] == read_data_set(folder).load().frame.index[0] - pd.Timedelta(hours=2)


@pytest.mark.parametrize(
    ("frequency", "calendar", "bars"),
    [
        ("1d", "XNYS", 252), ("1d", "24x5", 260), ("1d", "24x7", 365), ("2d", "XNYS", 126),
        ("1h", "24x5", 6240), ("1h", "24x7", 8760), ("1h", "XNYS", 1638), ("5min", "XNYS", 19656),
        ("30min", "24x5", 12480), ("390min", "XNYS", 252), ("7d", "24x7", 52),
    ],
)  # fmt: skip
def test_bars_a_year_follow_from_calendar_and_frequency(
    frequency: str, calendar: str, bars: int
) -> None:
    assert count_bars(frequency, calendar) == bars


WRONG_TOML = {
    "no-toml": ("schema_version = 1", "schema_version = ", "is not valid TOML"),
    "another-version": ("schema_version = 1", "schema_version = 2", "schema_version is 2"),
    "true-is-no-number": ("schema_version = 1", "schema_version = true", "not a whole number"),
    "an-unknown-key": ("title =", "titel =", "unknown key 'titel'; leave it out"),
    "an-unknown-table": ("[rows]", "[other]\nx = 1\n[rows]", "unknown key 'other'"),
    "an-unknown-key-of-a-column": (
        'instrument = "EURUSD"\navailable_at = "bar"',
        'instrument = "EURUSD"\navailable_at = "bar"\nkind = 1',
        "unknown key 'columns.open.kind'",
    ),
    "an-unknown-key-of-rows": ("[rows]", "[rows]\ntest_to = 2018-01-01", "'rows.test_to'"),
    "no-name": ('name = "eurusd-hourly"', "", "name is missing"),
    "a-name-with-a-slash": ('"eurusd-hourly"', '"../eurusd"', "name is '../eurusd', not a-z"),
    "a-long-name": ('"eurusd-hourly"', f'"{"a" * 41}"', "40 at most"),
    "a-version-with-spaces": ('"2018-02"', '"2018 02"', "version is '2018 02'"),
    "a-number-for-a-version": ('"2018-02"', "2018.02", "version is 2018.02, not a text"),
    "a-title-of-two-lines": ('"EURUSD, hourly"', '"a\\nb"', "title is no line"),
    "a-long-title": ('"EURUSD, hourly"', f'"{"a" * 201}"', "title is no line"),
    "a-file-elsewhere": ('"{file}"', '"../{file}"', "file is '../eurusd.csv', not a plain name"),
    "an-absolute-file": ('"{file}"', '"/etc/passwd"', "file is '/etc/passwd'"),
    "a-file-of-another-kind": ('"{file}"', '"eurusd.pkl"', "file is 'eurusd.pkl'"),
    "no-such-file": ('"{file}"', '"other.csv"', "there is no file other.csv"),
    "another-digest": ('"{sha256}"', f'"{"0" * 64}"', "data.toml says 0000"),
    "no-digest": ('"{sha256}"', '"{file}"', "sha256 is 'eurusd.csv', not 64"),
    "no-frequency": ('"1h"', '"hourly"', "frequency is 'hourly', not a whole number and one of"),
    "a-frequency-of-nothing": ('"1h"', '"0h"', "frequency is '0h'"),
    "an-endless-frequency": ('"1h"', '"99999d"', "a year at most"),
    "a-bar-longer-than-the-day": ('"1h"', '"25h"', "a day of 24x5 has 24 hours"),
    "no-calendar": ('"24x5"', '"24x6"', "calendar is '24x6', not one of XNYS, 24x5, 24x7"),
    "a-time-that-is-a-column": ('time = "time"', 'time = "open"', "is a column of values"),
    "no-time-column": ('time = "time"', 'time = "when"', "has no column 'when'"),
    "a-day-in-quotes": ("= 2017-10-01", '= "2017-10-01"', "validation_from is '2017-10-01', not a"),
    "borders-in-the-wrong-order": ("= 2017-10-01", "= 2017-12-02", "rows.test_from is 2017-12-01"),
    "no-rows": ("[rows]", "[row]", "rows is missing"),
    "nobody-is-traded": ('"traded"', '"reference"', "0 have the role traded"),
    "another-role": ('"traded"', '"index"', "EURUSD.role is 'index'"),
    "no-column-of-closes": ('close = "close"', 'close = "last"', "has no column 'last'"),
    "no-instrument": ("[instruments.EURUSD]", "[instruments]", "instruments.role is 'traded'"),
    "an-unknown-instrument": (
        '[columns.high]\ninstrument = "EURUSD"', '[columns.high]\ninstrument = "GBPUSD"',
        "columns.high.instrument is 'GBPUSD', which [instruments] has not",
    ),
    "an-unknown-column": ("[columns.high]", "[columns.hihg]", "has no column 'hihg'"),
    "no-delay": ('"{delay}"', '"soon"', "columns.volume.available_at is 'soon'"),
    "a-negative-delay": ('"{delay}"', '"-1h"', "available_at is '-1h'"),
    "a-delay-longer-than-the-data": ('"{delay}"', '"365d"', "no training row is so late"),
    "too-few-training-rows": ("= 2017-10-01", "= 2017-04-20", " training rows by the [rows]"),
    "too-few-test-rows": ("= 2017-12-01", "= 2018-02-07", "16 test rows by the [rows]"),
    "too-long": ("[rows]", "# " + "x" * 70_000 + "\n[rows]", "more than 65536 bytes"),
    "too-many-columns": (
        "[columns.open]",
        "".join(f"[columns.c{n}]\ninstrument = 'EURUSD'\n" for n in range(501))
        + "[columns.open]",
        "[columns] has 506 entries, not 1 to 500",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_TOML)
def test_a_wrong_data_toml_is_refused_by_the_key(tmp_path: Path, name: str) -> None:
    old, new, reason = WRONG_TOML[name]
    assert old in TOML
    folder = write_data_set(tmp_path / "data", text=TOML.replace(old, new, 1))
    with pytest.raises(DataError) as caught:
        read_data_set(folder).load()
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 500


def _change(row: int, **values: Any) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame = frame.astype(object)
        for name, value in values.items():
            frame.loc[row, name] = value
        return frame

    return change


WRONG_ROWS: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], str]] = {
    "a-close-of-zero": (_change(7, close=0.0), "column 'close' is 0 in row 8"),
    "a-negative-close": (_change(7, close=-1), "column 'close' is -1 in row 8"),
    "an-infinite-high": (_change(7, high="inf"), "column 'high' is inf in row 8"),
    "a-hole": (_change(7, volume=None), "column 'volume' is nan in row 8"),
    "a-word": (_change(7, open="n/a?"), "cannot be read"),
    "a-number-of-another-kind": (_change(7, open="1_000"), "cannot be read"),
    "the-same-time-twice": (_change(7, time="2017-04-19 15:00:00"), "times must increase"),
    "an-earlier-time": (_change(7, time="2017-04-18 15:00:00"), "times must increase"),
    "no-time": (_change(7, time="yesterday"), "row 8: 'yesterday' is no time in ISO 8601"),
    "an-empty-time": (_change(7, time=None), "row 8: nan is no time"),
    "a-far-year": (_change(0, time="0001-01-01"), "row 1 is of the year 1"),
    "only-a-few": (lambda frame: frame[:100], "100 training rows"),
    "none": (lambda frame: frame[:0], "0 training rows"),
    "no-volume": (lambda frame: frame.drop(columns="volume"), "has no column 'volume'"),
    "two-closes": (
        lambda frame: frame.set_axis(["time", "close", *list(frame.columns)[2:]], axis=1),
        "has",
    ),
}


@pytest.mark.parametrize("name", WRONG_ROWS)
def test_wrong_rows_are_refused(tmp_path: Path, name: str) -> None:
    change, reason = WRONG_ROWS[name]
    folder = write_data_set(tmp_path / "data", frame=change(read_prices()))
    with pytest.raises(DataError) as caught:
        read_data_set(folder).load()
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("x.csv", b""),
        ("x.csv", b"\xff\xfe\x00"),
        ("x.csv", b'time,"open\n' * 5),
        ("x.csv", b"time,open,high,low,close,volume\n1,2\n"),
        ("x.csv.gz", b"no gzip"),
        ("x.csv.gz", gzip.compress(b"time,open\n" * 999)[:-9]),
        ("x.parquet", b""),
        ("x.parquet", b"PAR1" + bytes(40) + b"PAR1"),
        ("x.parquet", b"\xff" * 5000),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, file: str, content: bytes) -> None:
    folder = write_data_set(tmp_path / "data", file=file, content=content)
    with pytest.raises(DataError, match=r"x\.(csv|parquet)"):
        read_data_set(folder).load()


def test_what_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = write_data_set(tmp_path / "plain")
    packed = write_data_set(tmp_path / "packed", file="x.csv.gz")
    columns = write_data_set(tmp_path / "columns", file="x.parquet")
    size = (packed / "x.csv.gz").stat().st_size
    monkeypatch.setattr(module, "MAX_FILE_BYTES", size)
    with pytest.raises(DataError, match=rf"eurusd.csv: has more than {size} bytes"):
        read_data_set(plain).load()
    with pytest.raises(DataError, match=rf"more than {size} bytes when it is unpacked"):
        read_data_set(packed).load()
    monkeypatch.undo()
    monkeypatch.setattr(module, "MAX_ROWS", 4999)
    for folder in (plain, packed, columns):
        with pytest.raises(DataError, match="has more than 4999 rows"):
            read_data_set(folder).load()


def test_a_folder_without_a_data_toml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no file data\.toml"):
        read_data_set(tmp_path)


def test_the_documentations_example_is_one(tmp_path: Path) -> None:
    page = (JUDGE.parents[1] / "docs" / "data.md").read_text()
    text = page.partition("```toml\n")[2].partition("```")[0]
    text = text.replace('sha256 = "..."', 'sha256 = "{sha256}"')
    data_set = read_data_set(write_data_set(tmp_path / "data", text=text))
    assert len(data_set.load().frame) == 5000
    assert data_set.bars_per_year == 6240


@pytest.mark.parametrize("name", ["data.toml", "eurusd.csv"])
def test_what_is_no_regular_file_is_not_opened(tmp_path: Path, name: str) -> None:
    folder = write_data_set(tmp_path / "data")
    (folder / name).unlink()
    # Whoever opened it would wait for ever.
    os.mkfifo(folder / name)
    with pytest.raises(DataError, match=f"there is no file {name}"):
        read_data_set(folder).load()


def test_a_trainer_says_that_it_takes_data_sets() -> None:
    described = describe()
    assert described["prediction_interval"]["unit"] == "bars"
    assert described["data"]["built_in"] == "sp500+nasdaq daily"
    assert described["data"]["calendars"] == ["24x5", "24x7", "XNYS"]
    assert "before validation_from" in described["data"]["validation_sees"]


# --- delays -----------------------------------------------------------------------------------


def test_a_delayed_value_is_shown_when_it_is_available_and_no_bar_earlier(folder: Path) -> None:
    data = read_data_set(folder).load()
    volume = pd.Series(read_prices()["volume"].to_numpy(), index=data.frame.index, dtype=float)
    for row in range(0, len(volume), 7):
        known = volume[volume.index <= volume.index[row] - pd.Timedelta(hours=2)]
        shown = data.frame["volume"].iloc[row]
        assert np.isnan(shown) if known.empty else shown == known.iloc[-1]
    assert data.first_whole == 2
    assert data.frame["volume"].isna().sum() == 2


def test_over_a_weekend_a_day_late_is_the_last_bar_that_was_a_day_ago(tmp_path: Path) -> None:
    data = read_data_set(write_data_set(tmp_path / "data", delay="1d")).load()
    volume = read_prices().set_index("time")["volume"]
    friday, monday = "2017-04-21 14:00:00", "2017-04-24 14:00:00"
    shown = data.frame["volume"]
    assert shown[pd.Timestamp(monday, tz="UTC")] != volume[friday]
    # On Sunday at ten only the bars until Friday's last one are a day old.
    sunday = shown[pd.Timestamp("2017-04-23 22:00:00", tz="UTC")]
    assert sunday == volume[volume.index < "2017-04-22 22:00:01"].iloc[-1]


def test_a_delayed_close_is_traded_at_its_own_time(tmp_path: Path) -> None:
    text = TOML.replace("[columns.close]\n", '[columns.close]\navailable_at = "3h"\n')
    data = read_data_set(write_data_set(tmp_path / "data", text=text)).load()
    close = read_prices()["close"]
    assert data.close.tolist() == close.tolist()
    assert data.frame["close"].iloc[3] == close[0]
    assert data.first_whole == 3


def test_closes_that_features_may_not_see_are_in_no_column(tmp_path: Path) -> None:
    text = TOML.replace('[columns.close]\ninstrument = "EURUSD"\n', "")
    data = read_data_set(write_data_set(tmp_path / "data", text=text)).load()
    assert list(data.frame.columns) == ["open", "high", "low", "volume"]
    assert data.close.tolist() == read_prices()["close"].tolist()


# --- other worlds -----------------------------------------------------------------------------

TWO = TOML.replace(
    "[columns.open]",
    '[instruments.GBPUSD]\nrole = "reference"\nclose = "gbp"\n\n'
    '[columns.gbp]\ninstrument = "GBPUSD"\n\n[columns.mood]\ninstrument = "GBPUSD"\n\n'
    "[columns.open]",
)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a reference, and a column that is no price."""
    frame = read_prices()
    draw = np.random.default_rng(1)
    frame["gbp"] = frame["close"] * np.exp(np.cumsum(draw.normal(0, 1e-3, len(frame))))
    frame["mood"] = draw.normal(size=len(frame))
    return write_data_set(tmp_path_factory.mktemp("two") / "data", frame=frame, text=TWO)


def test_what_belongs_together_moves_together_in_another_world(two: Path) -> None:
    data = read_data_set(two).load()
    first, frame = 3000, data.frame
    assert [group.columns for group in data.groups] == [("open", "high", "low", "close"), ("gbp",)]
    world = build_world(data, first, np.random.default_rng(0))
    other = world.data.frame
    pd.testing.assert_frame_equal(other.iloc[:first], frame.iloc[:first])
    assert (other["high"] >= other["low"] * (1 - 1e-12)).all()
    assert np.allclose(other["close"], world.data.close, rtol=1e-12)
    for name in ("close", "gbp"):
        moves = frame[name].pct_change().to_numpy()[1:]
        drawn = other[name].pct_change().to_numpy()[first:]
        assert min(np.abs(moves - each).min() for each in drawn[:50]) < 1e-12
        assert not np.allclose(other[name].iloc[first:], frame[name].iloc[first:])
    assert set(other["mood"].iloc[first:]) <= set(frame["mood"])
    # Both instruments have the same bar in each row.
    at = {round(value, 9): row for row, value in enumerate(frame["gbp"].pct_change())}
    row = at[round(other["gbp"].pct_change().iloc[first + 5], 9)]
    assert other["mood"].iloc[first + 5] == frame["mood"].iloc[row]
    assert world.followers.shape == (len(frame) - first, 3 + 1 + 3 + 2)


def test_no_bar_of_which_something_is_unknown_comes_into_a_world(folder: Path) -> None:
    data = read_data_set(folder).load()
    for seed in range(5):
        world = build_world(data, 100, np.random.default_rng(seed))
        assert not world.data.frame["volume"].iloc[100:].isna().any()
    replaced = replace_future(data, 4000, np.random.default_rng(0)).frame
    assert np.isfinite(replaced.to_numpy()[4000:]).all()


@pytest.mark.parametrize(
    ("first", "end", "months", "count"), [(3000, 5000, 1, 95), (0, 96_000, 12, 7), (0, 50, 1, 2)]
)
def test_short_bars_have_as_many_blocks_whatever_their_length(
    first: int, end: int, months: int, count: int
) -> None:
    ends = find_short_block_ends(first, end, months)
    assert len(ends) <= count
    assert all(first < row < end for row in ends)
    assert len(ends) >= count * 0.9


# --- borders ----------------------------------------------------------------------------------


def test_borders_are_days_with_all_their_bars_or_times() -> None:
    index = pd.date_range("2020-01-01", periods=240, freq="h", tz="UTC")

    def find(**borders: str) -> tuple[int, int, int]:
        return find_borders(index, {f"split.{name}": text for name, text in borders.items()})

    days = {"validation_from": "2020-01-03", "test_from": "2020-01-05"}
    assert find(**days, test_to="2020-01-06") == (48, 96, 144)
    assert find(**days, test_to="2020-01-06T00:00:00+00:00") == (48, 96, 121)
    times = {"validation_from": "2020-01-03T05:00", "test_from": "2020-01-05T01:00+01:00"}
    assert find(**times, test_to="") == (53, 96, 240)


@pytest.mark.parametrize("text", ["2017-10-01T25:00", "01.10.2017", "2017-W40-1", "0001-01-01T00Z"])
def test_a_border_that_is_neither_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="must be a day, YYYY-MM-DD, or a time in ISO 8601"):
        build_config("default.toml", [], [f"split.test_from={text}"])


# --- whole runs -------------------------------------------------------------------------------


def test_a_validation_accepts_what_is_honest_and_shows_training_rows_alone(
    run_attempt: RunAttempt, tmp_path: Path, folder: Path
) -> None:
    text = HONEST.replace(
        "    close = ", "    assert str(data.index[-1]) < '2017-10-01'\n    close = "
    )
    honest = write_features(tmp_path / "honest", text)
    run = run_attempt(
        "validate", "--system", "feature_set", "--module", honest, IN=str(folder.parent)
    )
    assert run.exit_code == 0, run.console
    checks = run.result["checks"]
    assert checks["rows"] == (read_prices()["time"] < "2017-10-01").sum()
    assert checks["look_ahead_leaks"] == 0
    assert checks["look_ahead_cuts"] == 16
    assert run.result["columns"][-1] == "hour"


DAILY = """
name = "apples"
version = "1"
file = "{file}"
sha256 = "{sha256}"
frequency = "1d"
calendar = "24x7"
time = "day"

[rows]
validation_from = 2013-01-01
test_from = 2014-01-01

[instruments.pears]
role = "reference"
close = "pears"

[instruments.apples]
role = "traded"
close = "apples"

[columns.apples]
instrument = "apples"

[columns.harvest]
instrument = "pears"
available_at = "30d"
"""
DAILY_FEATURES = """
def build_features(data):
    columns = data.assign(change=data["apples"].pct_change(5))
    return columns[["change", "harvest"]]
"""


def test_days_of_other_instruments_are_cut_by_the_month(
    run_attempt: RunAttempt, tmp_path: Path
) -> None:
    days = pd.date_range("2010-01-01", "2015-01-01")
    draw = np.random.default_rng(1)
    walks = np.exp(np.cumsum(draw.normal(0, 0.01, (len(days), 2)), axis=0))
    frame = pd.DataFrame(walks, columns=["apples", "pears"])
    # A figure of another size, which features see late; the pears' closes they do not see.
    frame["harvest"] = draw.poisson(1000, len(days))
    frame.insert(0, "day", days.strftime("%Y-%m-%d"))
    folder = write_data_set(tmp_path / "data", frame=frame, file="x.csv", text=DAILY)
    data = read_data_set(folder).load()
    assert not data.is_short
    assert data.references == (1,)
    assert describe_data(data)["last"] == "2015-01-01"

    reference = write_features(tmp_path / "features", DAILY_FEATURES)
    run = run_attempt(
        "validate", "--system", "feature_set", "--module", reference, "--data", str(folder)
    )
    assert run.exit_code == 0, run.console
    assert run.result["checks"]["rows"] == 1096
    # From July 2011 to December 2012, of which the last one has no end.
    assert run.result["checks"]["look_ahead_blocks"] == 17
    assert run.result["checks"]["warm_up_rows"] == 30


def test_a_validation_refuses_what_looks_ahead(
    run_attempt: RunAttempt, tmp_path: Path, folder: Path
) -> None:
    peeks = write_features(tmp_path / "peeks", PEEKS)
    run = run_attempt(
        "validate", "--system", "feature_set", "--module", peeks, "--data", str(folder)
    )
    assert (run.exit_code, run.verdict["class"]) == (3, "submission")
    reason = run.verdict["reason"]
    assert reason.startswith("look-ahead: column 'momentum_")
    assert "1 row of the future is read" in reason
    # It names the hour.
    assert re.search(r"at 2017-\d\d-\d\d \d\d:00 changes from", reason)


READS = "import pathlib\n\npathlib.Path({path!r}).read_text()\n"


@pytest.mark.parametrize("command", ["validate", "train"])
@pytest.mark.parametrize("name", ["data.toml", "eurusd.csv"])
def test_reading_the_data_set_is_refused(
    run_attempt: RunAttempt, tmp_path: Path, folder: Path, command: str, name: str
) -> None:
    reads = write_features(tmp_path / "reads", READS.format(path=str(folder / name)) + HONEST)
    arguments = {
        "validate": ("--system", "feature_set", "--module", reads),
        "train": ("--prediction-interval", "6", "--feature-set", reads, "--config", "fast.toml"),
    }[command]
    run = run_attempt(command, *arguments, IN=str(folder.parent))
    assert (run.exit_code, run.verdict["class"]) == (3, "submission")
    assert (
        f"reading market data is not allowed in a validation (tried {name})"
        in (run.verdict["reason"])
    )


READING_MODEL = """
import keras
import pathlib

pathlib.Path({path!r}).read_text()


def build_model(n_features, params):
    return keras.Sequential([keras.Input((n_features,)), keras.layers.Dense(1, "sigmoid")])
"""


def test_a_model_structure_may_not_read_it_either(
    run_attempt: RunAttempt, tmp_path: Path, folder: Path
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.py").write_text(READING_MODEL.format(path=str(folder / "eurusd.csv")))
    honest = write_features(tmp_path / "honest", HONEST)
    for arguments in (
        ("validate", "--system", "model_structure", "--module", str(model)),
        ("train", "--prediction-interval", "6", "--feature-set", honest, "--model-structure",
         str(model), "--config", "fast.toml"),
    ):  # fmt: skip
        run = run_attempt(*arguments, name=arguments[0], IN=str(folder.parent))
        assert (run.exit_code, run.verdict["class"]) == (3, "submission")
        assert "reading market data is not allowed" in run.verdict["reason"]


@pytest.mark.parametrize("command", ["validate", "train"])
def test_a_faulty_data_set_is_not_the_submitters_fault(
    run_attempt: RunAttempt, tmp_path: Path, command: str
) -> None:
    honest = write_features(tmp_path / "honest", HONEST)
    write_data_set(tmp_path / "in" / "data", text=TOML.replace('"{sha256}"', f'"{"0" * 64}"'))
    arguments = {
        "validate": ("--system", "feature_set", "--module", honest),
        "train": ("--prediction-interval", "6", "--feature-set", honest, "--config", "fast.toml"),
    }[command]
    run = run_attempt(command, *arguments, IN=str(tmp_path / "in"))
    assert (run.exit_code, run.verdict["class"]) == (10, "data")
    assert "eurusd.csv: has the sha256" in run.verdict["reason"]


def ask_judge(
    run: Run, folder: Path, interval: int, **changes: Any
) -> subprocess.CompletedProcess[str]:
    """Ask the judge, which is other code, about a training of EURUSD."""
    rules = {
        "version": 1,
        "data_name": "eurusd-hourly 2018-02",
        "data_sha256": read_data_set(folder).load().sha256,
        "validation_from": "2017-10-01",
        "test_from": "2017-12-01",
        "test_to": None,
        "cost_bps": 1.0,
        "bars_per_year": 6240,
        "resamples": 200,
    }
    question = {
        "rules": rules | changes,
        "interval": interval,
        "result": str(run.out / "result.json"),
        "predictions": str(run.out / "predictions.csv"),
        "data_dir": str(folder),
    }
    return subprocess.run(
        [sys.executable, "-P", "-m", "touchstone_judge", "recompute"],
        input=json.dumps(question),
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(JUDGE), "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_training_by_the_hour_has_the_figures_that_the_judge_recomputes(
    run_attempt: RunAttempt, tmp_path: Path, folder: Path
) -> None:
    honest = write_features(tmp_path / "honest", HONEST)
    run = run_attempt(
        "train", "--config", "fast.toml", "--prediction-interval", "6", "--feature-set", honest,
        "--config_override", "training.epochs=2", IN=str(folder.parent), SEED="3",
    )  # fmt: skip
    assert run.exit_code == 0, run.console
    result = run.result
    assert result["data"]["name"] == "eurusd-hourly 2018-02"
    assert result["data"]["last"] == "2018-02-07T15:00:00+00:00"
    assert result["params"]["backtest.bars_per_year"] == 6240
    assert result["split"]["test"]["first"] == "2017-12-01T00:00:00+00:00"
    times = pd.read_csv(run.out / "predictions.csv")["time"]
    assert times.str.contains("T13:00:00+00:00", regex=False).any()
    assert times.is_unique

    done = ask_judge(run, folder, 6)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told.get("reason") is None
    assert told["judged"] is True
    compared = 0
    for name, value in result["metrics"].items():
        if name in ("net_sharpe_low", "net_sharpe_high") or value is None:
            continue
        assert abs(told["metrics"][name] - value) <= 1e-9 * max(1.0, abs(value)), name
        compared += 1
    assert compared >= 10
    returns = pd.read_csv(run.out / "returns.csv")
    assert told["time"] == returns["time"].tolist()
    assert np.allclose(told["net"], returns["net"], rtol=0, atol=1e-12)

    refused = ask_judge(run, folder, 6, bars_per_year=252)
    assert refused.returncode == 2
    assert "the calendar of 'eurusd-hourly 2018-02' gives 6240" in refused.stderr
    other = json.loads(ask_judge(run, folder, 6, test_from="2017-12-04").stdout)
    assert other["reason"].startswith("other rows (split.test_from is 2017-12-01, the rules say")
