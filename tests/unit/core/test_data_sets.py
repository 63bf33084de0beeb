"""Data sets: what a ``data.toml`` may say, and what follows from it."""

from __future__ import annotations

import contextlib
import json
from datetime import date

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fakes.data_sets import build_text
from touchstone.core.data_sets import (
    MAX_TEXT_BYTES,
    build_digest,
    check_data_name,
    parse_data_set,
)
from touchstone.core.records.data_sets import DataRecord
from touchstone.core.records.stored import RecordUnreadable
from touchstone_agent.protocol.errors import ConfigurationError

GOOD = build_text()


def test_the_example_says_everything_that_can_be_said():
    found = parse_data_set(GOOD)

    assert found.label == "eurusd-hourly 2018-02"
    assert (found.rows.validation_from, found.rows.test_from) == (
        date(2017, 10, 1),
        date(2017, 12, 1),
    )
    assert found.instruments["EURUSD"].role == "traded"
    assert found.columns["close"].available_at == "bar"


@pytest.mark.parametrize(
    ("frequency", "calendar", "bars"),
    [
        ("1d", "XNYS", 252),
        ("1d", "24x5", 260),
        ("1d", "24x7", 365),
        ("2d", "24x7", 182),
        ("1h", "24x5", 6240),
        ("1h", "24x7", 8760),
        ("1h", "XNYS", 1638),
        ("60min", "XNYS", 1638),
        ("15min", "24x5", 24960),
        ("5min", "XNYS", 19656),
        ("7min", "XNYS", 14040),
        ("1min", "24x7", 525600),
        ("24h", "24x7", 365),
    ],
)
def test_bars_a_year_follow_from_calendar_and_frequency(frequency, calendar, bars):
    text = build_text(frequency=f'"{frequency}"', calendar=f'"{calendar}"')

    assert parse_data_set(text).bars_per_year == bars


def change(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new, 1)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "schema_version: is missing"),
        (change("schema_version = 1", "schema_version = 2"), "schema_version: 2 is not"),
        (change("schema_version = 1", "schema_version = true"), "schema_version: True is not"),
        (change("name =", "nome ="), "name: is missing"),
        (build_text(name="EURUSD"), "name: 'EURUSD' is not of a-z, 0-9"),
        (build_text(name="../x"), "name: '../x' is not"),
        (build_text(name="a--b"), "name: 'a--b' is not"),
        (build_text(name="a" * 41), "name: is longer than 40 characters"),
        (build_text(name=""), "name: '' is not"),
        (build_text(name="sp500"), "name: 'sp500' is the data set that is built in"),
        (build_text(version="a b"), "version: 'a b' is not"),
        (build_text(version="../1"), "version: '../1' is not"),
        (build_text(version="x" * 41), "version: is longer than 40"),
        (change('version = "2018-02"', "version = 2018"), "version: 2018 is not a text"),
        (build_text(file="../eurusd.csv"), "file: '../eurusd.csv' is no plain name"),
        (build_text(file="/etc/passwd.csv"), "file: '/etc/passwd.csv' is no plain"),
        (build_text(file=".csv"), "file: '.csv' is no plain"),
        (build_text(file="data.toml"), "file: 'data.toml' is no plain"),
        (build_text(file="x.pickle"), "ends in .csv, .csv.gz or .parquet"),
        (build_text(file="x" * 200 + ".csv"), "file: is longer than 100"),
        (build_text(sha256='"abc"'), "sha256: 'abc' is not of the form"),
        (build_text(sha256=f'"{"A" * 64}"'), "sha256: "),
        (build_text(frequency='"hourly"'), "frequency: 'hourly' is not a whole number and one of"),
        (build_text(frequency='"0h"'), "frequency: '0h' is not a whole number"),
        (build_text(frequency='"-1h"'), "frequency: '-1h' is not a whole number"),
        (build_text(frequency='"1.5h"'), "frequency: '1.5h' is not a whole number"),
        (build_text(frequency='"999999h"'), "frequency: '999999h' is not a whole"),
        (build_text(frequency='"400d"'), "frequency: '400d' is longer than a year"),
        (build_text(frequency='"25h"'), "frequency: 25h is longer than a day of 24x5"),
        (build_text(frequency="3600"), "frequency: 3600 is not a text"),
        (build_text(calendar='"NYSE"'), "calendar: 'NYSE' is none of 'XNYS', '24x5' or '24x7'"),
        (build_text(time='"close"'), "time: 'close' is a column of values"),
        (build_text(time='""'), "time: is empty"),
        (build_text(time='"\\u001b[2J"'), "time: "),
        (build_text(validation_from='"2017-10-01"'), "rows.validation_from: "),
        (build_text(validation_from="2017-10-01T00:00:00Z"), "rows.validation_from: "),
        (build_text(test_from="2017-09-01"), "rows: test_from is not after validation_from"),
        (build_text(available_at='"soon"'), "columns.close.available_at: 'soon' is not a whole"),
        (build_text(available_at='"999d"'), "columns.close.available_at: '999d' is longer than"),
        (build_text(available_at="1"), "columns.close.available_at: 1 is not a text"),
        (change('role = "traded"', 'role = "x"'), "instruments.EURUSD.role: 'x' is none of"),
        (change('role = "traded"', 'role = "reference"'), "instruments: 0 of them have the role"),
        (GOOD + '[instruments.USD]\nrole = "traded"\nclose = "c"\n', "instruments: 2 of them"),
        (
            change('instrument = "EURUSD"', 'instrument = "GBP"'),
            "columns.'close'.instrument: there is no instrument 'GBP'",
        ),
        (GOOD + "\nextra = 1", "columns.close.extra: unknown key"),
        (GOOD + "[row]\n", "row: unknown key; did you mean rows?"),
        (GOOD.replace("[columns.close]", "[columns]"), "columns"),
        ("schema_version = 1\ncolumns = 5", "name: is missing"),
        (GOOD + "#" + "x" * 2000, "line 19 has"),
        (GOOD + "# ä\n" * MAX_TEXT_BYTES, "has more than 65536 bytes"),
        (
            GOOD + "".join(f'[columns.c{n}]\ninstrument = "EURUSD"\n' for n in range(501)),
            "columns: has more than 500 entries",
        ),
        ("[" * 60_000, "data.toml: "),
        ("not toml", "not TOML"),
        ("\ufeff" + GOOD, "begins with a byte order mark; save it without one"),
    ],
)
def test_what_is_wrong_is_told_with_its_key_and_what_is_expected(text, told):
    with pytest.raises(ConfigurationError) as caught:
        parse_data_set(text)

    assert str(caught.value).startswith("data.toml: ")
    assert told in str(caught.value)
    assert len(str(caught.value)) < 1000


