"""How tables and pages name the seeds of a training."""

from __future__ import annotations

from touchstone.client.answers import ShownRow, ShownSchedule


def format_seeds(seed: int, count: int) -> str:
    """Return one seed, or the first and the last of several."""
    return str(seed) if count <= 1 else f"{seed} to {seed + count - 1}"


def describe_seeds(schedule: ShownSchedule | None) -> str:
    """Return how many seeds a schedule has, and which; empty before there is one."""
    if schedule is None or schedule.seed is None:
        return ""
    count = schedule.seed_count or 1
    return f"{count}: {format_seeds(schedule.seed, count)}"


def describe_compared_seeds(row: ShownRow) -> dict[str, str]:
    """Return of how many seeds what was compared is the mean, as a fact by its name."""
    if row.seed_count is None:
        return {}
    base = row.baseline_seed_count
    return {"seeds": f"{row.seed_count}" + (f"; the baseline's {base}" if base else "")}
