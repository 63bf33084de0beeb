"""What the models of a training have come to on rows that are newer than they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final

from pydantic import BeforeValidator, Field

from touchstone.core.records.kept import Part
from touchstone.core.records.stored import Time

MAX_LINES: Final = 300
"""Forward scores of one submission: one for each interval."""


class ForwardScore(Part):
    """
    The forward score of one training, on the newest version of its data set that it was wanted on.

    :param task_id: The training; of folds, the last one.
    :param interval: Its prediction interval in bars.
    :param fence: Of the attempt that has left the models: those of a later one have none yet.
    :param data: Name and version of the newer data.
    :param run_id: The DAG run that computes it, or has.
    :param wanted_at: When it was wanted.
    :param scored_at: When the judge has answered; ``None`` before.
    :param reason: Why there are no figures; ``None`` where there are, or nobody has answered yet.
    :param rows: How many rows count.
    :param first: The first of them.
    :param last: The last one.
    :param metrics: The judge's figures by name; ``None`` for one that is undefined.
    :param metric_notes: Why a figure is undefined, by its name.
    :param judge: Version of the judge.
    """

    task_id: str
    interval: int | None = None
    fence: int = 0
    data: str
    run_id: str | None = None
    wanted_at: Time | None = None
    scored_at: Time | None = None
    reason: str | None = None
    rows: int = 0
    first: Time | None = None
    last: Time | None = None
    metrics: Mapping[str, int | float | None] = Field(default_factory=dict)
    metric_notes: Mapping[str, str] = Field(default_factory=dict)
    judge: str | None = None

    @property
    def is_open(self) -> bool:
        """Tell whether nothing has come of it yet."""
        return self.scored_at is None and self.reason is None


ForwardScores = Annotated[
    tuple[ForwardScore, ...], BeforeValidator(lambda value: () if value is None else value)
]
