"""What the command ``tasks`` prints."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich.table import Table

from touchstone.client.tables import format_line, format_status, format_time
from touchstone.core.answers.tasks import ListedTask


def build_tasks(tasks: Sequence[ListedTask]) -> Table:
    """Return tasks as a table, the newest first."""
    table = Table(box=None, header_style="bold", padding=(0, 1))
    for name in ("Submission", "Task", "Status", "By", "Server", "Done", "Created (UTC)"):
        table.add_column(name, no_wrap=True)
    table.add_column("Ended (UTC)", no_wrap=True)
    table.add_column("Why", overflow="fold")
    for task in tasks:
        table.add_row(
            format_line(task.submission_id),
            format_line(task.task_id),
            format_status(task.status),
            format_line(task.submitted_by),
            format_line(task.server),
            f"{task.percent:.0f} %",
            _format(task.created_at),
            _format(task.ended_at),
            format_line(task.reason),
        )
    return table


def _format(moment: datetime | None) -> str:
    return format_time(moment.isoformat()) if moment else ""
