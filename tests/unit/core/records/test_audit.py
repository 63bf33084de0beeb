"""Where acts stand in the audit, and which of a record's are new."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from touchstone.core.records.actions import Action
from touchstone.core.records.audit import (
    AUDIT,
    Door,
    SubjectKind,
    build_entries,
    build_place,
    find_new_actions,
)

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def build_action(**changes):
    return Action(**({"at": NOW, "by": "ann", "action": "retracted"} | changes))


def find_entry(**changes):
    place = build_place(SubjectKind.SUBMISSION, "s-1", build_action(**changes))
    return " ".join(place)


@pytest.mark.parametrize(
    "earlier",
    [
        NOW - timedelta(microseconds=1),
        NOW - timedelta(seconds=1),
        (NOW - timedelta(minutes=1)).astimezone(timezone(timedelta(hours=14))),
        NOW.replace(year=999),
    ],
)
def test_places_sort_like_times_whatever_the_zone_and_the_fraction(earlier):
    assert find_entry(at=earlier) < find_entry()


def test_the_same_act_has_the_same_place_and_another_one_of_that_moment_has_not():
    assert find_entry() == find_entry()
    others = {find_entry(by="bob"), find_entry(action="cancelled"), find_entry(act="x1")}
    assert len(others | {find_entry()}) == 4
    of_another = build_place(SubjectKind.SUBMISSION, "s-2", build_action())
    assert " ".join(of_another) != find_entry()


def test_an_act_stands_among_all_and_among_those_on_its_subject():
    entries = build_entries(SubjectKind.SERVER, "rio", [build_action()], Door.CLI)

    assert [each.event for each in entries] == [AUDIT, f"{AUDIT}:server:rio"]
    assert {each.door for each in entries} == {"CLI"}


def test_one_that_is_told_twice_is_one_act():
    assert len(build_entries(SubjectKind.EVENT, "x", [build_action()] * 2, Door.API)) == 2


def test_what_airflows_log_tells_of_came_in_there():
    (entry, _) = build_entries(SubjectKind.SUBMISSION, "s-1", [build_action(act="x1")], Door.HOST)

    assert entry.door == "Airflow"


def test_an_act_that_stands_there_in_another_form_is_not_new():
    plain = build_action().dump()
    before = [plain | {"at": "2026-03-01T12:00:00"}]

    assert find_new_actions(before, [plain, build_action(by="bob").dump()]) == [
        build_action(by="bob")
    ]


@pytest.mark.parametrize("odd", [None, "x", 5, {}, [5], [None]])
def test_a_record_without_acts_has_none(odd):
    assert find_new_actions(odd, odd) == []
