"""Columns that their engineer has waived: the trainer holds no look-ahead against them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator, Field

from touchstone.core.documents import shorten
from touchstone.core.schedule import drop_blank

MAX_WAIVED: Final = 20
MAX_COLUMN: Final = 100
WAIVE_OPTION: Final = "--waive-column"
"""The trainer's argument, one for each column: an image that does not know it refuses it."""

_PLACES: Final = ("{in}", "{out}")
"""What is replaced in a trainer's arguments."""


def _check_column(value: str) -> str:
    if not value.isascii() or not value.isprintable():
        raise ValueError(
            f"{shorten(value)} has other characters than printable ASCII; give the column such a "
            "name"
        )
    if any(place in value for place in _PLACES):
        raise ValueError(
            f"{shorten(value)} has {' or '.join(_PLACES)} in it, which a trainer's argument cannot "
            "have; give the column another name"
        )
    return value


def _check_distinct(value: tuple[str, ...]) -> tuple[str, ...]:
    twice = next((name for place, name in enumerate(value) if name in value[:place]), None)
    if twice is not None:
        raise ValueError(f"{shorten(twice)} stands there twice; keep one")
    return value


Column = Annotated[str, Field(min_length=1, max_length=MAX_COLUMN), AfterValidator(_check_column)]
WaivedColumns = Annotated[
    tuple[Column, ...],
    Field(max_length=MAX_WAIVED),
    BeforeValidator(drop_blank),
    AfterValidator(_check_distinct),
]


def build_arguments(columns: Iterable[str]) -> list[str]:
    """Return what tells a trainer which columns are waived."""
    # In one word: a name may begin with a dash.
    return [f"{WAIVE_OPTION}={name}" for name in columns]


def tell_columns(columns: Sequence[str]) -> str:
    """Return columns in one line, each quoted as the trainer quotes it; empty for none."""
    return ", ".join(map(ascii, columns))


def build_params(columns: Sequence[str]) -> dict[str, str]:
    """Return what a run in MLflow tells of waived columns; nothing for none."""
    return {"waived_columns": tell_columns(columns)} if columns else {}


def add_waivers(sentence: str, columns: Sequence[str]) -> str:
    """Return a verdict's sentence, with how many columns of what it is of are waived."""
    if not columns:
        return sentence
    told = "1 column is" if len(columns) == 1 else f"{len(columns)} columns are"
    return f"{sentence} {told} waived from the checks for look-ahead."


def find_other_waivers(told: Sequence[str] | None, asked: Sequence[str]) -> str | None:
    """
    Return why a training is not of the checks that were asked for; ``None`` if it is.

    :param told: The columns that were waived, by its result.json; ``None`` if it does not tell:
        such an image waives none.
    :param asked: Those of the submission.
    """
    more = next((name for name in told or () if name not in asked), None)
    if more is None:
        return None
    return f"other checks (the column {shorten(more)} was waived, and not by the submission)"
