"""Some submissions beside each other, by prediction interval. Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from pydantic import JsonValue

from touchstone.core.answers.comparison import (
    ComparedChart,
    ComparedInterval,
    ComparedSubmission,
    ComparedSubmissions,
)
from touchstone.core.records.stored import RecordUnreadable
from touchstone.core.records.submissions import ChartLink, ResultLine
from touchstone.core.waivers import tell_columns

LEAST: Final = 2
MOST: Final = 5
"""How many submissions are compared, at least and at most, baselines aside."""

FIGURES: Final = (
    *("net_sharpe", "net_sharpe_low", "net_sharpe_high", "hit_rate_minus_base"),
    *("max_drawdown", "auc_long", "auc_short"),
)
"""The figures that are compared."""

NO_TRAINING: Final = "it was not trained for this interval"
_COLUMNS: Final = (
    *("submission", "submitted_by", "is_baseline", "event", "verdict", "why", "score"),
    *("interval", *FIGURES, "note", "waived_columns"),
)
_FORMULA: Final = ("=", "+", "-", "@")


def build_intervals(results: JsonValue, charts: JsonValue) -> tuple[ComparedInterval, ...]:
    """
    Return what a submission came to, by prediction interval.

    :param results: Its lines of results, as the API shows them.
    :param charts: Its links to charts, likewise.
    """
    links = _load_links(charts)
    # Of an interval in folds it is the line of all of them together.
    lines = [
        line for line in _load_lines(results) if line.interval is not None and line.fold is None
    ]
    return tuple(
        _build_interval(line.interval, line, links.get(line.task_id, ()))
        for line in sorted(lines, key=lambda line: line.interval or 0)
        if line.interval is not None
    )


def _build_interval(
    interval: int, line: ResultLine, charts: Sequence[ComparedChart]
) -> ComparedInterval:
    figures = {name: line.metrics.get(name) for name in FIGURES}
    reported = line.reported.get("net_sharpe")
    note = line.judged_reason or line.reason
    if all(value is None for value in figures.values()):
        said = f"the trainer says {reported}, and no judge has confirmed that" if reported else None
        note = "; ".join(filter(None, (note, said))) or f"{line.status}: it has no figures"
    return ComparedInterval(interval=interval, figures=figures, note=note, charts=tuple(charts))


def _load_lines(results: JsonValue) -> Iterator[ResultLine]:
    for each in results if isinstance(results, list) else ():
        try:
            yield ResultLine.load(each if isinstance(each, dict) else {})
        except RecordUnreadable:
            continue  # The submission's own page shows it as it is.


def _load_links(charts: JsonValue) -> dict[str, list[ComparedChart]]:
    links: dict[str, list[ComparedChart]] = {}
    for each in charts if isinstance(charts, list) else ():
        try:
            link = ChartLink.load(each if isinstance(each, dict) else {})
        except RecordUnreadable:
            continue
        links.setdefault(link.task_id, []).append(
            ComparedChart(name=link.name, url=link.url, by=link.by)
        )
    return links


def join(submissions: Iterable[ComparedSubmission], missing: Iterable[str]) -> ComparedSubmissions:
    """Return submissions beside each other, with all intervals that any of them has."""
    found = tuple(submissions)
    intervals = {line.interval for each in found for line in each.intervals}
    return ComparedSubmissions(
        intervals=tuple(sorted(intervals)), submissions=found, missing=tuple(missing)
    )


def find_interval(submission: ComparedSubmission, interval: int) -> ComparedInterval:
    """Return what a submission came to at an interval; one without figures if it has none there."""
    for each in submission.intervals:
        if each.interval == interval:
            return each
    return ComparedInterval(
        interval=interval,
        figures=dict.fromkeys(FIGURES),
        note=submission.note or NO_TRAINING,
    )


def write_csv(found: ComparedSubmissions) -> str:
    """
    Return a comparison as CSV: a row for each submission and interval.

    A text that a spreadsheet would take for a formula begins with an apostrophe.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for submission in found.submissions:
        verdict = submission.verdicts[-1] if submission.verdicts else None
        lines: Sequence[ComparedInterval | None] = [
            find_interval(submission, interval) for interval in found.intervals
        ] or [None]
        for line in lines:
            writer.writerow(
                [
                    submission.submission_id,
                    _guard(submission.submitted_by),
                    str(submission.is_baseline).lower(),
                    _guard(verdict.event if verdict else None),
                    _guard(verdict.verdict if verdict else None),
                    _guard(verdict.why if verdict else None),
                    _tell(submission.score),
                    line.interval if line else "",
                    *(_tell(line.figures.get(name) if line else None) for name in FIGURES),
                    _guard(line.note if line else submission.note),
                    _guard(tell_columns(submission.waived_columns)),
                ]
            )
    return out.getvalue()


def _guard(text: str | None) -> str:
    # A carriage return alone is left without quotation marks, and ends a row for most readers.
    shown = "\n".join((text or "").splitlines())
    return f"'{shown}" if shown.lstrip().startswith(_FORMULA) else shown


def _tell(value: int | float | None) -> str:
    return "" if value is None else str(value)
