"""What the commands about data sets print."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from touchstone.client.answers import DataSetList, ShownDataSet
from touchstone.client.tables import clean, format_line, format_time


def build_data_sets(found: DataSetList) -> Table:
    """Return data sets as a table, the built-in one first."""
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    for title in ("Data set", "Version", "Bars", "A year", "Added (UTC)", "Title"):
        table.add_column(title, overflow="fold")
    if found.built_in:
        table.add_row(clean(found.built_in), "-", "1d", "252", "-", "S&P 500 with Nasdaq, built in")
    for each in found.data_sets:
        table.add_row(
            clean(each.name),
            clean(each.version),
            clean(each.frequency or "-"),
            f"{each.bars_per_year or 0:g}",
            format_time(each.added_at) if each.is_complete else "incomplete: add it again",
            f"{format_line(each.title)} (private)" if each.is_private else format_line(each.title),
        )
    return table


def build_data_set(versions: Sequence[ShownDataSet]) -> Table:
    """Return the newest version of a data set as a table of two columns."""
    newest, *others = versions
    table = Table(box=None, show_header=False, padding=(0, 1))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    rows = newest.rows
    traded = [name for name, each in newest.instruments.items() if each.role == "traded"]
    facts = {
        "data set": newest.name,
        "version": newest.version,
        "title": newest.title,
        "file": newest.file,
        "frequency": newest.frequency,
        "calendar": newest.calendar,
        "bars a year": f"{newest.bars_per_year or 0:g}",
        "validation from": rows.validation_from if rows else None,
        "test from": rows.test_from if rows else None,
        "traded": ", ".join(traded),
        "references": ", ".join(sorted(set(newest.instruments) - set(traded))),
        "columns": ", ".join(
            name if each.available_at == "bar" else f"{name} ({each.available_at} later)"
            for name, each in newest.columns.items()
        ),
        "digest": newest.digest,
        "archive": None
        if newest.is_private
        else f"{(newest.archive_bytes or 0) / 1024**2:.1f} MiB",
        "private": "its file stays at the servers that hold it" if newest.is_private else None,
        "added": f"{format_time(newest.added_at)} by {newest.added_by}",
        "complete": None if newest.is_complete else "no: add it again",
        "older versions": ", ".join(each.version for each in others),
    }
    for name, value in facts.items():
        if value:
            table.add_row(name, clean(value))
    return table
