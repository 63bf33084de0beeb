"""Which servers are asked to have which images, before a slot is free."""

from __future__ import annotations

import pytest

from fakes.placement_world import World
from touchstone.core.staging import AGAIN
from touchstone.dispatcher.staging import ImageStaging
from touchstone.services.control import set_paused
from touchstone.services.troubles import Troubles
from touchstone_agent.protocol.errors import TransientError
from touchstone_agent.protocol.messages import Stage


def name(text):
    return f"reg.example/{text}:1@sha256:{'0' * 64}"


CPU, CUDA, LATER = name("cpu"), name("cuda"), name("later")


@pytest.fixture
def world(monkeypatch):
    return World(monkeypatch.setattr)


def look(world):
    """Let a dispatcher that knows nothing yet look, and return what was asked for since then."""
    world.tick()
    before = len(world.agent.sent)
    ImageStaging(
        records=world.records,
        agent=world.agent,
        view=lambda: world.dispatcher.view,
        clock=world.clock,
        troubles=Troubles(world.clock),
    ).run()
    return {
        server: command.images
        for server, command, _ in world.agent.sent[before:]
        if isinstance(command, Stage)
    }


def fill(world, image=CPU, **spec):
    """One training runs on each server, and others wait."""
    world.submit("s-1", *range(1, 9), image=image, **spec)
    world.settle()


def test_a_busy_server_is_asked_to_have_what_comes_next(world):
    world.add_server("rio")
    fill(world)

    assert look(world) == {"rio": (CPU,)}
    assert list(world.records.find_server("rio").staged_images) == [CPU]


def test_it_is_asked_once_whoever_looks_and_again_after_a_while(world):
    world.add_server("rio")
    fill(world)
    assert look(world)
    assert look(world) == {}
    world.advance(AGAIN.total_seconds() + 1)
    assert look(world) == {"rio": (CPU,)}


def test_each_server_is_asked_for_what_it_would_run(world):
    world.add_server("cpu")
    world.add_server("gpu", vram_gib=24, cuda=True)
    fill(world, image_cuda=CUDA)
    assert look(world) == {"cpu": (CPU,), "gpu": (CUDA,)}


def test_what_no_server_may_run_is_asked_of_none(world):
    world.add_server("rio")
    world.add_server("drained", slots=0)
    world.add_server("silent")
    world.silence("silent")
    fill(world, allowed_hosts=("elsewhere", "drained", "silent"))
    world.advance(3600)
    assert look(world) == {}


def test_an_image_that_is_no_registrys_is_asked_of_nobody(world):
    world.add_server("rio")
    fill(world, image="touchstone-elnigma:cpu")
    assert look(world) == {}
    assert world.records.find_server("rio").staged_images is None


def test_no_more_than_two_are_asked_for_at_a_time(world):
    world.add_server("rio")
    fill(world)
    for number, image in enumerate((CUDA, LATER)):
        world.advance(1)
        world.submit(f"s-{number + 2}", 1, image=image, submitted_by=f"user{number}")
    assert len(look(world)["rio"]) == 2


def test_while_all_is_paused_nothing_is_asked_for(world):
    world.add_server("rio")
    fill(world)
    set_paused(world.records, paused=True, by="ann", reason=None, now=world.now)
    assert look(world) == {}


def test_a_server_whose_queue_is_away_does_not_keep_the_others(world, monkeypatch):
    world.add_server("a")
    world.add_server("b")
    fill(world)
    send = world.agent.send

    def fail_once(server, command, **options):
        if server == "a":
            raise TransientError("queue")
        return send(server, command, **options)

    monkeypatch.setattr(world.agent, "send", fail_once)
    assert look(world) == {"b": (CPU,)}
    # It was noted before: the head start is lost, and nothing else.
    assert list(world.records.find_server("a").staged_images) == [CPU]
