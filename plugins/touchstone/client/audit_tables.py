"""What the command ``audit`` prints, and its words that the page shares."""

from __future__ import annotations

from rich.table import Table

from touchstone.client.tables import format_line, format_time
from touchstone.core.answers.audit import AuditAct, AuditLog


def build_audit(log: AuditLog) -> Table:
    """Return acts as a table, the newest first."""
    table = Table(box=None, header_style="bold", padding=(0, 1))
    for heading in ("When (UTC)", "Who", "From", "What"):
        table.add_column(heading, no_wrap=True)
    table.add_column("Did", overflow="fold")
    for act in log.acts:
        table.add_row(
            format_time(act.at),
            format_line(act.by),
            describe_door(act),
            format_line(describe_subject(act)),
            format_line(act.action),
        )
    return table


def describe_door(act: AuditAct) -> str:
    """Return where an act came in."""
    return format_line(act.door) if act.door else "n/a"


def describe_subject(act: AuditAct) -> str:
    """Return what an act changed: a submission by its id, anything else with its kind."""
    if act.kind == "submission":
        return act.name
    return f"{act.kind} {act.name}".rstrip()
