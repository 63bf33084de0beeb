"""Which server is told the login of a registry, for which pull."""

from __future__ import annotations

import json

import pytest

from fakes.tasks import build_spec, build_task
from touchstone.dispatcher.logins import answer_login, answer_staged_login
from touchstone.settings import Settings
from touchstone_agent.protocol.logins import PullKey
from touchstone_agent.protocol.messages import AttemptRef, PullLoginWanted

IMAGE = f"reg.example/t:1@sha256:{'0' * 64}"
REF = AttemptRef(submission_id="s", task_id="i1", attempt=1, fence=3)
SETTINGS = Settings(env="dev", registry_conn_ids=("images",))


@pytest.fixture(autouse=True)
def connection(monkeypatch):
    connect(monkeypatch)


def connect(monkeypatch, **changes):
    fields = {"conn_type": "docker", "host": "reg.example", "login": "puller", "password": "canary"}
    monkeypatch.setenv("AIRFLOW_CONN_IMAGES", json.dumps(fields | changes))


def build_record(**changes):
    fields = {
        "attempt": 1,
        "fence": 3,
        "server": "box",
        "status": "preparing",
        "phase": "accepted",
        "image": IMAGE,
    }
    return build_task(build_spec(submission_id="s", task_id="i1"), **(fields | changes))


def ask(record, *, server="box", image=IMAGE, key=None, settings=SETTINGS):
    wanted = PullLoginWanted(ref=REF, image=image, public_key=(key or PullKey()).public)
    return answer_login(settings, server, wanted, record)


@pytest.mark.parametrize("phase", [None, "accepted", "preparing"])
def test_the_server_that_has_to_pull_is_told(phase):
    key = PullKey()
    answer = ask(build_record(phase=phase), key=key)

    assert key.open(answer.sealed, server="box", image=IMAGE).password == "canary"
    assert "canary" not in answer.model_dump_json()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"server": "other"}, "this server has no such attempt"),
        ({"attempt": 0}, "this server has no such attempt"),
        ({"fence": 4}, "a newer attempt has taken its place"),
        ({"phase": "running", "status": "running"}, "this attempt needs no image any more"),
        ({"status": "cancelled"}, "this attempt needs no image any more"),
        ({"image": "reg.example/t:1"}, "this attempt runs another image"),
    ],
)
def test_everybody_else_is_told_nothing(changes, problem):
    answer = ask(build_record(**changes))
    assert (answer.sealed, answer.problem) == (None, problem)


def test_a_task_that_is_not_there_has_none():
    assert ask(None).problem == "there is no such task"


def test_another_image_than_that_of_the_record_gets_no_login():
    other = IMAGE.replace("/t:1", "/other:1")
    assert ask(build_record(), image=other).problem == "this attempt runs another image"


@pytest.mark.parametrize("image", ["touchstone-elnigma:cpu", IMAGE.replace("reg", "free")])
def test_where_no_login_is_needed_none_is_given(image):
    answer = ask(build_record(image=image), image=image)
    assert (answer.sealed, answer.problem) == (None, None)


def test_a_connection_that_makes_no_sense_is_told_without_its_password(monkeypatch):
    connect(monkeypatch, login=None)
    answer = ask(build_record())
    assert answer.sealed is None
    assert "connection 'images' has a password and no login" in answer.problem
    assert "canary" not in answer.problem


def test_a_key_that_is_none_brings_nobody_down():
    wanted = PullLoginWanted(ref=REF, image=IMAGE, public_key="no key")
    answer = answer_login(SETTINGS, "box", wanted, build_record())
    assert (answer.sealed, answer.problem) == (None, "the key for a login is none")


def test_a_server_may_pull_what_it_was_asked_to_have():
    key = PullKey()
    wanted = PullLoginWanted(ref=None, image=IMAGE, public_key=key.public)

    answer = answer_staged_login(SETTINGS, "box", wanted, {IMAGE})

    assert key.open(answer.sealed, server="box", image=IMAGE).password == "canary"


@pytest.mark.parametrize("staged", [(), {"other"}])
def test_a_server_may_not_pull_what_nobody_asked_it_to_have(staged):
    wanted = PullLoginWanted(ref=None, image=IMAGE, public_key=PullKey().public)
    answer = answer_staged_login(SETTINGS, "box", wanted, staged)
    assert (answer.sealed, answer.problem) == (None, "this server was not asked to have this image")
