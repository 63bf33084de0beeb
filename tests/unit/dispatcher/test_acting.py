"""How what people do in Airflow comes onto the records of the submissions."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from touchstone.airflow_db.acts import Entry
from touchstone.core.acts import Act
from touchstone.core.records.actions import MAX_ACTIONS
from touchstone.core.records.notes import Cursor
from touchstone.dispatcher.acting import ANSWER, BATCH, SETTLE, Chronicler
from touchstone.services.control import read_control
from touchstone_agent.protocol.errors import PermanentError, TransientError


class FakeLog:
    """Airflow's log in memory."""

    def __init__(self, clock):
        self._clock = clock
        self.entries = []

    def add(self, words="cleared train", *, by="op", run_id="s-1", status=200, **fields):
        is_deletion = fields.pop("is_deletion", False)
        entry = Entry(
            id=len(self.entries) + 1,
            uid=f"uid-{len(self.entries) + 1}",
            at=self._clock(),
            by=by,
            act=Act(words=words, run_id=run_id, is_deletion=is_deletion),
            status=status,
            **fields,
        )
        self.entries.append(entry)
        return entry

    def answer(self, number, status):
        self.entries[number] = replace(self.entries[number], status=status)

    def read_entries(self, *, after, before, limit):
        found = [entry for entry in self.entries if entry.id > after and entry.at < before]
        return found[:limit]

    def find_last_id(self):
        return max((entry.id for entry in self.entries), default=0)


@pytest.fixture
def log(clock):
    return FakeLog(clock)


@pytest.fixture
def make_chronicler(log, records, clock):
    def make():
        return Chronicler(airflow=log, records=records, clock=clock)

    return make


@pytest.fixture
def chronicler(make_chronicler, make_submission):
    """One that has started before anything was done."""
    make_submission("running", submitted_by="ann", run_ids=["s-1", "manual__2"])
    made = make_chronicler()
    made.run()
    return made


@pytest.fixture
def actions(records):
    def read():
        found = records.get_submission("s-1").actions
        return [(action.by, action.action) for action in found]

    return read


def settle(clock):
    clock.advance(seconds=SETTLE.total_seconds() + 1)


def test_what_was_done_to_a_run_is_on_the_submissions_record(chronicler, log, clock, records):
    entry = log.add("cleared train[2]")
    settle(clock)

    chronicler.run()

    (action,) = records.get_submission("s-1").actions
    assert (action.by, action.action) == ("op", "cleared train[2] in Airflow")
    assert action.at == entry.at


def test_a_run_of_any_id_is_known_by_what_its_conf_named(chronicler, log, clock, actions):
    log.add(run_id="manual__2", named="s-1")
    settle(clock)

    chronicler.run()

    assert actions() == [("op", "cleared train in Airflow")]


@pytest.mark.parametrize(
    ("run_id", "named"),
    [
        ("s-1--7", None),
        ("manual__9", "s-1"),
        ("nobody", None),
        ("s-1", "other"),
        ("s-1", ["s-1"]),
        ("S-1", None),
    ],
)
def test_what_is_done_to_runs_that_the_record_does_not_name_is_not_on_it(
    chronicler, log, clock, actions, run_id, named
):
    log.add(run_id=run_id, named=named)
    settle(clock)

    chronicler.run()

    assert actions() == []


def test_what_concerns_no_run_is_on_the_installations_record(chronicler, log, clock, records):
    log.add("paused the DAG touchstone", run_id=None)
    settle(clock)

    chronicler.run()
    chronicler.run()

    (action,) = read_control(records).actions
    assert action.action == "paused the DAG touchstone in Airflow"
    assert read_control(records).is_paused is False


@pytest.mark.parametrize("status", [400, 403, 404, 409, 422, 500])
def test_what_was_refused_is_not_told(chronicler, log, clock, actions, status):
    log.add(status=status)
    settle(clock)

    chronicler.run()

    assert actions() == []


def test_an_answer_is_waited_for_before_anything_is_told(chronicler, log, clock, actions):
    log.add("marked the run failed", status=None)
    log.add("cleared train")
    settle(clock)
    chronicler.run()
    assert actions() == []

    log.answer(0, 403)
    chronicler.run()

    assert actions() == [("op", "cleared train in Airflow")]


def test_what_was_never_answered_is_told_as_that(chronicler, log, clock, actions):
    """The api-server died in the middle of it."""
    log.add("marked the run failed", status=None)
    clock.advance(seconds=ANSWER.total_seconds())

    chronicler.run()

    ((_, told),) = actions()
    assert told.startswith("asked Airflow for this, and nobody knows what came of it: marked")


