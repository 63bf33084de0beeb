"""Acts are written with what they change, or neither is; and they are read page by page."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from botocore.exceptions import ClientError

from fakes.servers import store_server
from fakes.stores import FakeRecordStore
from fakes.submissions import build_submission
from touchstone.core.records.actions import MAX_ACTIONS, Action
from touchstone.core.records.audit import AUDIT, Door, SubjectKind
from touchstone.core.records.notes import Letters
from touchstone.services.control import set_paused
from touchstone.settings import Settings
from touchstone.stores.audit import AuditStore
from touchstone.stores.records import RecordStore
from touchstone.stores.tables import RecordExists, to_item
from touchstone_agent.protocol.errors import PermanentError, TransientError

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SETTINGS = Settings()


@pytest.fixture
def records():
    return FakeRecordStore(SETTINGS)


@pytest.fixture
def audit(records):
    return AuditStore(records, SETTINGS.events_table)


def act(records, submission_id="s-1", *, at=NOW, action="retracted", by="ann"):
    records.change_submission(
        submission_id, lambda found: found.note_action(at=at, by=by, action=action)
    )


def tell(page):
    return [(each.kind, each.name, each.by, each.door, each.action) for each in page.entries]


def test_a_change_by_somebody_is_in_the_audit_and_one_by_nobody_is_not(records, audit):
    records.create_submission(build_submission("s-1"))
    records.change_submission("s-1", lambda found: found.change(notes="x"))
    assert tell(audit.list_newest(limit=9)) == []

    act(records.through(Door.PAGE))

    told = [("submission", "s-1", "ann", "page", "retracted")]
    assert tell(audit.list_newest(limit=9)) == told
    assert tell(audit.list_newest(limit=9, kind=SubjectKind.SUBMISSION, name="s-1")) == told
    assert tell(audit.list_newest(limit=9, kind=SubjectKind.SUBMISSION, name="s-2")) == []


def test_a_new_record_brings_its_acts_along(records, audit):
    action = Action(at=NOW, by="ann", action="submitted")
    records.through(Door.AIRFLOW).create_submission(
        build_submission("s-1", actions=[action.dump()])
    )

    assert tell(audit.list_newest(limit=9)) == [
        ("submission", "s-1", "ann", "Airflow", "submitted")
    ]


def test_the_installation_and_servers_are_told_apart_and_other_notes_have_no_acts(records, audit):
    set_paused(records, paused=True, by="chief", reason="move", now=NOW)
    store_server(records, {"server": "rio"})
    records.change_server(
        "rio",
        lambda found: found.change(
            actions=(Action(at=NOW + timedelta(seconds=1), by="chief", action="drain"),)
        ),
    )
    records.put_note(Letters(queues={"evt": 2}))

    assert tell(audit.list_newest(limit=9)) == [
        ("server", "rio", "chief", "control plane", "drain"),
        ("installation", "", "chief", "control plane", "pause: move"),
    ]


def test_a_record_forgets_its_oldest_acts_and_the_audit_does_not(records, audit):
    records.create_submission(build_submission("s-1"))
    for number in range(MAX_ACTIONS + 5):
        act(records, at=NOW + timedelta(seconds=number), action=f"act {number}")

    assert len(records.get_submission("s-1").actions) == MAX_ACTIONS
    page = audit.list_newest(limit=500, kind=SubjectKind.SUBMISSION, name="s-1")
    assert len(page.entries) == MAX_ACTIONS + 5


def test_pages_follow_each_other_without_gap_or_repetition(records, audit):
    records.create_submission(build_submission("s-1"))
    for number in range(7):
        # Three of a moment.
        act(records, at=NOW + timedelta(seconds=number // 3), action=f"act {number}")

    seen, before = [], None
    while True:
        page = audit.list_newest(limit=2, before=before)
        seen += page.entries
        before = page.next
        if before is None:
            break

    assert sorted(each.action for each in seen) == [f"act {number}" for number in range(7)]
    assert [each.at for each in seen] == sorted((each.at for each in seen), reverse=True)


def test_an_entry_that_makes_no_sense_hides_no_other(records, audit):
    records.create_submission(build_submission("s-1"))
    act(records)
    records.put_stored(SETTINGS.events_table, {"event": AUDIT, "entry": "odd", "by": 5})

    page = audit.list_newest(limit=9)

    assert (len(page.entries), page.unreadable) == (1, 1)


def test_what_a_record_has_from_before_the_audit_is_found(records, audit):
    old = [Action(at=NOW - timedelta(days=n), by="ann", action=f"old {n}") for n in (2, 1)]
    stored = build_submission("s-1", actions=[each.dump() for each in old]).dump()
    records.put_stored(SETTINGS.submissions_table, stored)
    act(records)

    actions = records.get_submission("s-1").actions

    assert len(actions) == 3
    found = audit.find_earlier(SubjectKind.SUBMISSION, "s-1", actions)
    assert [each.action for each in found] == ["old 1", "old 2"]
    assert len(tell(audit.list_newest(limit=9))) == 1, "the old ones are not written anew"


# --- on the wire ---------------------------------------------------------------------------------


class Wire:
    """A DynamoDB client that fails in turn as it is told, and remembers what was asked of it."""

    def __init__(self, stored, *errors):
        self._stored, self._errors = stored, list(errors)
        self.transactions, self.puts = [], []

    def get_item(self, **_request):
        return {"Item": to_item(self._stored)}

    def put_item(self, **request):
        self.puts.append(request)
        self._fail()

    def transact_write_items(self, *, TransactItems):  # noqa: N803 - boto3's name
        self.transactions.append([each["Put"] for each in TransactItems])
        self._fail()

    def _fail(self):
        if self._errors:
            raise self._errors.pop(0)


def cancelled(*codes):
    reasons = [{"Code": code} for code in codes]
    response = {
        "Error": {"Code": "TransactionCanceledException", "Message": "cancelled"},
        "CancellationReasons": reasons,
    }
    return ClientError(response, "TransactWriteItems")


def refused(code):
    return ClientError({"Error": {"Code": code, "Message": code}}, "PutItem")


def connect(*errors):
    stored = build_submission("s-1").dump() | {"version": 4}
    wire = Wire(stored, *errors)
    return RecordStore(wire, SETTINGS, sleep=lambda _: None), wire


def test_an_act_is_written_in_one_transaction_with_the_change_it_is_of():
    records, wire = connect()
    act(records)

    ((change, *entries),) = wire.transactions
    assert wire.puts == []
    assert change["TableName"] == SETTINGS.submissions_table
    assert change["ExpressionAttributeValues"] == {":version": {"N": "4"}}
    assert [each["Item"]["event"]["S"] for each in entries] == [AUDIT, f"{AUDIT}:submission:s-1"]


def test_as_many_acts_at_once_as_a_record_keeps_are_all_in_the_audit():
    """Airflow's log is read later, and a transaction takes 100 writes."""
    records, wire = connect()

    def note_all(found):
        for number in range(MAX_ACTIONS):
            at = NOW + timedelta(seconds=number)
            found = found.note_action(at=at, by="ann", action=f"act {number}")
        return found

    records.change_submission("s-1", note_all)

    ((change, *entries),) = wire.transactions
    assert change["TableName"] == SETTINGS.submissions_table
    assert len(entries) + 1 == 100
    written = [each["Item"] for each in (*wire.puts, *entries)]
    places = {(each["event"]["S"], each["entry"]["S"]) for each in written}
    assert len(places) == len(written) == 2 * MAX_ACTIONS


