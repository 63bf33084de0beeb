"""Runs that pages start for a user, on each database."""

from __future__ import annotations

import threading

import pytest
from airflow.exceptions import ParamValidationError

from touchstone.airflow_db import starting
from touchstone.airflow_db.starting import StartedRun, find_started_run, start_run
from touchstone.services.sending import RunTaken, Sender
from touchstone_agent.protocol.errors import ConfigurationError, TransientError

CONF = {"submission_id": "s-1", "intervals": "1,5"}


def test_a_run_is_started_once_for_its_user(with_dag):
    assert find_started_run("s-1--2") is None
    assert start_run("s-1--2", CONF, by="ann")

    assert find_started_run("s-1--2") == StartedRun(user="ann", conf=CONF)
    assert not start_run("s-1--2", CONF, by="ben")
    assert find_started_run("s-1--2").user == "ann"


def test_of_two_at_once_one_is_started(with_dag):
    answers = []
    barrier = threading.Barrier(2)

    def start():
        barrier.wait()
        answers.append(start_run("s-1--2", CONF, by="ann"))

    threads = [threading.Thread(target=start) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(answers) == [False, True]


def test_the_same_again_is_sent_and_anything_else_is_refused(with_dag):
    sender = Sender()
    sender.send("s-1--2", CONF, by="ann")
    sender.send("s-1--2", CONF, by="ann")

    for conf, user in ((CONF | {"seed": 1}, "ann"), (CONF, "ben")):
        with pytest.raises(RunTaken, match="run_id: s-1--2 was started"):
            sender.send("s-1--2", conf, by=user)
    assert sender.choose_run_id(["s-1--2", "s-1--3"]) == "s-1--3"


def test_a_conf_that_airflow_refuses_starts_nothing(with_dag, monkeypatch):
    def refuse(*arguments, **options):
        raise ParamValidationError("Invalid input for param seed: -1 is too small\n\nFailed ...")

    monkeypatch.setattr(starting, "trigger_dag", refuse)

    with pytest.raises(ConfigurationError, match=r"seed: -1 is too small$"):
        start_run("s-1--2", CONF, by="ann")


def test_without_the_dag_nothing_is_started(real_airflow):
    with pytest.raises(TransientError, match="has not read the DAG"):
        start_run("s-1--2", CONF, by="ann")
