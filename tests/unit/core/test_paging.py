from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest

from touchstone.core.paging import Place, find_week, list_weeks
from touchstone_agent.protocol.errors import ConfigurationError

PLACE = Place("2026-01-01T10:00:00.000001+00:00", "s-1")


def test_a_place_comes_back_as_it_was() -> None:
    assert Place.from_cursor(PLACE.to_cursor()) == PLACE


def test_a_cursor_can_stand_in_an_address_as_it_is() -> None:
    assert PLACE.to_cursor().replace("-", "").replace("_", "").isalnum()


def test_the_newer_one_is_the_greater() -> None:
    later = PLACE._replace(created_at="2026-01-01T10:00:00.1+00:00", submission_id="a")
    assert PLACE < PLACE._replace(submission_id="s-2") < later


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "!!!!",
        "é",
        "A" * 10_000,
        base64.urlsafe_b64encode(b"yesterday s-1").decode(),
        base64.urlsafe_b64encode(b"2026-01-01").decode(),
        base64.urlsafe_b64encode(b"2026-01-01 a b").decode(),
        base64.urlsafe_b64encode(b"\xff\xfe").decode(),
    ],
    ids=lambda text: text[:20],
)
def test_what_is_no_cursor_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^cursor: "):
        Place.from_cursor(text)


@pytest.mark.parametrize(
    ("moment", "week"),
    [
        ("2026-11-30T00:00:00+00:00", "2026-11-30"),
        ("2026-12-06T23:59:59.999999+00:00", "2026-11-30"),
        ("2027-01-01T12:00:00+00:00", "2026-12-28"),
        ("0001-01-01", "0001-01-01"),
        ("20261130T00:00:00", None),
        ("", None),
        ("yesterday", None),
        ("2026-02-30T00:00:00", None),
    ],
)
def test_a_week_is_named_by_its_monday(moment, week):
    assert find_week(moment) == week


@pytest.mark.parametrize(
    ("before", "weeks"),
    [
        (None, ["2026-12-07", "2026-11-30", "2026-11-23"]),
        ("2026-12-06T20:00:00+00:00", ["2026-11-30", "2026-11-23", "2026-11-16"]),
        ("2020-02-29T00:00:00+00:00", ["2020-02-24", "2020-02-17", "2020-02-10"]),
        ("0001-01-09T00:00:00+00:00", ["0001-01-08", "0001-01-01"]),
        ("9999-12-31T00:00:00+00:00", ["2026-12-07", "2026-11-30", "2026-11-23"]),
        ("20200101", ["2026-12-07", "2026-11-30", "2026-11-23"]),
    ],
)
def test_a_list_begins_in_the_week_of_tomorrow_or_where_a_page_ended(before, weeks):
    sunday = datetime(2026, 12, 6, 20, tzinfo=UTC)
    assert list_weeks(sunday, before) == weeks
