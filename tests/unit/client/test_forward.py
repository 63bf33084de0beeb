"""What the command line tells of rows that came after the models."""

from __future__ import annotations

import io

import pytest
from rich.console import Console, RenderableType

from touchstone.client.answers import Results, ShownForward, ShownSubmission
from touchstone.client.forward import describe_forward
from touchstone.client.tables import build_facts, build_results

SCORE = {
    "task_id": "i5",
    "interval": 5,
    "data": "walk 2",
    "scored_at": "2026-11-22T12:00:00+00:00",
    "rows": 71,
    "first": "2018-02-08T00:00:00+00:00",
    "last": "2018-05-20T00:00:00+00:00",
    "metrics": {"net_sharpe": -0.5, "net_sharpe_low": None, "net_sharpe_high": None},
    "metric_notes": {"net_sharpe_low": "too few rows for an interval (71, blocks of 5)"},
}


def render(shown: RenderableType) -> str:
    file = io.StringIO()
    Console(file=file, width=200).print(shown)
    return file.getvalue()


def test_a_score_of_few_rows_says_why_it_has_no_interval() -> None:
    found = describe_forward([ShownForward.model_validate(SCORE)], None)
    assert found == {
        "after submission, i5": "71 rows from 2018-02-08 to 2018-05-20, Sharpe -0.50, 95 % "
        "interval n/a: too few rows for an interval (71, blocks of 5) (walk 2)"
    }


def test_a_figure_that_is_undefined_is_never_a_zero() -> None:
    odd = {**SCORE, "metrics": {}, "metric_notes": {"net_sharpe": "zero variance of returns"}}
    (told,) = describe_forward([ShownForward.model_validate(odd)], None).values()
    assert "Sharpe n/a: zero variance of returns, 95 % interval n/a: not computed" in told


@pytest.mark.parametrize("note", [None, "no newer version of 'walk' has been added since"])
def test_no_score_says_why_or_nothing(note: str | None) -> None:
    assert describe_forward((), note) == ({"after submission": f"n/a: {note}"} if note else {})


def test_results_and_facts_show_them_with_what_came_from_outside_cleaned() -> None:
    odd = [{**SCORE, "reason": "no rows \x1b[31myet"}, {**SCORE, "task_id": "i20"}]
    results = render(build_results(Results.model_validate({"forward": odd})))
    facts = render(
        build_facts(ShownSubmission.model_validate({"submission_id": "s-1", "forward": odd}))
    )
    for text in (results, facts):
        assert "after submission, i20" in text
        assert "\x1b" not in text