TOML = st.recursive(
    st.one_of(st.integers(), st.booleans(), st.text(max_size=20), st.floats(), st.dates()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=10), inner, max_size=3)
    ),
    max_leaves=5,
)


def dump(value) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {dump(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(dump, value)) + "]"
    if isinstance(value, date):
        return value.isoformat()
    return json.dumps(value)


KEYS = ("name", "version", "title", "file", "frequency", "calendar", "rows", "instruments")


@given(st.sampled_from([*KEYS, "columns", "time", "sha256"]), TOML)
@example("rows", {"validation_from": date(1, 1, 1), "test_from": date(9999, 12, 31)})
def test_whatever_a_key_is_it_is_taken_or_refused_in_words(key, value):
    kept = [line for line in GOOD.split("[rows]")[0].splitlines() if not line.startswith(key)]
    text = "\n".join([*kept, f"{key} = {dump(value)}", ""])
    if key != "rows":
        text += "[rows]\nvalidation_from = 2017-10-01\ntest_from = 2017-12-01\n"
    if key != "instruments":
        text += '[instruments.EURUSD]\nrole = "traded"\nclose = "close"\n'
    if key != "columns":
        text += '[columns.close]\ninstrument = "EURUSD"\n'

    # Whatever else it raises fails the test.
    with contextlib.suppress(ConfigurationError):
        assert parse_data_set(text).bars_per_year >= 1


@pytest.mark.parametrize("name", ["", "A", "a/b", "../x", "a--b", "-a", "a" * 41, "#data", "ä"])
def test_a_name_that_could_be_a_path_or_a_key_is_none(name):
    with pytest.raises(ConfigurationError, match="cannot be a data set's name"):
        check_data_name(name)


def test_the_digest_is_of_both_files_one_after_the_other():
    one = build_digest(b"ab", b"c")

    assert one == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert one == build_digest(b"a", b"bc") != build_digest(b"a", b"b")


def test_a_record_is_what_was_written_and_one_that_makes_no_sense_is_told():
    record = DataRecord(
        entry="eurusd-hourly 2018-02",
        definition=parse_data_set(GOOD),
        digest="1" * 64,
        sha256="2" * 64,
        size=9,
        data_bytes=9,
        added_at="2026-12-01T00:00:00+00:00",
        added_by="admin",
    )

    assert DataRecord.load(record.dump()) == record
    with pytest.raises(RecordUnreadable):
        DataRecord.load({**record.dump(), "definition": {"name": 5}})
