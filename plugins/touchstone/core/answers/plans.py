"""What the API answers about a schedule before it is sent."""

from __future__ import annotations

from datetime import datetime

from touchstone.core.answers.common import Answer


class PlannedTask(Answer):
    """
    A training as it would be if its schedule were given now.

    :param submission_id: The submission.
    :param task_id: The id that it will have.
    :param interval: Prediction interval in bars.
    :param fold: Number of its fold; ``None`` without folds.
    :param rows: Which rows that is judged on, as people read them.
    :param seed: Seed of the training; the first one of several.
    :param seed_count: How many seeds it has, one after the other.
    :param place: Where it would start at once; ``None`` if it would wait.
    :param position: Its place among the trainings that wait; ``None`` if it would start at once.
    :param reason: Why there, or why it would wait, one line.
    :param start_p50: When it starts, as likely earlier as later; ``None`` if nobody can say.
    :param start_p90: By when it starts in nine cases of ten.
    :param finish_p50: When it ends, as likely earlier as later.
    :param finish_p90: By when it ends in nine cases of ten, or earlier.
    :param usd_low: The least that it should cost, US dollars as text; ``None`` if nobody knows.
    :param usd_high: The most that it should cost.
    :param price_reason: By which prices, or why nobody knows, one line.
    """

    submission_id: str
    task_id: str
    interval: int
    fold: int | None = None
    rows: str | None = None
    seed: int
    seed_count: int = 1
    place: str | None = None
    position: int | None = None
    reason: str
    start_p50: datetime | None = None
    start_p90: datetime | None = None
    finish_p50: datetime | None = None
    finish_p90: datetime | None = None
    usd_low: str | None = None
    usd_high: str | None = None
    price_reason: str


class SchedulePlan(Answer):
    """
    What would become of a schedule if it were given now; nothing was changed.

    :param at: When it was planned.
    :param tasks: Its trainings, by submission and interval.
    :param finish_p50: When the last of them ends; ``None`` if nobody can say of each.
    :param finish_p90: By when the last of them ends in nine cases of ten, or earlier.
    :param usd_low: The least that all should cost, US dollars as text; ``None`` unless each has a
        price.
    :param usd_high: The most that all should cost.
    :param price_reason: Why there is no sum; ``None`` if there is one.
    :param remarks: What else to know, a line each.
    """

    at: datetime
    tasks: tuple[PlannedTask, ...]
    finish_p50: datetime | None = None
    finish_p90: datetime | None = None
    usd_low: str | None = None
    usd_high: str | None = None
    price_reason: str | None = None
    remarks: tuple[str, ...] = ()
