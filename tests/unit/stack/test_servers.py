"""Which servers a stack has, by what ``up`` was asked for and by what it had."""

from __future__ import annotations

import pytest

from touchstone.stack.agent_config import render_agent_config
from touchstone.stack.configuring import UpOptions, decide_servers
from touchstone.stack.layout import LocalServer, Runtime, parse_servers
from touchstone_agent.protocol.errors import ConfigurationError


def decide(old=None, **options):
    return decide_servers(old, UpOptions(runtime=Runtime.DOCKER, ports={}, **options))


def test_a_first_start_takes_trainings_unless_told_otherwise() -> None:
    [server] = decide()
    assert server.slots >= 2
    assert server.validation_slots == 1


def test_a_stack_may_only_validate() -> None:
    assert decide(slots=0, validation_slots=3) == (
        LocalServer(name="local", slots=0, validation_slots=3),
    )


def test_a_stack_that_only_validates_goes_on_so_until_told_otherwise(record) -> None:
    old = record.model_copy(update={"servers": decide(slots=0, validation_slots=3)})
    assert decide(old) == old.servers
    assert decide(old, slots=2) == (LocalServer(name="local", slots=2, validation_slots=3),)


def test_the_agent_of_a_stack_that_only_validates_takes_no_trainings(paths, record) -> None:
    [server] = decide(slots=0)
    config = render_agent_config(paths, record, server, {})
    assert "\nslots = 0\nvalidation_slots = 1\n" in config


@pytest.mark.parametrize(
    ("environ", "images"),
    [
        ({}, '"touchstone-elnigma:local"'),
        ({"TOUCHSTONE_TRAINER_IMAGE": "mine:1"}, '"mine:1"'),
        (
            {"TOUCHSTONE_TRAINER_IMAGE": "mine:1", "TOUCHSTONE_TRAINER_IMAGE_CUDA": "mine:cuda"},
            '"mine:1", "mine:cuda"',
        ),
        ({"TOUCHSTONE_TRAINER_IMAGE_CUDA": ""}, '"touchstone-elnigma:local"'),
    ],
)
def test_the_agent_of_a_stack_runs_the_stacks_own_trainer_only(
    paths, record, environ, images
) -> None:
    [server] = decide()
    config = render_agent_config(paths, record, server, environ)
    assert f"\nimages_allowed = [{images}]\n" in config


def test_several_servers_may_have_no_training_slots_each() -> None:
    assert [server.slots for server in parse_servers("a=0,b=2")] == [0, 2]
    with pytest.raises(ConfigurationError, match="0 to 64"):
        parse_servers("a=-1")
