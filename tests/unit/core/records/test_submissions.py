"""Submissions and evaluations as the version before wrote them are read, changed and written."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from fakes.stores import FakeRecordStore
from fakes.submissions import build_submission
from touchstone.core.records.evaluations import Evaluation
from touchstone.core.records.stored import RecordUnreadable, set_all
from touchstone.core.records.submissions import OpenSubmission, Submission, SubmissionSummary
from touchstone.core.schedule import Schedule, rename_fields
from touchstone.core.states import SubmissionStatus
from touchstone.core.tasks import TaskSpec
from touchstone.services.starts import mark_running
from touchstone.settings import Settings
from touchstone.stores.tables import VERSION
from touchstone.ui.queries import show_submission

FOLDER = Path(__file__).parent / "stored"
SUBMISSIONS: dict[str, dict[str, Any]] = json.loads((FOLDER / "submissions.json").read_text())
EVALUATIONS: dict[str, dict[str, Any]] = json.loads((FOLDER / "evaluations.json").read_text())
INDEX_KEYS = ("status", "submitted_by", "created_at", "model_group_id")
NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
TABLE = Settings().submissions_table


def to_text(value: object) -> str:
    """Return a value byte for byte as it is shown: 1 and 1.0 are not the same."""
    return json.dumps(value, sort_keys=True)


@pytest.fixture
def records() -> FakeRecordStore:
    return FakeRecordStore()


@pytest.fixture(params=SUBMISSIONS)
def stored(request, records: FakeRecordStore) -> dict[str, Any]:
    """A submission on record; it has a field, and a part of one, that only tomorrow knows."""
    stored = SUBMISSIONS[request.param] | {"of_tomorrow": {"figures": [1, 2.5, None]}}
    stored["actions"] = [each | {"of_tomorrow": 1} for each in stored["actions"]]
    records.put_stored(TABLE, stored)
    return stored


def test_there_is_a_sample_of_each_status_and_kind() -> None:
    found = SUBMISSIONS.values()
    assert {each["status"] for each in found} == set(SubmissionStatus)
    assert any(each.get("replay_of") for each in found)
    assert any((each.get("schedule") or {}).get("budget") for each in found)
    assert any(each.get("cancel") for each in found)
    assert any(each.get("is_run_anew") for each in found)


def test_a_submission_is_read_and_shown_as_it_is_stored(records, stored) -> None:
    found = records.get_submission(stored["submission_id"])

    shown = {name: value for name, value in stored.items() if name != VERSION}
    told = show_submission(found)
    if shown.get("schedule"):
        # Of the form's fields two had another name.
        shown["schedule"] = rename_fields(shown["schedule"])
    if shown.get("replay_spec"):
        # The version before had each field of the schedule in it.
        assert found.replay_spec == TaskSpec.model_validate(shown.pop("replay_spec"))
        assert told.pop("replay_spec")["submission_id"] == found.replay_spec.submission_id
    assert to_text(told) == to_text(shown)


def test_a_list_shows_of_a_submission_what_it_always_has(records, stored) -> None:
    (found,) = records.list_submissions(limit=1, model=SubmissionSummary).records

    names = SubmissionSummary.model_fields
    assert to_text(found.dump()) == to_text({name: stored.get(name) for name in names})


CHANGES: dict[str, tuple[Callable[[Submission], Submission], set[str]]] = {
    "a text": (lambda found: found.change(notes="other"), {"notes"}),
    "an action": (lambda found: found.note_action(at=NOW, by="ann", action="x"), {"actions"}),
    "a run": (lambda found: found.change(run_ids=found.take_up("run-9")), {"run_ids"}),
    "a time and a figure": (
        lambda found: found.change(retracted_at=NOW, score_low=0.5),
        {"retracted_at", "score_low"},
    ),
}


@pytest.mark.parametrize(("change", "names"), CHANGES.values(), ids=CHANGES)
def test_a_change_writes_what_has_changed_and_nothing_else(records, stored, change, names) -> None:
    before = records.get_stored(TABLE, stored["submission_id"])

    records.change_submission(stored["submission_id"], change)

    after = records.get_stored(TABLE, stored["submission_id"])
    changed = {name for name in after if to_text(after[name]) != to_text(before.get(name))}
    assert changed == names | {VERSION}
    assert before.keys() <= after.keys()
    assert after[VERSION] == before[VERSION] + 1
    kept = after["actions"][: len(before["actions"])]
    assert to_text(kept) == to_text(before["actions"])


def test_what_changes_nothing_writes_nothing(records, stored) -> None:
    before = records.get_stored(TABLE, stored["submission_id"])

    for nothing in (
        lambda _: None,
        lambda found: found,
        lambda found: found.change(status=found.status, run_ids=found.run_ids),
    ):
        records.change_submission(stored["submission_id"], nothing)

    assert to_text(records.get_stored(TABLE, stored["submission_id"])) == to_text(before)


def test_a_cancelled_submission_that_trains_again_has_nulls_where_it_always_had(records) -> None:
    records.put_stored(TABLE, SUBMISSIONS["cancelled"])

    mark_running(records, "cancelled")

    after = records.get_stored(TABLE, "cancelled")
    nulls = {"cancel": None, "ended_at": None, "reason": None}
    assert after == SUBMISSIONS["cancelled"] | nulls | {
        "status": "running",
        VERSION: SUBMISSIONS["cancelled"][VERSION] + 1,
    }


def test_what_is_made_anew_is_stored_with_what_was_set_and_no_null_beside_it() -> None:
    made = Submission(
        submission_id="s-1", status=SubmissionStatus.REJECTED, submitted_by="ann", created_at=NOW
    )
    assert made.dump() == {
        "submission_id": "s-1",
        "status": "rejected",
        "submitted_by": "ann",
        "created_at": "2026-11-30T12:00:00+00:00",
    }


def test_a_schedule_is_stored_with_its_defaults() -> None:
    """What a default is may change: what was trained with may not."""
    schedule = Schedule(intervals=(5,))
    made = build_submission().change(schedule=set_all(schedule))
    assert made.dump()["schedule"] == schedule.model_dump(mode="json")


@pytest.mark.parametrize("name", INDEX_KEYS[:3])
def test_the_key_of_an_index_is_never_null(name) -> None:
    with pytest.raises(ValidationError, match=name):
        build_submission().change(**{name: None})


def test_a_field_that_there_is_not_is_not_written() -> None:
    with pytest.raises(TypeError, match="no field 'statsu'"):
        build_submission().change(statsu="queued")


# --- records that make no sense -----------------------------------------------------------------

ODD = [
    ({"status": "unheard of"}, "s-1: submission record: status: "),
    ({"created_at": "yesterday"}, "s-1: submission record: created_at: "),
    ({"submitted_by": None}, "s-1: submission record: submitted_by: "),
    ({"schedule": {"intervals": [0]}}, "s-1: submission record: schedule.intervals: "),
    ({"schedule": {"intervals": [5], "sauce": 1}}, "s-1: submission record: schedule.sauce: "),
    ({"cancel": {"reason": "x"}}, "s-1: submission record: cancel.by: "),
    ({"actions": "x"}, "s-1: submission record: actions: "),
]


@pytest.mark.parametrize(("odd", "told"), ODD)
def test_a_submission_that_makes_no_sense_is_told_by_its_field_and_not_touched(
    records, odd, told
) -> None:
    records.put_stored(TABLE, build_submission().dump() | {"run_ids": ["s-1"], **odd})
    before = records.get_stored(TABLE, "s-1")

    for step in (
        lambda: records.get_submission("s-1"),
        lambda: records.find_submission("s-1"),
        lambda: records.change_submission("s-1", lambda found: found.change(notes="x")),
        lambda: mark_running(records, "s-1"),
    ):
        with pytest.raises(RecordUnreadable, match=f"^{told}"):
            step()

    assert records.get_stored(TABLE, "s-1") == before


def test_open_submissions_are_listed_whatever_another_ones_record_says(records) -> None:
    records.create_submission(build_submission("s-1", status="running"))
    odd = build_submission("s-2", status="running").dump() | {"cancel": {"by": ["x"]}}
    records.put_stored(TABLE, odd)
    records.create_submission(build_submission("s-3", status="success"))

    for model in (OpenSubmission, Submission):
        found = records.list_open_submissions(model)
        assert [each.submission_id for each in found.records] == ["s-1"]
        assert list(found.unreadable) == ["s-2"]
        assert "s-2: " in str(found.unreadable["s-2"])
        assert "record: cancel.by: " in str(found.unreadable["s-2"])


# --- evaluations --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVALUATIONS)
def test_an_evaluation_is_read_and_written_as_it_is_stored(records, name) -> None:
    table = Settings().evaluations_table
    stored = EVALUATIONS[name] | {"verdict": {"of": "tomorrow", "p": 0.25}}
    records.put_stored(table, stored)

    (found,) = records.list_evaluations(stored["model_group_id"])
    assert found.metrics == stored["metrics"]
    assert found.created_at.isoformat() == stored["created_at"]
    assert records.put_evaluation(found)

    assert to_text(records.get_stored(table, stored["model_id"])) == to_text(stored)


def test_the_evaluations_of_a_group_are_not_judged_without_one_of_them(records) -> None:
    good = EVALUATIONS["with all figures"]
    table = Settings().evaluations_table
    records.put_stored(table, good)
    records.put_stored(table, good | {"model_id": "odd", "metrics": {"net_sharpe": "much"}})

    with pytest.raises(RecordUnreadable, match=r"^odd: evaluation record: metrics\.net_sharpe"):
        records.list_evaluations(good["model_group_id"])


def test_an_evaluation_of_no_group_is_none() -> None:
    stored = EVALUATIONS["with all figures"] | {"model_group_id": None}
    with pytest.raises(RecordUnreadable, match="model_group_id"):
        Evaluation.load(stored)
