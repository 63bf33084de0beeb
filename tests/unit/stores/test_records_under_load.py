"""A table that is throttled is asked again with pauses, and not for ever."""

from __future__ import annotations

import pytest

from touchstone.settings import Settings
from touchstone.stores.records import RecordStore
from touchstone.stores.tables import MAX_RECORD_BYTES, RecordUnfit, to_item
from touchstone_agent.protocol.errors import TransientError

KEYS = [("s-1", f"i{n}") for n in range(3)]


class ThrottledClient:
    """Leaves keys unread for as many calls as it is told; counts its calls."""

    def __init__(self, table, throttled, taken=0):
        self._table, self._throttled, self._taken = table, throttled, taken
        self.calls = 0

    def batch_get_item(self, RequestItems):  # noqa: N803 - boto3's name
        keys = RequestItems[self._table]["Keys"]
        self.calls += 1
        taken = self._taken if self.calls <= self._throttled else len(keys)
        left = keys[taken:]
        answer = {"Responses": {self._table: keys[:taken]}}
        return answer | ({"UnprocessedKeys": {self._table: {"Keys": left}}} if left else {})


def make_store(throttled, **options):
    slept = []
    settings = Settings()
    client = ThrottledClient(settings.tasks_table, throttled, **options)
    return RecordStore(client, settings, sleep=slept.append), client, slept


def test_what_was_left_unread_is_read_after_a_pause():
    store, client, slept = make_store(3)

    assert list(store.find_tasks(KEYS)) == KEYS
    assert client.calls == 4
    assert len(slept) == 3
    assert slept == sorted(slept) or max(slept) < 1, "each a little longer, but for chance"


def test_a_table_that_stays_throttled_is_given_up_soon():
    """25,000 calls were made in half a second."""
    store, client, slept = make_store(10**9)

    with pytest.raises(TransientError, match="left 3 records unread"):
        store.find_tasks(KEYS)

    assert client.calls < 20
    assert sum(slept) < 30


def test_a_table_that_gives_a_little_each_time_is_not_given_up():
    store, client, _ = make_store(10**9, taken=1)
    keys = [("s-1", f"i{n}") for n in range(50)]

    assert len(store.find_tasks(keys)) == 50
    assert client.calls == 50


@pytest.mark.parametrize(
    "value",
    [10**51 + 1, 1e200, 1e-200, float("nan"), "\ud800", "x" * MAX_RECORD_BYTES, object()],
    ids=["digits", "huge", "tiny", "nan", "surrogate", "large", "object"],
)
def test_what_no_record_can_hold_is_told_before_it_is_sent(value):
    with pytest.raises(RecordUnfit):
        to_item({"submission_id": "s", "value": value})
