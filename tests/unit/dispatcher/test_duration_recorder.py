"""What is learnt from records: how long tasks take, and how good estimates were."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest

from fakes.tasks import build_spec
from touchstone.core.durations import DEFAULTS, ErrorLog, History, describe_task
from touchstone.core.records.tasks import EndedTask, TaskEntry
from touchstone.dispatcher.duration_recorder import DurationRecorder
from touchstone.services.troubles import Troubles
from touchstone_agent.protocol.messages import SlotClass

DEFAULT = DEFAULTS[SlotClass.TRAINING]


@pytest.fixture
def history():
    return History()


@pytest.fixture
def errors():
    return ErrorLog()


@pytest.fixture
def recorder(history, errors):
    return DurationRecorder(history=history, errors=errors)


@pytest.fixture
def make_record(clock):
    """A training that ran a while, after a wait that was estimated."""

    def make(
        seconds=60, *, fence=1, task_id="i5", outcome="succeeded", waited=None, late=0, **changes
    ):
        began = clock() + timedelta(seconds=late)
        estimate = waited and {
            "made_at": (clock() - timedelta(seconds=waited)).isoformat(),
            "p50": clock().isoformat(),
            "p90": (clock() + timedelta(seconds=waited)).isoformat(),
            "stretch": 1.0,
        }
        stored = {
            "submission_id": "s-1",
            "task_id": task_id,
            "fence": fence,
            "config": build_spec(task_id=task_id).model_dump(mode="json"),
            "running_at": began.isoformat(),
            "exited_at": (began + timedelta(seconds=seconds)).isoformat(),
            "outcome": outcome,
            "placement": {"server": "rio", "estimate": estimate},
            **changes,
        }
        return EndedTask.load(stored)

    return make


def list_as_entry(task):
    return TaskEntry.parse(task.dump(), EndedTask)


def test_like_tasks_are_expected_to_take_as_long_as_those_that_ended(
    recorder, history, make_record
):
    for fence in range(1, 6):
        recorder.learn(make_record(60 + fence, fence=fence))

    assert history.expect(describe_task(make_record().spec)).p50_seconds == 63


@pytest.mark.parametrize(
    "changes",
    [
        {"outcome": "failed(user)"},
        {"outcome": "lost"},
        {"outcome": None, "exited_at": None},
        {"running_at": None},
    ],
    ids=str,
)
def test_only_what_ended_well_tells_how_long_tasks_take(recorder, history, make_record, changes):
    recorder.learn(make_record(1, **changes))

    assert history.expect(describe_task(make_record().spec)) == DEFAULT


def test_an_attempt_counts_once_however_often_it_is_seen(recorder, history, errors, make_record):
    """Its end is told twice: by the exit, and by the end of the upload."""
    for _ in range(10):
        recorder.learn(make_record(1000, fence=1, waited=60))
    for fence in range(2, 5):
        recorder.learn(make_record(10, fence=fence))

    assert history.expect(describe_task(make_record().spec)).p50_seconds == 10
    assert errors.summarise().count == 1


def test_a_start_is_held_against_what_was_first_expected_of_it(recorder, errors, make_record):
    recorder.learn(make_record(fence=1, waited=100, late=-50))
    recorder.learn(make_record(fence=2, waited=100, late=99))
    recorder.learn(make_record(fence=3, waited=100, late=101))

    summary = errors.summarise()
    assert summary.count == 3
    assert summary.covered_p90 == pytest.approx(2 / 3)
    assert summary.covered_p50 == pytest.approx(1 / 3)
    assert summary.median_error_seconds == 99


def test_a_start_counts_when_the_container_runs_and_not_before(recorder, errors, make_record):
    record = make_record(waited=100, running_at=None, exited_at=None, outcome=None)
    recorder.learn(record)
    assert errors.summarise().count == 0

    recorder.learn(make_record(waited=100, exited_at=None, outcome=None))

    assert errors.summarise().count == 1


@pytest.mark.parametrize("placement", [None, {}, {"server": "rio", "estimate": None}], ids=str)
def test_what_did_not_wait_says_nothing_of_estimates(recorder, errors, make_record, placement):
    recorder.learn(make_record(placement=placement))

    assert errors.summarise().count == 0


def test_the_past_is_taken_in_as_it_comes_and_the_newest_are_kept(make_record, clock):
    """The store gives the oldest first, without ever holding all of them."""
    history, left = History(limit=3), []

    def read():
        for fence in range(1, 7):
            clock.advance(hours=1)
            left.append(fence)
            yield list_as_entry(make_record(fence * 100, fence=fence))
            assert history.expect(describe_task(make_record().spec)) != DEFAULT

    DurationRecorder(history=history, errors=ErrorLog()).learn_all(read())

    assert left == [1, 2, 3, 4, 5, 6]
    assert history.expect(describe_task(make_record().spec)).p50_seconds == 500


def test_an_attempt_that_two_loops_bring_at_once_counts_once(make_record):
    """The loop of events and the reconciler may both see a pod's end."""

    class Slow(set):
        def __contains__(self, mark):
            is_known = super().__contains__(mark)
            if not others:
                others.append(threading.Thread(target=recorder.learn, args=(record,)))
                others[0].start()
                others[0].join(0.2)  # as long as it gets in between, if it does
            return is_known

    record, others, history = make_record(100, waited=10), [], History()
    errors = ErrorLog()
    recorder = DurationRecorder(history=history, errors=errors)
    recorder._seen = Slow()

    recorder.learn(record)
    others[0].join()

    assert [len(samples) for samples in history._seconds.values()] == [1] * len(history._seconds)
    assert errors.summarise().count == 1


def test_tasks_that_never_ran_are_no_trouble(recorder, make_record):
    tasks = [make_record(running_at=None), make_record(), make_record(fence=0)]
    recorder.learn_all(map(list_as_entry, tasks))


def test_a_task_that_makes_no_sense_teaches_nothing_and_is_told(history, errors, make_record):
    troubles = Troubles()
    recorder = DurationRecorder(history=history, errors=errors, troubles=troubles)
    odd = make_record(task_id="i7").dump() | {"running_at": "soon"}

    recorder.learn_all([TaskEntry.parse(odd, EndedTask), list_as_entry(make_record(90))])

    assert history.expect(describe_task(make_record().spec)).p50_seconds == 90
    (trouble,) = troubles.summarise()
    assert (trouble.what, trouble.item) == ("learn from", "s-1/i7")
