"""One bad item stops no other, and is counted, told and forgotten."""

from __future__ import annotations

import json
import logging

import pytest

from touchstone.services.troubles import MOST_ITEMS, Troubles
from touchstone_agent.protocol.errors import PermanentError


class Killed(BaseException):
    """The process is to end."""


@pytest.fixture
def troubles(clock):
    return Troubles(clock)


def fail(troubles, item="a", error=None, what="place"):
    with troubles.guard(what, item):
        raise error or ValueError("odd")


def told(troubles):
    return [(t.what, t.items, t.times, t.item, t.reason) for t in troubles.summarise()]


@pytest.mark.parametrize(
    "error", [ValueError("x"), OverflowError("x"), RecursionError("x"), PermanentError("x")]
)
def test_an_error_ends_nothing_but_its_own_block(troubles, error):
    done = []
    for item in ("a", "b", "c"):
        with troubles.guard("place", item) as guard:
            if item == "b":
                raise error
            done.append(item)
        assert (guard.error is error) is (item == "b")

    assert done == ["a", "c"]


def test_whoever_ends_the_process_is_not_kept_from_it(troubles):
    with pytest.raises(Killed):
        fail(troubles, error=Killed())


def test_what_fails_is_counted_by_its_kind_with_the_last_reason(troubles):
    fail(troubles, "a")
    fail(troubles, "a")
    fail(troubles, "b", PermanentError("gone"))
    fail(troubles, ("s-1", "i5"), what="cancel")

    assert told(troubles) == [
        ("cancel", 1, 1, "s-1/i5", "ValueError('odd')"),
        ("place", 2, 3, "b", "gone"),
    ]


def test_what_was_done_after_all_is_told_no_more(troubles):
    fail(troubles, "a")
    fail(troubles, "b")
    with troubles.guard("place", "a"):
        pass

    assert [(item, times) for _, _, times, item, _ in told(troubles)] == [("b", 2)]


def test_what_was_not_met_for_a_while_is_told_no_more(troubles, clock):
    fail(troubles)
    clock.advance(minutes=11)

    assert told(troubles) == []


def test_the_same_trouble_is_logged_once_and_again_when_it_changes(troubles, caplog):
    for _ in range(100):
        fail(troubles, error=PermanentError("no queue"))
    fail(troubles, error=PermanentError("no leave"))

    assert [record.message for record in caplog.records] == [
        "could not place a: no queue",
        "could not place a: no leave",
    ]


def test_a_mistake_of_ours_is_logged_with_its_traceback_and_a_known_one_without(troubles, caplog):
    fail(troubles, "a", ValueError("x"))
    fail(troubles, "b", PermanentError("x"))

    mistake, known = caplog.records
    assert (mistake.levelno, known.levelno) == (logging.ERROR, logging.WARNING)
    assert mistake.exc_info
    assert not known.exc_info


def test_reasons_of_any_kind_can_be_published(troubles):
    fail(troubles, "\ud800", PermanentError("\ud800" * 5000 + "\n"))

    (trouble,) = troubles.summarise()
    assert len(trouble.model_dump_json().encode()) < 1500
    assert json.loads(trouble.model_dump_json())["items"] == 1


def test_a_flood_of_bad_items_does_not_fill_the_memory(troubles):
    for number in range(MOST_ITEMS + 500):
        fail(troubles, number, PermanentError("x"))

    assert told(troubles) == [("place", MOST_ITEMS, MOST_ITEMS + 500, str(MOST_ITEMS + 499), "x")]
