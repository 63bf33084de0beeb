from __future__ import annotations

from datetime import UTC, datetime

import pytest

from touchstone.core.records.stored import read_time


@pytest.mark.parametrize(
    "text", ["2026-01-01T12:00:00+00:00", "2026-01-01T13:00:00+01:00", "2026-01-01T12:00:00"]
)
def test_a_time_of_a_record_can_be_compared_whether_it_has_a_zone_or_not(text):
    assert read_time(text) == datetime(2026, 1, 1, 12, tzinfo=UTC)


def test_what_is_no_time_is_refused():
    with pytest.raises(ValueError, match="yesterday"):
        read_time("yesterday")
