"""What is printed of forward scores; its printer cleans it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from touchstone.client.answers import ShownForward

AFTER: Final = "after submission"
BEYOND_SUSPICION: Final = (
    "only these rows are beyond suspicion of a future that came with the submission"
)


def describe_forward(scores: Sequence[ShownForward], note: str | None) -> dict[str, str]:
    """
    Return what models have come to on rows newer than they are, by its heading.

    :param scores: One for each interval.
    :param note: Why there are none; ``None`` if nobody need explain that.
    """
    if not scores:
        return {AFTER: f"n/a: {note}"} if note else {}
    return {f"{AFTER}, {each.task_id}": describe_score(each) for each in scores}


def describe_score(score: ShownForward) -> str:
    """Return one of them in a line: rows, Sharpe ratio and its interval, or why there is none."""
    if score.reason:
        return f"n/a: {score.reason} ({score.data})"
    if not score.scored_at:
        return f"n/a: being scored on {score.data}, by the run {score.run_id}"
    metrics, notes = score.metrics, score.metric_notes
    told = [
        f"{score.rows} rows from {_show(score.first)} to {_show(score.last)}",
        f"Sharpe {_number(metrics.get('net_sharpe'), notes.get('net_sharpe'))}",
    ]
    low, high = metrics.get("net_sharpe_low"), metrics.get("net_sharpe_high")
    if low is None or high is None:
        why = notes.get("net_sharpe_low") or "not computed"
        told.append(f"95 % interval n/a: {why}")
    else:
        told.append(f"95 % {low:+.2f} to {high:+.2f}")
    return f"{', '.join(told)} ({score.data})"


def _number(value: float | None, note: str | None) -> str:
    return f"n/a: {note or 'not computed'}" if value is None else f"{value:+.2f}"


def _show(moment: str | None) -> str:
    """Return a row's day, with its time where that is not midnight."""
    day, _, clock = (moment or "").partition("T")
    return day if clock.startswith("00:00:00") else f"{day} {clock[:5]}"
