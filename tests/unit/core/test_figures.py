"""Stored figures of charts, read again: what makes no sense hides nothing else."""

from __future__ import annotations

import pytest

from touchstone.core.figures import MAX_POINTS, ODD, build_document, read_figures

CURVE = {"time": ["2014-01-02", "2014-01-03T00:00:00+00:00"], "value": [1.0, 1.1], "note": ""}
BIN = {"said": 0.5, "share": 0.4, "low": 0.3, "high": 0.5, "rows": 30}


def read(baseline=None, notes=None, **figures):
    return read_figures(build_document(figures, notes or {}, baseline))


def test_what_was_stored_is_read():
    band = {"low": [0.9, 0.9], "high": [1.2, 1.3], "baseline": [1.0, 1.05]}
    found = read(
        baseline="ref",
        notes={"drawdown": "none"},
        equity=CURVE | band,
        rank_correlation=CURVE | {"value": [None, 0.1], "noise": 0.2},
        calibration={"long": [BIN], "short": [], "note": "few"},
    )

    assert found.equity.value == (1.0, 1.1)
    assert found.equity.baseline == (1.0, 1.05)
    assert [when.isoformat()[:10] for when in found.equity.time] == ["2014-01-02", "2014-01-03"]
    assert found.rank_correlation.value == (None, 0.1)
    assert found.calibration.long[0].rows == 30
    assert (found.baseline, dict(found.notes)) == ("ref", {"drawdown": "none"})


@pytest.mark.parametrize(
    "odd",
    [
        None,
        [],
        {},
        CURVE | {"value": [1.0]},
        CURVE | {"low": [1.0]},
        CURVE | {"low": [], "high": []},
        CURVE | {"value": [1.0, float("inf")]},
        CURVE | {"value": [1.0, 1e300]},
        CURVE | {"time": ["2014-01-03", "2014-01-02"]},
        CURVE | {"time": ["yesterday", "2014-01-02"]},
        CURVE | {"time": ["2014-01-02"] * (MAX_POINTS + 1), "value": [1.0] * (MAX_POINTS + 1)},
    ],
)
def test_one_that_makes_no_sense_is_told_and_the_others_are_there(odd):
    found = read(equity=odd, drawdown=CURVE)

    assert found.equity is None
    assert dict(found.notes) == {"equity": ODD}
    assert found.drawdown.value == (1.0, 1.1)


@pytest.mark.parametrize(
    "document", [{}, {"figures": 7}, {"figures": [], "notes": "x", "baseline": 3}]
)
def test_a_document_of_another_kind_has_no_charts(document):
    found = read_figures(document)

    assert (found.equity, found.calibration, dict(found.notes)) == (None, None, {})
    assert found.baseline is None
