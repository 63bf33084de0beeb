"""One id is one run, however often and by whom it is asked for."""

from __future__ import annotations

import pytest

from fakes.sending import FakeRun, FakeRuns
from touchstone.services.sending import RunTaken, Sender
from touchstone_agent.protocol.errors import ConfigurationError

CONF = {"submission_id": "s-1", "intervals": "1,5"}


def test_the_same_again_starts_nothing():
    runs = FakeRuns()
    for _ in range(3):
        runs.build_sender().send("s-1--2", CONF, by="ann")

    assert runs.runs == {"s-1--2": FakeRun(user="ann", conf=CONF)}
    assert runs.tries == 1


@pytest.mark.parametrize(
    ("conf", "user"), [(CONF | {"seed": 1}, "ann"), (CONF, "ben"), ({}, "ann")]
)
def test_another_run_of_that_id_is_refused(conf, user):
    runs = FakeRuns()
    runs.start("s-1--2", CONF, "ann")

    with pytest.raises(RunTaken, match="run_id: s-1--2 was started in the meantime"):
        runs.build_sender().send("s-1--2", conf, by=user)


@pytest.mark.parametrize(("user", "is_same"), [("ann", True), ("ben", False)])
def test_of_two_at_once_the_second_is_the_same_or_is_refused(user, is_same):
    found = iter([None, FakeRun(user="ann", conf=CONF)])
    sender = Sender(find_run=lambda run_id: next(found), start_run=lambda *arguments: False)

    if is_same:
        sender.send("s-1--2", CONF, by=user)
    else:
        with pytest.raises(RunTaken):
            sender.send("s-1--2", CONF, by=user)


def test_the_first_free_id_is_chosen():
    runs = FakeRuns()
    runs.start("s-1--2", CONF, "ann")
    sender = runs.build_sender()

    assert sender.choose_run_id(["s-1--2", "s-1--3", "s-1--4"]) == "s-1--3"
    with pytest.raises(ConfigurationError, match="submission_id: s-1--2 has too many runs"):
        sender.choose_run_id(["s-1--2"])
