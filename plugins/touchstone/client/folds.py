"""How tables and pages name the forward folds of an interval."""

from __future__ import annotations

from touchstone.client.answers import ShownEvent, ShownResult, ShownRow, ShownSchedule, ShownTask


def describe_folds(schedule: ShownSchedule | None) -> str:
    """Return how many folds a schedule has, and where they begin; empty without any."""
    days = schedule.folds if schedule else ()
    return f"{len(days)}, from {', '.join(days)}" if days else ""


def describe_event_folds(event: ShownEvent) -> str:
    """Return the folds that all of an event train; ``any`` where it names none."""
    days = event.rows.folds if event.rows else ()
    return ", ".join(days) or "any"


def describe_compared_folds(row: ShownRow) -> dict[str, str]:
    """Return in how many folds what was compared was judged, as a fact by its name."""
    return {"folds": f"{row.fold_count:g}"} if row.fold_count else {}


def name_result(item: ShownResult) -> str:
    """Return of which interval a line of results is, and of which of its folds."""
    name = f"{item.interval} d"
    return name if item.fold is None else f"{name}, fold {item.fold:g}"


def name_training(task: ShownTask) -> str:
    """Return of which interval a training is, and of which of its folds."""
    _, _, fold = task.task_id.partition("-f")
    return f"interval {task.interval}" + (f", fold {fold}" if fold else "")


def find_query(task: ShownTask) -> str:
    """Return the query by which a submission's page shows the charts of a training."""
    has_fold = "-f" in task.task_id
    return f"task={task.task_id}" if has_fold else f"interval={task.interval}"
