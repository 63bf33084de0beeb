"""What the command ``costs`` prints, and the words for money that the page of costs shares."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from touchstone.client.tables import clean, format_line, format_money, format_seconds
from touchstone.core.answers.costs import CostBudget, CostReport, CostRow

HEADINGS = {"submission": "Submission", "submitter": "Submitter", "gpu": "GPU"}
"""What a row is for, by how it is asked for."""

ONLY_PODS = "Only pods cost money here: what runs on the team's own servers has no price."


def build_costs(report: CostReport) -> RenderableType:
    """Return a report of costs: its rows, their total, and what there is to be said below."""
    table = _table(HEADINGS.get(report.by, "Name"))
    if report.by == "submission":
        _add(table, "By", is_amount=False)
    for heading in ("Pods", "Billed for", "Cost", "Useful", "Wasted", "Open", "RunPod's bill"):
        _add(table, heading)
    has_budgets = report.by != "gpu"
    if has_budgets:
        _add(table, "Budget left")
    shown = [*report.rows, *([report.total] if report.total else [])]
    for row in shown:
        cells = [format_line(row.name)]
        if report.by == "submission":
            cells.append(format_line(row.user))
        cells += [
            str(row.pods),
            format_seconds(row.seconds),
            format_money(row.usd),
            format_money(row.useful_usd),
            format_money(row.wasted_usd),
            format_money(row.open_usd),
            describe_bill(row),
        ]
        table.add_row(*cells, *([describe_left(row.budget)] if has_budgets else []))
    return Group(table, *(Text(clean(line), overflow="fold") for line in list_lines(report)))


def list_lines(report: CostReport) -> Iterator[str]:
    """Yield what there is to be said about a report, a line each."""
    if report.problem:
        yield f"n/a: {report.problem}"
    if report.left_out:
        yield f"{report.left_out} more are in the total and in no row."
    if report.total and not report.total.pods:
        yield f"No pod was rented in {report.month}."
    if report.total and report.total.budget:
        whose = f"of {report.user} " if report.user else ""
        yield f"Budget {whose}for {report.month}: {describe_budget(report.total.budget)}"
    yield ONLY_PODS


def describe_bill(row: CostRow) -> str:
    """Return what RunPod has billed for the pods of a row, and for how many if not for all."""
    if row.billed_usd is None:
        return "n/a: no bill yet" if row.pods else "n/a: no pods"
    told = format_money(row.billed_usd)
    return told if row.billed_pods == row.pods else f"{told} for {row.billed_pods} of {row.pods}"


def describe_left(budget: CostBudget | None) -> str:
    """Return what is left of the budget of a row."""
    if budget is None:
        return "n/a"
    if budget.left_usd is None:
        return "no limit"
    return f"{format_money(budget.left_usd)} of {format_money(budget.limit_usd)}"


def describe_budget(budget: CostBudget) -> str:
    """Return how a budget stands, in one line."""
    used = f"{format_money(budget.spent_usd)} spent, {format_money(budget.reserved_usd)} reserved"
    if budget.left_usd is None:
        return f"{used}, no limit"
    return f"{used}, {describe_left(budget)} left"


def _table(first: str) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 1))
    table.add_column(first, no_wrap=True)
    return table


def _add(table: Table, heading: str, *, is_amount: bool = True) -> None:
    table.add_column(heading, no_wrap=True, justify="right" if is_amount else "left")