def test_nothing_is_told_twice_by_however_many_and_whenever_they_die(
    chronicler, make_chronicler, log, clock, actions, records, monkeypatch
):
    log.add("cleared plan")
    log.add("cleared train")
    settle(clock)
    with monkeypatch.context() as dying:
        dying.setattr(records, "change_note", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            chronicler.run()

    for _ in range(2):
        for each in (chronicler, make_chronicler()):
            each.run()

    assert [told for _, told in actions()] == [
        "cleared plan in Airflow",
        "cleared train in Airflow",
    ]


def test_what_was_done_before_the_first_start_is_history(
    make_chronicler, make_submission, log, clock, actions
):
    make_submission("running")
    log.add()
    settle(clock)
    chronicler = make_chronicler()
    chronicler.run()
    log.add("marked the run failed")
    settle(clock)

    chronicler.run()

    assert actions() == [("op", "marked the run failed in Airflow")]


def test_what_was_done_while_no_dispatcher_ran_is_caught_up(
    chronicler, make_chronicler, log, clock, records, actions
):
    for number in range(BATCH * 2 + 5):
        log.add(f"cleared {number}")
    settle(clock)

    make_chronicler().run()

    assert len(actions()) == MAX_ACTIONS
    assert actions()[-1][1] == f"cleared {BATCH * 2 + 4} in Airflow"
    assert records.find_note(Cursor).after == BATCH * 2 + 5


def test_a_log_that_begins_anew_is_read_from_its_beginning(
    chronicler, log, clock, records, actions
):
    """Airflow's database was made anew; the place in the old one was far behind its end."""
    records.put_note(Cursor(after=5000))
    log.add()
    settle(clock)

    chronicler.run()

    assert actions() == [("op", "cleared train in Airflow")]


def test_an_entry_that_no_record_takes_holds_up_no_other(
    chronicler, log, clock, actions, records, monkeypatch
):
    change = records.change_submission

    def refuse(submission_id, decide):
        def decide_once(found):
            changed = decide(found)
            if changed and "odd" in changed.actions[-1].action:
                raise PermanentError("the record is too large")
            return changed

        return change(submission_id, decide_once)

    monkeypatch.setattr(records, "change_submission", refuse)
    log.add("odd")
    log.add("cleared train")
    settle(clock)

    chronicler.run()

    assert actions() == [("op", "cleared train in Airflow")]
    assert records.find_note(Cursor).after == 2


def test_a_store_that_is_away_is_asked_again(chronicler, log, clock, actions, records, monkeypatch):
    def fail(*_):
        raise TransientError("the store is away")

    log.add()
    settle(clock)
    with monkeypatch.context() as away:
        away.setattr(records, "change_submission", fail)
        with pytest.raises(TransientError):
            chronicler.run()

    chronicler.run()

    assert actions() == [("op", "cleared train in Airflow")]


@pytest.mark.parametrize(
    ("fields", "is_cancelled"),
    [
        ({"run_id": "manual__2", "named": "s-1"}, True),
        ({"run_id": "manual__2", "named": "s-1", "status": 409}, False),
        ({"run_id": "manual__2", "named": "s-1", "status": None}, False),
        ({"run_id": "s-1"}, False),
    ],
    ids=["the run at work", "refused", "without an answer", "an older run"],
)
def test_a_run_that_is_deleted_while_it_is_at_work_is_cancelled(
    chronicler, log, clock, records, fields, is_cancelled
):
    """Nobody would have closed its submission: there was no run any more that could end."""
    log.add("deleted the run", is_deletion=True, **fields)
    clock.advance(seconds=ANSWER.total_seconds())

    chronicler.run()

    cancel = records.get_submission("s-1").cancel
    assert bool(cancel) is is_cancelled
    if cancel:
        assert (cancel.by, cancel.reason) == ("op", "its DAG run was deleted by op")


def test_a_run_that_is_deleted_after_its_end_changes_nothing_but_the_record(
    chronicler, log, clock, records, actions
):
    records.change_submission("s-1", lambda found: found.change(status="success"))
    log.add("deleted the run", is_deletion=True, run_id="manual__2", named="s-1")
    settle(clock)

    chronicler.run()

    assert records.get_submission("s-1").cancel is None
    assert actions() == [("op", "deleted the run in Airflow")]


def test_what_is_just_being_written_is_left_for_the_next_look(chronicler, log, clock, actions):
    """One that was written earlier may become visible later."""
    log.add()
    clock.advance(seconds=SETTLE.total_seconds())

    chronicler.run()
    assert actions() == []

    clock.now += timedelta(seconds=1)
    chronicler.run()
    assert len(actions()) == 1
