"""What the command ``queue`` prints."""

from __future__ import annotations

from rich.table import Table

from touchstone.client.answers import ShownQueue
from touchstone.client.tables import format_line, format_time, format_waiting


def build_queue(queue: ShownQueue) -> Table:
    """Return what waits as a table, validations behind trainings, the next first."""
    table = Table(box=None, header_style="bold", padding=(0, 1))
    table.add_column("Submission", no_wrap=True)
    table.add_column("Task", no_wrap=True)
    table.add_column("By", no_wrap=True)
    table.add_column("Priority", justify="right")
    table.add_column("Since (UTC)", no_wrap=True)
    table.add_column("Place, starts (UTC)", no_wrap=True)
    table.add_column("Why it waits", overflow="fold")
    for task in sorted(queue.waiting, key=lambda task: (task.is_validation, task.position)):
        table.add_row(
            format_line(task.submission_id),
            format_line(task.task_id),
            format_line(task.submitted_by or ""),
            "" if task.priority is None else str(task.priority),
            format_time(task.since),
            format_waiting(task),
            format_line(task.reason or ""),
        )
    return table