def test_a_change_without_an_act_costs_what_it_always_has():
    records, wire = connect()
    records.change_submission("s-1", lambda found: found.change(notes="x"))

    assert (len(wire.puts), wire.transactions) == (1, [])


@pytest.mark.parametrize(
    "error",
    [
        cancelled("ConditionalCheckFailed", "None", "None"),
        cancelled("None", "TransactionConflict", "None"),
        cancelled("ThrottlingError", "None", "None"),
        refused("TransactionConflictException"),
    ],
)
def test_who_was_at_the_same_record_is_waited_for(error):
    records, wire = connect(error)
    act(records)

    assert len(wire.transactions) == 2


def test_a_record_that_is_there_is_not_created_again_and_no_act_is_written():
    records, _ = connect(cancelled("ConditionalCheckFailed", "None", "None"))
    action = Action(at=NOW, by="ann", action="submitted")

    with pytest.raises(RecordExists):
        records.create_submission(build_submission("s-1", actions=[action.dump()]))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (cancelled("None", "ValidationError", "None"), PermanentError),
        (cancelled("None", "ValidationError", "TransactionConflict"), PermanentError),
        (refused("ResourceNotFoundException"), PermanentError),
        (refused("ThrottlingException"), TransientError),
    ],
)
def test_what_cannot_be_in_the_audit_is_not_done(error, kind):
    records, wire = connect(error)

    with pytest.raises(kind):
        act(records)
    assert len(wire.transactions) == 1


def test_a_record_that_others_always_write_is_given_up():
    records, wire = connect(*[cancelled("TransactionConflict", "None", "None")] * 99)

    with pytest.raises(TransientError, match="in a row"):
        act(records)
    assert len(wire.transactions) < 20
