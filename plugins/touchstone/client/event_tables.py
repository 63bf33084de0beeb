"""What the commands about events print."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from touchstone.client.answers import Comparison, Leaderboard, ShownEvent, ShownRow
from touchstone.client.beside import build_cells, describe_beside, list_columns, list_notes
from touchstone.client.folds import describe_compared_folds, describe_event_folds
from touchstone.client.seeds import describe_compared_seeds
from touchstone.client.tables import clean, format_line, format_time
from touchstone.client.waivers import describe_waivers, mark_name


def build_events(events: Sequence[ShownEvent]) -> Table:
    """Return events as a table."""
    table = _table("Event", "State", "Baseline", "Opens (UTC)", "Closes (UTC)", "Title")
    for event in events:
        table.add_row(
            event.event,
            "closed" if event.closed_at else "open",
            event.baseline or "-",
            format_time(event.opens_at),
            format_time(event.closes_at),
            format_line(event.title),
        )
    return table


def build_event(event: ShownEvent) -> Table:
    """Return an event's facts as a table of two columns."""
    table = Table(box=None, show_header=False, padding=(0, 1))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    rows, judging, quota = event.rows, event.judging, event.quota
    first = rows.test_from if rows and rows.test_from else "first"
    last = rows.test_to if rows and rows.test_to else "last"
    facts = {
        "event": event.event,
        "title": event.title,
        "problem": event.problem,
        "data": event.data.label if event.data else None,
        "rows": f"{first} to {last}",
        "folds": describe_event_folds(event),
        "closed from": rows.closed_from if rows else None,
        "intervals": ",".join(judging.intervals if judging else ()) or "those of the baseline",
        "seeds": ", ".join(judging.seeds if judging else ()) or "any",
        "number of seeds": str(judging.seed_count) if judging and judging.seed_count else "any",
        "expected": f"{judging.arrivals} submissions" if judging else None,
        "baseline": event.baseline or f"none: `touchstone event baseline {event.event} ID`",
        "opens": format_time(event.opens_at),
        "closes": format_time(event.closes_at),
        "closed": format_time(event.closed_at),
        "participants": ", ".join(event.participants) or "everybody",
        "quota": f"{quota.submissions} in {quota.hours:g} hours" if quota else "none",
        "waived columns": "taken" if event.waivers else "refused",
    }
    for name, value in facts.items():
        if value:
            table.add_row(name, clean(value))
    return table


def build_leaderboard(board: Leaderboard) -> RenderableType:
    """Return a leaderboard: a row for each entry, and what there is to be said below."""
    columns = list_columns(board.rows)
    table = _table(
        *("Rank", "Submission", "By", "Score", "Difference", "95 %", "p", "N"),
        *(*columns, "Verdict"),
    )
    for row in board.rows:
        *cells, verdict = _build_row(row)
        table.add_row(*cells, *map(format_line, build_cells(row.beside, columns)), verdict)
    reasons = [f" {row.name}: {format_line(row.reason)}" for row in board.rows if row.reason]
    baseline = board.baseline or f"none: `touchstone event baseline {board.event} ID`"
    lines = [f" baseline: {baseline}", *reasons, *list_notes(board.rows)]
    if board.unreadable:
        lines.append(f" left out, their records make no sense: {', '.join(board.unreadable)}")
    return Group(table, *(Text(clean(line), overflow="fold") for line in lines))


def build_comparison(found: Comparison) -> RenderableType:
    """Return some submissions beside each other, and the sentence of each."""
    table = _table("Submission", "Event", "Score", "Difference", "95 %", "p", "N", "Verdict")
    lines = []
    for row in found.rows:
        cells = _build_row(row)
        table.add_row(cells[1], format_line(row.event), *cells[3:])
        lines += [
            f" {row.name}: {format_time(each.at)} {each.phase}: {format_line(each.sentence)}"
            for each in row.history
        ]
        beside = (
            describe_waivers(row.waived_columns)
            | describe_compared_seeds(row)
            | describe_compared_folds(row)
            | describe_beside(row.beside)
        )
        lines += [f" {row.name}: {name}: {told}" for name, told in beside.items()]
    lines += [f" {name}: has entered no event" for name in found.missing]
    return Group(table, *(Text(clean(line), overflow="fold") for line in lines))


def _build_row(row: ShownRow) -> tuple[str, ...]:
    has_interval = row.low is not None and row.high is not None
    return (
        str(row.rank) if row.rank else "n/a",
        format_line(mark_name(row.name, row.waived_columns)),
        format_line(row.user),
        _number(row.score, "{:.4f}"),
        _number(row.difference, "{:+.2f}"),
        f"{row.low:+.2f} to {row.high:+.2f}" if has_interval else "",
        _number(row.p, "{:.3g}"),
        _number(row.n, "{}"),
        format_line(row.verdict),
    )


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 1))
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table
