"""JSON of strangers is read within bounds, or refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchstone_agent.protocol.documents import DocumentRefused, measure_depth, parse_json

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=20,
)


def count_depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(count_depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(count_depth, value), default=0)
    return 0


@given(JSON, st.booleans())
def test_what_is_json_is_read_as_python_does(value: Any, is_ascii: bool) -> None:
    text = json.dumps(value, ensure_ascii=is_ascii)

    assert measure_depth(text.encode()) == count_depth(value)
    assert parse_json(text, max_bytes=10**6) == value


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_whatever_comes_is_read_or_refused(text: bytes | str) -> None:
    problem = ""
    try:
        parse_json(text, max_bytes=1000)
    except DocumentRefused as error:
        problem = str(error)
    assert len(problem) < 300


# Brackets and quotes in every order, which is what the depth is told by.
@given(st.text('[]{}"\\:,1', max_size=60))
def test_nothing_is_deeper_than_it_was_measured(text: str) -> None:
    try:
        value = json.loads(text)
    except ValueError:
        return
    assert measure_depth(text.encode()) == count_depth(value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        (b"\xff", "UTF-8"),
        ('"\\ud800"', "UTF-8"),
        ("\ud800", "UTF-8"),
        ("[" * 33 + "]" * 33, "nested more than 32"),
        ('{"a":' * 200_000, "nested more than 32"),
        ("[" * 999_999, "nested more than 32"),
        (" " * 1_000_001, "more than 1000000 bytes"),
        ("NaN", "NaN"),
        ("[-Infinity]", "Infinity"),
        ("1e999", "beyond all range"),
        ("1" * 51, "beyond 64 bits"),
        ("-9223372036854775809", "beyond 64 bits"),
        ("1" * 500_000, "beyond 64 bits"),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_what_is_beyond_a_bound_is_refused(text: bytes | str, problem: str) -> None:
    with pytest.raises(DocumentRefused, match=problem):
        parse_json(text, max_bytes=1_000_000)


def test_brackets_in_strings_are_not_deep() -> None:
    text = json.dumps({"a": "[" * 100 + '"' + "\\" + "{" * 100})

    assert parse_json(text, max_bytes=1000) == json.loads(text)
