"""What the API answers about submissions side by side."""

from __future__ import annotations

from collections.abc import Mapping

from touchstone.core.answers.common import Answer


class ComparedChart(Answer):
    """
    Where a chart of a training is.

    :param name: The chart's name.
    :param url: Its address.
    :param by: Whose it is, ``judge`` or ``trainer``; ``None`` in old records.
    """

    name: str
    url: str
    by: str | None = None


class ComparedInterval(Answer):
    """
    What a submission came to at one prediction interval.

    :param interval: The prediction interval.
    :param figures: The judge's figures by name, each of :data:`touchstone.core.comparing.FIGURES`;
        ``None`` for one that there is not.
    :param note: Why there are no figures, or what the judge says of them; ``None`` for nothing.
    :param charts: Its charts.
    """

    interval: int
    figures: Mapping[str, int | float | None]
    note: str | None = None
    charts: tuple[ComparedChart, ...] = ()


class ComparedVerdict(Answer):
    """
    What was said last of an entry in an event.

    :param event: The event.
    :param baseline: What the event compares with now; ``None`` for nothing yet.
    :param verdict: The verdict; ``None`` before there is one.
    :param why: The verdict's sentence, or why there is no score.
    :param score: The entry's score.
    :param difference: The score's difference from the baseline's.
    :param low: Lower end of the difference's 95 % interval.
    :param high: Upper end of it.
    :param p: Its p, adjusted for all that were compared.
    :param n: How many were compared.
    """

    event: str
    baseline: str | None = None
    verdict: str | None = None
    why: str | None = None
    score: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    n: int | None = None


class ComparedSubmission(Answer):
    """
    One submission of a comparison.

    :param submission_id: Its id.
    :param submitted_by: Whose it is.
    :param status: Where it is; ``None`` for another user's.
    :param is_baseline: Whether an event of this comparison compares with it.
    :param note: Why there are no figures of it; ``None`` if there may be.
    :param score: Its own score.
    :param score_low: Lower end of the score's interval.
    :param score_high: Upper end of it.
    :param waived_columns: Its columns against which no look-ahead is held.
    :param verdicts: What was said of it, an entry each, the newest last.
    :param intervals: What it came to, by prediction interval.
    """

    submission_id: str
    submitted_by: str
    status: str | None = None
    is_baseline: bool = False
    note: str | None = None
    score: float | None = None
    score_low: float | None = None
    score_high: float | None = None
    waived_columns: tuple[str, ...] = ()
    verdicts: tuple[ComparedVerdict, ...] = ()
    intervals: tuple[ComparedInterval, ...] = ()


class ComparedSubmissions(Answer):
    """
    Some submissions beside each other, by prediction interval.

    :param intervals: All prediction intervals of any of them, ascending.
    :param submissions: In the order asked for; baselines that were not asked for last.
    :param missing: Those that there are not, or that are another user's and in no event.
    """

    intervals: tuple[int, ...]
    submissions: tuple[ComparedSubmission, ...]
    missing: tuple[str, ...] = ()
