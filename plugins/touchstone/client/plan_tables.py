"""How the command line and the pages show a plan."""

from __future__ import annotations

from datetime import datetime

from rich.console import Group
from rich.table import Table
from rich.text import Text

from touchstone.client.seeds import format_seeds
from touchstone.client.tables import format_line, format_time
from touchstone.core.answers.plans import PlannedTask, SchedulePlan


def build_plan(plan: SchedulePlan) -> Group:
    """Return a plan as a table, with its sum and remarks below."""
    table = Table(box=None, header_style="bold", padding=(0, 1))
    has_folds = any(task.rows for task in plan.tasks)
    names = ("Submission", "Task", *(("Judged on",) if has_folds else ()), "Seeds")
    for name in (*names, "Where", "Starts (UTC)", "Ends (UTC)", "Price"):
        table.add_column(name, no_wrap=True)
    table.add_column("Why", overflow="fold")
    for task in plan.tasks:
        table.add_row(
            task.submission_id,
            task.task_id,
            *((format_line(task.rows),) if has_folds else ()),
            format_seeds(task.seed, task.seed_count),
            format_place(task),
            format_span(task.start_p50, task.start_p90),
            format_span(task.finish_p50, task.finish_p90),
            format_price(task.usd_low, task.usd_high),
            format_line(task.reason),
        )
    lines = [f"all end {format_span(plan.finish_p50, plan.finish_p90)}; {describe_sum(plan)}"]
    lines += [f"prices: {each}" for each in list_prices(plan)]
    lines += plan.remarks
    return Group(table, *(Text(f" {line}", overflow="fold") for line in lines))


def format_place(task: PlannedTask) -> str:
    """Return where a training would start at once, or its place in the queue."""
    if task.place is not None:
        return format_line(task.place)
    return f"waits, place {task.position}" if task.position is not None else "n/a"


def format_span(p50: datetime | None, p90: datetime | None) -> str:
    """Return a time and its p90, ``n/a`` if nobody can say."""
    if p50 is None:
        return "n/a"
    late = f", p90 {format_time(p90.isoformat())}" if p90 is not None else ""
    return format_time(p50.isoformat()) + late


def format_price(low: str | None, high: str | None) -> str:
    """Return a range of US dollars to the cent, ``n/a`` if nobody knows."""
    if low is None or high is None:
        return "n/a"
    told = [f"${float(usd):,.2f}" for usd in (low, high)]
    return told[0] if told[0] == told[1] else f"{told[0]} to {told[1]}"


def describe_sum(plan: SchedulePlan) -> str:
    """Return what all trainings of a plan should cost, or why nobody knows, in one line."""
    price = format_price(plan.usd_low, plan.usd_high)
    return f"price {price}" + (f" ({plan.price_reason})" if plan.price_reason else "")


def list_prices(plan: SchedulePlan) -> list[str]:
    """Return the prices that a plan counts with, or why it has none, each once."""
    if plan.price_reason is not None and all(task.usd_low is None for task in plan.tasks):
        return []  # the sum has said it
    return list(dict.fromkeys(format_line(task.price_reason) for task in plan.tasks))
