"""Notes that pass through where others may write."""

from __future__ import annotations

import json

import pytest

from touchstone.core.sealing import open_note, seal_note

KEY = b"k" * 32
NOTE = {"server": "rio", "gpus": 1, "try": 2, "at": None, "estimate": {"p50": 1.5, "ü": [1, 2.0]}}


def test_a_sealed_note_opens_as_it_was_also_after_a_round_trip():
    sealed = json.loads(json.dumps(seal_note(NOTE, of="ti-1", key=KEY)))

    assert open_note(sealed, of="ti-1", key=KEY) == NOTE
    assert open_note(seal_note(NOTE, of=5, key=KEY), of="5", key=KEY) == NOTE


@pytest.mark.parametrize(
    "value",
    [
        None,
        "text",
        [],
        {},
        NOTE,
        {**NOTE, "seal": ""},
        {**NOTE, "seal": None},
        {**NOTE, "seal": 1},
        {**NOTE, "seal": "\ud800"},
        {**seal_note(NOTE, of="ti-1", key=KEY), "gpus": 2},
        {**seal_note(NOTE, of="ti-1", key=KEY), "more": 1},
        seal_note(NOTE, of="ti-2", key=KEY),
        seal_note(NOTE, of="ti-1", key=b"another"),
        {"seal": "x", "number": float("nan")},
        {"seal": "x", 5: "key", "a": "key"},
    ],
)
def test_anything_else_does_not_open(value):
    assert open_note(value, of="ti-1", key=KEY) is None


def test_what_is_nested_too_deep_does_not_open():
    value: dict = {"seal": "x"}
    for _ in range(100_000):
        value = {"seal": "x", "a": value}

    assert open_note(value, of="ti-1", key=KEY) is None
    while value:
        value = value.get("a")  # freed step by step: Python itself recurses otherwise
