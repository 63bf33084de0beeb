"""The rows of a judged training, beside its record."""

from __future__ import annotations

import hashlib

import pytest

from fakes.stores import FakeObjectStore
from touchstone.core.records.judged import Judged, JudgedSeries, JudgedStatus
from touchstone.core.records.stored import RecordUnreadable
from touchstone.core.records.tasks import Published
from touchstone.stores.objects import ObjectNotFound
from touchstone.stores.parts import Parts, read_series
from touchstone_agent.protocol.messages import AttemptRef

REF = AttemptRef(submission_id="s-1", task_id="i5", attempt=1, fence=3)
TIMES = ("2014-01-02T00:00:00+00:00", "2014-01-03T00:00:00+00:00")


def build_series() -> JudgedSeries:
    return JudgedSeries(
        time=TIMES, net=(0.001, -0.1 / 3), market=(0.002, 0.03), score=(0.25, -1e-17)
    )


def build_judged(parts: Parts) -> Judged:
    series = build_series()
    return Judged(
        status=JudgedStatus.JUDGED,
        metrics={"net_sharpe": 0.5},
        rows=2,
        rows_digest=series.rows_digest,
        series=parts.put_series(REF, series),
    )


@pytest.fixture
def parts() -> Parts:
    return Parts(FakeObjectStore(), "content")


def test_a_series_comes_back_bit_by_bit(parts):
    judged = build_judged(parts)

    assert judged.series.key.startswith("records/judged/s-1/i5/1-3/")
    assert read_series(parts, judged) == build_series()
    assert judged.rows_digest == hashlib.sha256("\n".join(TIMES).encode()).hexdigest()


def test_what_is_judged_survives_its_record(parts):
    published = Published(judged=build_judged(parts))

    assert Published.load(published.dump()).judged == published.judged


def test_a_record_from_before_says_nothing_of_a_judge():
    assert Published.load({"metrics": {"net_sharpe": 0.5}}).judged is None


def test_what_is_not_judged_has_no_series_and_says_why(parts):
    judged = Judged(status=JudgedStatus.NOT_JUDGED, reason="other rows")

    with pytest.raises(RecordUnreadable, match="other rows"):
        read_series(parts, judged)


def test_rows_that_are_not_those_on_record_are_not_read(parts):
    judged = build_judged(parts).change(rows_digest="0" * 64)

    with pytest.raises(RecordUnreadable, match="not those on record"):
        read_series(parts, judged)


def test_a_series_that_is_gone_is_told(parts):
    judged = build_judged(parts)

    with pytest.raises(ObjectNotFound):
        read_series(Parts(FakeObjectStore(), "content"), judged)


@pytest.mark.parametrize(
    "change",
    [{"net": [0.1]}, {"score": [0.1, float("nan")]}, {"time": ["a"]}, {"market": None}],
    ids=["short", "not finite", "other length", "none"],
)
def test_a_series_that_makes_no_sense_is_not_read(change):
    with pytest.raises(RecordUnreadable, match="judged series"):
        JudgedSeries.load({**build_series().model_dump(mode="json"), **change})
