"""Images are pulled before they are needed, if they may run here and are named by content."""

from __future__ import annotations

import threading

import pytest

from touchstone_agent.image_stager import ImageStager
from touchstone_agent.protocol.errors import PermanentError, TransientError
from touchstone_agent.protocol.messages import MAX_STAGED, Stage

from .conftest import AgentWorld


def name(text):
    return f"reg.example/{text}:1@sha256:{'0' * 64}"


@pytest.fixture
def pulled(world: AgentWorld, monkeypatch):
    """Names that were looked for, in order; a pull goes on until it is let go."""
    found = []
    monkeypatch.setattr(
        world.runtime, "resolve_image", lambda image, **_: found.append(image) or "digest"
    )
    return found


@pytest.fixture
def world(tmp_path) -> AgentWorld:
    return AgentWorld(tmp_path, images_allowed=["reg.example/good*"])


def join() -> None:
    for thread in threading.enumerate():
        if thread.name == "staging":
            thread.join()


def test_what_is_allowed_and_named_by_content_is_pulled(world, pulled):
    world.order(Stage(images=(name("good1"), name("bad"), "reg.example/good:1", name("good2"))))
    join()
    assert pulled == [name("good1"), name("good2")]


@pytest.mark.parametrize("error", [TransientError("away"), PermanentError("no"), ZeroDivisionError])
def test_one_that_fails_does_not_keep_the_next_one(world, monkeypatch, error):
    tried = []

    def resolve(image, **_):
        tried.append(image)
        raise error

    monkeypatch.setattr(world.runtime, "resolve_image", resolve)
    for _ in range(2):
        world.order(Stage(images=(name("good1"), name("good2"))))
        join()
    assert tried == [name("good1"), name("good2")] * 2


def test_they_are_pulled_one_after_the_other_and_not_twice(world, monkeypatch):
    tried, go = [], threading.Event()

    def resolve(image, **_):
        tried.append(image)
        go.wait()
        return "digest"

    monkeypatch.setattr(world.runtime, "resolve_image", resolve)
    stager = ImageStager(world.context, allows=lambda _: True)
    names = [name(f"good{number}") for number in range(MAX_STAGED + 5)]
    stager.stage(names[:1])
    stager.stage(names)
    stager.stage(names)
    go.set()
    join()
    assert tried == names[:MAX_STAGED]


def test_an_agent_that_leaves_begins_no_other(world, monkeypatch):
    tried = []

    def resolve(image, **_):
        tried.append(image)
        world.context.stopping.set()
        return "digest"

    monkeypatch.setattr(world.runtime, "resolve_image", resolve)
    world.order(Stage(images=(name("good1"), name("good2"))))
    join()
    assert tried == [name("good1")]
