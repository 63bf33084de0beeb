"""What is learnt from records: how long tasks take, and how good estimates were."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest

from touchstone.core.durations import DEFAULTS, ErrorLog, History, describe_task
from touchstone.dispatcher.learning import Learner
from touchstone_agent.protocol.messages import SlotClass

DEFAULT = DEFAULTS[SlotClass.TRAINING]


@pytest.fixture
def history():
    return History()


@pytest.fixture
def errors():
    return ErrorLog()


@pytest.fixture
def learner(history, errors):
    return Learner(history=history, errors=errors)


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
        return {
            "submission_id": "s-1",
            "task_id": task_id,
            "kind": "training",
            "fence": fence,
            "config": {"system": "feature_set", "interval": 5},
            "running_at": began.isoformat(),
            "exited_at": (began + timedelta(seconds=seconds)).isoformat(),
            "outcome": outcome,
            "placement": {"server": "rio", "estimate": estimate},
            **changes,
        }

    return make


def test_like_tasks_are_expected_to_take_as_long_as_those_that_ended(learner, history, make_record):
    for fence in range(1, 6):
        learner.learn(make_record(60 + fence, fence=fence))

    assert history.expect(describe_task(make_record())).p50_seconds == 63


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
def test_only_what_ended_well_tells_how_long_tasks_take(learner, history, make_record, changes):
    learner.learn(make_record(1, **changes))

    assert history.expect(describe_task(make_record())) == DEFAULT


def test_an_attempt_counts_once_however_often_it_is_seen(learner, history, errors, make_record):
    """Its end is told twice: by the exit, and by the end of the upload."""
    for _ in range(10):
        learner.learn(make_record(1000, fence=1, waited=60))
    for fence in range(2, 5):
        learner.learn(make_record(10, fence=fence))

    assert history.expect(describe_task(make_record())).p50_seconds == 10
    assert errors.summarise().count == 1


def test_a_start_is_held_against_what_was_first_expected_of_it(learner, errors, make_record):
    learner.learn(make_record(fence=1, waited=100, late=-50))
    learner.learn(make_record(fence=2, waited=100, late=99))
    learner.learn(make_record(fence=3, waited=100, late=101))

    summary = errors.summarise()
    assert summary.count == 3
    assert summary.covered_p90 == pytest.approx(2 / 3)
    assert summary.covered_p50 == pytest.approx(1 / 3)
    assert summary.median_error_seconds == 99


def test_a_start_counts_when_the_container_runs_and_not_before(learner, errors, make_record):
    record = make_record(waited=100, running_at=None, exited_at=None, outcome=None)
    learner.learn(record)
    assert errors.summarise().count == 0

    learner.learn(make_record(waited=100, exited_at=None, outcome=None))

    assert errors.summarise().count == 1


@pytest.mark.parametrize("placement", [None, {}, {"server": "rio", "estimate": None}], ids=str)
def test_what_did_not_wait_says_nothing_of_estimates(learner, errors, make_record, placement):
    learner.learn(make_record(placement=placement))

    assert errors.summarise().count == 0


def test_the_past_is_taken_in_as_it_comes_and_the_newest_are_kept(make_record, clock):
    """The store gives the oldest first, without ever holding all of them."""
    history, left = History(limit=3), []

    def read():
        for fence in range(1, 7):
            clock.advance(hours=1)
            left.append(fence)
            yield make_record(fence * 100, fence=fence)
            assert history.expect(describe_task(make_record())) != DEFAULT

    Learner(history=history, errors=ErrorLog()).learn_all(read())

    assert left == [1, 2, 3, 4, 5, 6]
    assert history.expect(describe_task(make_record())).p50_seconds == 500


def test_an_attempt_that_two_loops_bring_at_once_counts_once(make_record):
    """The loop of events and the reconciler may both see a pod's end."""

    class Slow(set):
        def __contains__(self, mark):
            is_known = super().__contains__(mark)
            if not others:
                others.append(threading.Thread(target=learner.learn, args=(record,)))
                others[0].start()
                others[0].join(0.2)  # as long as it gets in between, if it does
            return is_known

    record, others, history = make_record(100, waited=10), [], History()
    errors = ErrorLog()
    learner = Learner(history=history, errors=errors)
    learner._seen = Slow()

    learner.learn(record)
    others[0].join()

    assert [len(samples) for samples in history._seconds.values()] == [1] * len(history._seconds)
    assert errors.summarise().count == 1


def test_tasks_that_never_ran_are_no_trouble(learner, make_record):
    learner.learn_all([make_record(running_at=None), make_record(), make_record(fence=0)])
