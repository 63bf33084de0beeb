"""How tables and pages tell of waived columns."""

from __future__ import annotations

from collections.abc import Sequence

from touchstone.client.answers import ShownRow
from touchstone.core.waivers import tell_columns

MARK = "waived columns"
"""What stands beside the name of a submission that has some, in a row."""


def describe_waivers(columns: Sequence[str]) -> dict[str, str]:
    """Return which columns are waived as a fact by its name; nothing for none."""
    if not columns:
        return {}
    return {MARK: f"{tell_columns(columns)}; no look-ahead is held against them"}


def mark_name(name: str, columns: Sequence[str]) -> str:
    """Return a submission's name as a row has it."""
    return f"{name} ({MARK})" if columns else name


def list_waivers(rows: Sequence[ShownRow]) -> list[str]:
    """Return which columns are waived, a line for each row that has some."""
    return [
        f" {row.name}: {name}: {told}"
        for row in rows
        for name, told in describe_waivers(row.waived_columns).items()
    ]
