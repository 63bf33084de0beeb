"""What ``compare --by-interval`` prints, and its words that the page of a comparison shares."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from touchstone.client.tables import clean, format_line, format_number
from touchstone.client.waivers import describe_waivers
from touchstone.core.answers.comparison import ComparedInterval, ComparedSubmissions
from touchstone.core.comparing import find_interval

HEADINGS = {
    "net_sharpe": "Net Sharpe",
    "hit_rate_minus_base": "Hit rate - base",
    "max_drawdown": "Max drawdown",
    "auc_long": "AUC long",
    "auc_short": "AUC short",
}
"""The figures that are shown, by their names."""


def build_intervals(found: ComparedSubmissions) -> RenderableType:
    """Return submissions beside each other: for each figure a table, with a row per interval."""
    parts: list[RenderableType] = []
    for name, heading in HEADINGS.items():
        table = Table(box=None, header_style="bold", padding=(0, 1), title_justify="left")
        table.add_column(heading, no_wrap=True)
        for each in found.submissions:
            mark = " (baseline)" if each.is_baseline else ""
            table.add_column(f"{each.submission_id}{mark}", no_wrap=True, justify="right")
        for interval in found.intervals:
            lines = [find_interval(each, interval) for each in found.submissions]
            table.add_row(str(interval), *(format_figure(line, name) for line in lines))
        parts.append(table)
    return Group(*parts, *(Text(clean(line), overflow="fold") for line in list_notes(found)))


def list_notes(found: ComparedSubmissions) -> list[str]:
    """Return what there is to be said of a comparison, a line each."""
    notes = []
    for each in found.submissions:
        notes += [
            f"{each.submission_id}: {name}: {told}"
            for name, told in describe_waivers(each.waived_columns).items()
        ]
        for row in each.verdicts[-1:]:
            if row.baseline == each.submission_id and not row.verdict:
                notes.append(f"{each.submission_id}: {row.event}: the baseline")
                continue
            told = ": ".join(filter(None, (row.verdict or "not judged yet", format_line(row.why))))
            against = f"against {row.baseline or 'no baseline yet'}"
            notes.append(f"{each.submission_id}: {row.event}, {against}: {told}")
        if each.note:
            notes.append(f"{each.submission_id}: {each.note}")
        notes += [
            f"{each.submission_id}: interval {line.interval}: {format_line(line.note)}"
            for line in each.intervals
            if line.note
        ]
    return notes + [describe_missing(name) for name in found.missing]


def describe_missing(name: str) -> str:
    """Return why a submission that was asked for is not compared."""
    return f"{name}: there is no such submission of yours, and it has entered no event"


def format_figure(line: ComparedInterval, name: str) -> str:
    """Return a figure with its interval, if it has one; ``n/a`` for none."""
    value = line.figures.get(name)
    if value is None:
        return "n/a"
    low, high = line.figures.get(f"{name}_low"), line.figures.get(f"{name}_high")
    if low is None or high is None:
        return format_number(value)
    return f"{format_number(value)} [{format_number(low)}, {format_number(high)}]"
