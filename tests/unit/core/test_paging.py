from __future__ import annotations

import base64

import pytest

from touchstone.core.paging import Place
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
