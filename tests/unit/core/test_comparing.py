"""Submissions beside each other, and their CSV."""

from __future__ import annotations

import csv
import io

import pytest

from touchstone.core.answers.comparison import ComparedSubmission, ComparedVerdict
from touchstone.core.comparing import (
    FIGURES,
    NO_TRAINING,
    build_intervals,
    find_interval,
    join,
    write_csv,
)


def build_line(interval=5, **fields):
    plain = {"task_id": f"i{interval}", "interval": interval, "status": "success"}
    return plain | {"metrics": {"net_sharpe": 0.25}, "judged": "judged"} | fields


def read_csv(*submissions):
    return list(csv.DictReader(io.StringIO(write_csv(join(submissions, [])))))


def test_intervals_are_ascending_with_the_charts_of_each():
    charts = [{"task_id": "i5", "name": "equity", "url": "http://m/1", "by": "judge"}]
    five, twenty = build_intervals([build_line(20), build_line(5)], charts)

    assert (five.interval, twenty.interval) == (5, 20)
    assert [each.name for each in five.charts] == ["equity"]
    assert twenty.charts == ()
    assert five.figures["net_sharpe"] == 0.25
    assert five.figures["auc_long"] is None
    assert five.note is None


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"metrics": {}, "status": "error", "reason": "ended with 1"}, "ended with 1"),
        ({"metrics": {}, "status": "running"}, "running: it has no figures"),
        (
            {"metrics": {}, "reported": {"net_sharpe": 12}, "judged_reason": "other rows"},
            "other rows; the trainer says 12, and no judge has confirmed that",
        ),
    ],
)
def test_what_has_no_figures_says_why(fields, told):
    (line,) = build_intervals([build_line(**fields)], None)

    assert set(line.figures.values()) == {None}
    assert line.note == told


def test_a_figure_of_0_is_a_figure():
    (line,) = build_intervals([build_line(metrics={"net_sharpe": 0})], [])

    assert (line.figures["net_sharpe"], line.note) == (0, None)


@pytest.mark.parametrize("odd", [None, 5, "x", {}, [None], [5], [{}], [{"task_id": 5}]])
def test_lines_and_links_that_make_no_sense_hide_no_other(odd):
    found = odd if isinstance(odd, list) else [odd]
    (line,) = build_intervals([*found, build_line()], odd)

    assert line.interval == 5
    assert build_intervals(odd, odd) == ()


def test_who_lacks_an_interval_has_no_figure_there_and_says_so():
    one = ComparedSubmission(
        submission_id="s-1", submitted_by="ann", intervals=build_intervals([build_line(5)], [])
    )
    two = ComparedSubmission(
        submission_id="s-2", submitted_by="ann", intervals=build_intervals([build_line(20)], [])
    )

    assert join([one, two], []).intervals == (5, 20)
    assert find_interval(two, 5).note == NO_TRAINING
    rows = read_csv(one, two)
    assert [(row["submission"], row["interval"], row["net_sharpe"]) for row in rows] == [
        ("s-1", "5", "0.25"),
        ("s-1", "20", ""),
        ("s-2", "5", ""),
        ("s-2", "20", "0.25"),
    ]
    assert rows[1]["note"] == NO_TRAINING


def test_a_submission_without_any_interval_is_a_row_too():
    (row,) = read_csv(
        ComparedSubmission(submission_id="s-1", submitted_by="ann", note="another user's")
    )

    assert (row["submission"], row["interval"], row["note"]) == ("s-1", "", "another user's")


@pytest.mark.parametrize("text", ["=1+1", "+cmd", "-2", "@x", "\t=1", "\r=1", "  =1", "\u2028=1"])
def test_no_text_is_a_formula(text):
    verdict = ComparedVerdict(event="default", verdict="better", why=text)
    (row,) = read_csv(
        ComparedSubmission(submission_id="s-1", submitted_by=text, note=text, verdicts=(verdict,))
    )

    for name in ("submitted_by", "why", "note"):
        assert row[name].startswith("'")


def test_a_text_of_several_lines_and_quotes_comes_back_whole():
    text = 'a "quoted", line\nand another'
    (row,) = read_csv(ComparedSubmission(submission_id="s-1", submitted_by="ann", note=text))

    assert row["note"] == text


def test_negative_figures_are_numbers():
    (row,) = read_csv(
        ComparedSubmission(
            submission_id="s-1",
            submitted_by="ann",
            intervals=build_intervals([build_line(metrics=dict.fromkeys(FIGURES, -0.5))], []),
        )
    )

    assert {row[name] for name in FIGURES} == {"-0.5"}
